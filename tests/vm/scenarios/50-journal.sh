# The journal has the history of each agent and explained entries, and no secrets.

need hostbadge
audience=https://api.example.com
printf 'name = "writer"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/writer.toml
show hostbadge agent reload

say "The history of an agent, by its name"
for _ in 1 2 3; do as bin hostbadge token "$audience" >>/root/tokens; done
refused as bin hostbadge token https://bank.example.com
history() { journalctl -t hostbadged HOSTBADGE_AGENT=writer -o json --no-pager; }
four() { [ "$(history | jq -s length)" -ge 4 ]; }
wait_for "four entries" four
expect token-issued history
says "$audience"
says '"HOSTBADGE_REASON":"invalid_target"'
for field in MESSAGE_ID HOSTBADGE_EVENT HOSTBADGE_AUDIENCE HOSTBADGE_JTI HOSTBADGE_PEER_PID HOSTBADGE_PEER_UID; do
    says "\"$field\""
done

say "Each kind of entry is explained in the catalog"
journalctl -t hostbadged -o json --no-pager | jq -r 'select(.MESSAGE_ID) | .MESSAGE_ID' | sort -u >/root/kinds
[ "$(wc -l </root/kinds)" -ge 4 ]
while read -r kind; do
    expect "Defined-By: hostbadge" journalctl --dump-catalog "$kind"
done </root/kinds

say "No field of any entry has a secret, nor has the audit log"
journalctl -o export --no-pager -a >/root/journal
while IFS=. read -r head claims signature; do
    for part in "$claims" "$signature"; do
        ! grep -qF "$part" /root/journal || fail "a token is in the journal"
        ! grep -qrF "$part" /var/log/hostbadge || fail "a token is in the audit log"
    done
    [ -n "$head" ]
done </root/tokens
jq -r '.. | objects | .key?, .private? | strings' /var/lib/hostbadge/*.json >/root/secrets
[ "$(wc -l </root/secrets)" -ge 4 ] || fail "the state files have too few keys"
while read -r secret; do
    ! grep -qF "$secret" /root/journal || fail "a key is in the journal"
    ! grep -qrF "$secret" /var/log/hostbadge || fail "a key is in the audit log"
done </root/secrets

say "A restart of journald does not delay tokens"
systemctl restart systemd-journald.service
as bin hostbadge token "$audience" >>/root/tokens
five() { [ "$(history | jq -s length)" -ge 5 ]; }
wait_for "the fifth entry" five
rm /etc/hostbadge/agents.d/writer.toml
show hostbadge agent reload --allow-empty
