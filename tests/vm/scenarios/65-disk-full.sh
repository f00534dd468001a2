# A full audit disk: nothing is issued, responses and status say why, and free space is enough to recover.

need hostbadge
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload

say "A small file system for the audit log"
systemctl stop hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket hostbadged.service
mount -t tmpfs -o size=256k,mode=700,uid=hostbadge,gid=hostbadge tmpfs /var/log/hostbadge/audit
systemctl start hostbadged.service
wait_for "the issuer" hostbadge status
as bin hostbadge token "$audience" >/dev/null

say "The file system is full"
cat /dev/zero >/var/log/hostbadge/audit/ballast 2>/dev/null || true
stopped() { ! as bin hostbadge token "$audience" >/dev/null; }
wait_for "a refusal" stopped
refused as bin hostbadge token "$audience"
says "No space left on device"
refused hostbadge status
says "No space left on device"
expect audit-failed journalctl -t hostbadged -o json --no-pager

say "There is space again"
rm /var/log/hostbadge/audit/ballast
wait_for "a token" as bin hostbadge token "$audience"
expect "ok" sh -c "hostbadge status | grep '^status *ok'"

systemctl stop hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket hostbadged.service
umount /var/log/hostbadge/audit
systemctl start hostbadged.service
rm /etc/hostbadge/agents.d/steady.toml
wait_for "the issuer" hostbadge status
show hostbadge agent reload --allow-empty
