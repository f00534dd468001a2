# An upgrade refuses no request, and keeps state and configuration. Removal keeps the state, purging deletes it.
# limit: 300 s

need hostbadge
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
sed -i 's|^# trust_domain.*|trust_domain = "vm.example.org"|' /etc/hostbadge/hostbadged.toml
systemctl restart hostbadged.service
wait_for "the issuer" hostbadge status
hostbadge export jwks -o /root/jwks-before.json

say "The same programs as the next version"
dpkg-deb -R "$vm/hostbadge.deb" /root/next
sed -i 's/^Version: .*/Version: 99.0-1/' /root/next/DEBIAN/control
dpkg-deb -Znone -b /root/next /root/next.deb

say "Callers are served during the upgrade"
cat >/root/load <<'LOAD'
while [ ! -e /root/enough ]; do
    curl -sS --max-time 60 -o /root/answer -w '%{http_code}\n' --unix-socket /run/hostbadge/agent.sock \
        -d audience=https://api.example.com http://localhost/v1/token || echo "not answered: $?"
done
LOAD
chmod 1777 /root && touch /root/answers && chmod 666 /root/answers
as bin bash /root/load >/root/answers 2>&1 &
load=$!
before=$(systemctl show -P MainPID hostbadged.service)
show apt-get install -y -q -o Dpkg::Use-Pty=0 /root/next.deb
[ "$(systemctl show -P MainPID hostbadged.service)" != "$before" ] || fail "the daemon was not restarted"
lines=$(wc -l </root/answers)
more() { [ "$(wc -l </root/answers)" -gt $((lines + 5)) ]; }
wait_for "answers of the new daemon" more
touch /root/enough
wait "$load" || true
chmod 700 /root
sort /root/answers | uniq -c
[ "$(sort -u /root/answers)" = 200 ] || fail "a request was refused"

say "State and configuration are unchanged"
expect "vm.example.org" hostbadge status
hostbadge export jwks -o /root/jwks-after.json
show cmp /root/jwks-before.json /root/jwks-after.json

say "Removal keeps the state"
show apt-get remove -y -q -o Dpkg::Use-Pty=0 hostbadge
[ -e /var/lib/hostbadge/tpm.json ] || fail "the state is gone"
[ -e /etc/hostbadge/hostbadged.toml ] || fail "the configuration is gone"
refused systemctl is-active hostbadged.service
[ ! -e /run/hostbadge/agent.sock ] || fail "the socket is left behind"

say "After another installation it is the same host"
show apt-get install -y -q -o Dpkg::Use-Pty=0 /root/next.deb
wait_for "the issuer" hostbadge status
hostbadge export jwks -o /root/jwks-after.json
show cmp /root/jwks-before.json /root/jwks-after.json

say "Purging deletes the state"
show apt-get purge -y -q -o Dpkg::Use-Pty=0 hostbadge
[ ! -e /var/lib/hostbadge ] || fail "state is left behind"
[ ! -e /var/log/hostbadge ] || fail "the audit log is left behind"
expect "0 loaded units" systemctl list-units --failed
