# Agents as system services with static and dynamic users, user services, and transient units.
# limit: 300 s

need hostbadge
audience=https://api.example.com
register() {
    printf 'name = "%s"\n[match]\n%s\n[[grant]]\naudience = "%s"\nscopes = ["docs.read"]\n' "$1" "$2" "$audience" \
        >"/etc/hostbadge/agents.d/$1.toml"
}
# Runs `hostbadge whoami` as a unit with these properties.
unit() {
    systemd-run --quiet --wait --pipe --collect "$@" hostbadge whoami
}

useradd --system researcher 2>/dev/null || true
register researcher 'user = "researcher"
unit = "researcher.service"'
register dynamic 'unit = "dynamic.service"'
register grouped 'group = "agents"'
groupadd --system agents 2>/dev/null || true
expect "no faults" hostbadge agent check
expect "researcher" hostbadge agent reload

say "A service with a user"
expect "researcher" unit --unit=researcher.service -p User=researcher
expect "unit researcher.service" unit --unit=researcher.service -p User=researcher
say "The user alone and the unit alone do not match"
refused unit --unit=other.service -p User=researcher
says "no registered agent matches"
refused unit --unit=researcher.service -p User=nobody

say "A service with a dynamic user"
expect "dynamic" unit --unit=dynamic.service -p DynamicUser=yes

say "A transient unit in a group"
expect "grouped" unit -p User=nobody -p SupplementaryGroups=agents

say "A user service with the name of a system service does not match"
useradd --create-home --shell /bin/bash person 2>/dev/null || true
loginctl enable-linger person
wait_for "the user's manager" as person systemctl --user is-system-running
refused as person systemd-run --user --quiet --wait --pipe --collect --unit=dynamic.service hostbadge whoami
says "no registered agent matches"
register person 'user = "person"'
show hostbadge agent reload
expect "person" as person systemd-run --user --quiet --wait --pipe --collect --unit=dynamic.service hostbadge whoami

say "The token has the unit and its invocation, and is verified with the exported key set"
token=$(systemd-run --quiet --wait --pipe --collect --unit=researcher.service -p User=researcher \
    hostbadge token "$audience")
claims=$(cut -d. -f2 <<<"$token" | tr -- '-_' '+/' | { base64 -d 2>/dev/null || true; })
expect researcher.service jq -r .hostbadge.unit <<<"$claims"
[ "$(jq -r '.hostbadge.invocation | length' <<<"$claims")" -eq 32 ] || fail "no invocation in $claims"
hostbadge export jwks -o /root/jwks.json
hostbadge verify token "$token" --jwks /root/jwks.json --audience "$audience"

say "curl gets a token too"
answer=$(systemd-run --quiet --wait --pipe --collect --unit=dynamic.service -p DynamicUser=yes \
    curl -sS --unix-socket /run/hostbadge/agent.sock -d "audience=$audience" http://localhost/v1/token)
expect Bearer jq -r .token_type <<<"$answer"

say "A removed agent is denied"
rm /etc/hostbadge/agents.d/dynamic.toml
show hostbadge agent reload --allow-empty
refused unit --unit=dynamic.service -p DynamicUser=yes
