# A self-test finds no hole on an installed host, also in its sandbox, and its timer is off until it is enabled.
# limit: 420 s

need hostbadge
wait_for "the issuer" hostbadge status

say "As root, without an agent"
files() { find /etc/hostbadge /var/lib/hostbadge/ledger.json -type f -exec sha256sum {} + | sort; }
files >/root/before
expect "0 holes: " hostbadge selftest
says "stranger "
says "smuggled-headers "
files | diff /root/before - || fail "the self-test changed the host"
hostbadge selftest --json >/root/selftest.json
# Attempts of an attack that were held.
held() { jq -r --arg attack "$1" '.attempts[] | select(.attack == $attack and .result == "held").attempt' /root/selftest.json; }
for attack in stranger stale-pid exec-race fd-passing foreign-token state-copy audit-copy smuggled-headers; do
    [ -n "$(held "$attack")" ] || fail "$attack: nothing was tried"
done
[[ "$(held stranger)" != *credential* ]] || fail "a credential counts as held, and none is stored"

say "A stranger asks for a credential that is stored"
printf 'sk-selftest' | hostbadge credential put stored
cat >/etc/hostbadge/agents.d/loader.toml <<'TOML'
name  = "loader"
owner = "root"
[match]
unit = "loader.service"
[[credential]]
name = "stored"
use  = "release"
TOML
show hostbadge agent reload
hostbadge selftest --only stranger --json >/root/selftest.json
for socket in agent credentials; do
    [[ "$(held stranger)" == *"credential over the $socket socket"* ]] || fail "$socket socket: not tried"
done
rm /etc/hostbadge/agents.d/loader.toml
show hostbadge agent reload --allow-empty
show hostbadge credential rm stored

say "In its unit, as an agent"
cat >/etc/hostbadge/agents.d/selftest.toml <<'TOML'
name  = "selftest"
owner = "root"
[match]
user = "root"
unit = "hostbadge-selftest.service"
[[grant]]
audience = "urn:hostbadge:selftest"
ttl      = "1m"
TOML
show hostbadge agent reload
result() { journalctl -u hostbadge-selftest.service -o cat --no-pager; }
for run in 1 2; do
    show systemctl start hostbadge-selftest.service || { result && fail "run $run failed"; }
done
expect "0 holes: " result
says "a token, used up twice"
says "one bit of quote/attest"
# The second run compares the state with that of the first. Skipped are the start of another daemon, what the daemon alone
# can compare, credentials where none is stored, and executables where the daemon may not read them.
says "generation "

say "Its timer is off, and an administrator enables it"
[ "$(systemctl is-enabled hostbadge-selftest.timer || true)" = disabled ] || fail "the timer is on"
systemctl enable --now hostbadge-selftest.timer
expect hostbadge-selftest.service systemctl list-timers --no-pager hostbadge-selftest.timer
systemctl disable --now hostbadge-selftest.timer

say "It starts no daemon that was stopped"
show systemctl stop hostbadged.service
show systemctl start hostbadge-selftest.service
refused systemctl is-active hostbadged.service
refused systemctl is-failed hostbadge-selftest.service
show systemctl start hostbadged.service
wait_for "the issuer" hostbadge status

say "The search for secrets fails its unit where there is one"
wait_for "its end" bash -c '[ "$(systemctl show -P ActiveState hostbadge-hygiene.service)" != activating ]'
mkdir -p /srv/left
printf 'API_KEY = "%s"\n' "$(head -c 24 /dev/urandom | base64)" >/srv/left/config
refused systemctl start hostbadge-hygiene.service
expect /srv/left/config journalctl -u hostbadge-hygiene.service -o cat --no-pager
rm -r /srv/left
systemctl reset-failed hostbadge-hygiene.service

say "An altered file in a copy of the state is a hole"
cp -a /var/lib/hostbadge /root/state
printf ' ' >>/root/state/issuing.json
refused hostbadge selftest --only state-copy --state /root/state
says "older or altered: issuing.json"
rm -r /root/state /etc/hostbadge/agents.d/selftest.toml
show hostbadge agent reload --allow-empty
