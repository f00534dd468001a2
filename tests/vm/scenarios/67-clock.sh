# The clock is set back and forward again: tokens are issued, with the time of the host's clock.

need hostbadge
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
issued_at() { cut -d. -f2 | tr -- '-_' '+/' | { base64 -d 2>/dev/null || true; } | jq .iat; }

show date -s '-1 hour'
# iat is 10 s before the issue.
before=$(($(date +%s) - 10))
iat=$(as bin hostbadge token "$audience" | issued_at)
[ "$iat" -ge "$before" ] && [ "$iat" -le "$(($(date +%s) - 10))" ] || fail "issued at $iat, asked at $before"
# Keys were made in the hour that is in the future now, if the clock is right now.
refused hostbadge status
says "if it is right now: hostbadge clock accept"
show date -s '+1 hour'
as bin hostbadge token "$audience" >/dev/null
wait_for "the daemon to see the clock" hostbadge status
expect "ok" sh -c "hostbadge status | grep '^status *ok'"
rm /etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload --allow-empty
