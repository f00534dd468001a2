# Sub-agents: units of one user, commands in cgroups of their own, for root, for a user and in a unit.
# limit: 300 s

need hostbadge
audience=https://api.example.com
useradd --system researcher 2>/dev/null || true
mkdir -p /run/sub-agents
chown researcher /run/sub-agents
rm -f /run/sub-agents/*
register() {
    printf 'name = "%s"\n[match]\n%s\n[delegate]\nslice = "agents-%s.slice"\n[[grant]]\naudience = "%s"\n' \
        "$1" "$2" "$1" "$audience" >"/etc/hostbadge/agents.d/$1.toml"
    printf 'scopes = ["docs.read", "docs.write"]\n' >>"/etc/hostbadge/agents.d/$1.toml"
}
register researcher 'user = "researcher"
unit = "researcher.service"'
expect "researcher" hostbadge agent reload
slice=/sys/fs/cgroup/agents.slice/agents-researcher.slice
in_slice() {
    systemd-run --quiet --collect --slice=agents-researcher.slice -p User=researcher "$@"
}

say "Two units of one user are two sub-agents of a third one"
cat >/run/sub-agents/work.sh <<'SH'
name=$1
until hostbadge whoami 2>/dev/null | grep -q "sub/$name"; do sleep 0.2; done
hostbadge token https://api.example.com >"/run/sub-agents/$name.token"
hostbadge whoami --json >"/run/sub-agents/$name.json"
for other in fetch.service write.service researcher.service; do
    [ "$other" = "$name.service" ] && continue
    (echo $$ >"/sys/fs/cgroup/agents.slice/agents-researcher.slice/$other/cgroup.procs") 2>/dev/null && echo "$other" >>/run/sub-agents/moved
done
hostbadge whoami --json >"/run/sub-agents/$name.after"
sleep 600
SH
for name in fetch write; do
    in_slice --unit="$name.service" sh /run/sub-agents/work.sh "$name"
done
in_slice --unit=researcher.service sh -c '
    for name in fetch write; do
        hostbadge delegate $name --cgroup /agents.slice/agents-researcher.slice/$name.service --json \
            --grant "https://api.example.com docs.read" >/run/sub-agents/$name.delegation
    done
    hostbadge whoami --json >/run/sub-agents/parent.json
    sleep 600'
wait_for "both to be sub-agents" test -s /run/sub-agents/fetch.after -a -s /run/sub-agents/write.after
for name in fetch write; do
    expect "researcher/sub/$name" jq -r .agent "/run/sub-agents/$name.json"
    expect "researcher/sub/$name" jq -r .agent "/run/sub-agents/$name.after"
    expect "kernel" jq -r .boundary "/run/sub-agents/$name.delegation"
    expect "kernel" jq -r .delegation.boundary "/run/sub-agents/$name.json"
done
expect '"researcher"' jq .agent /run/sub-agents/parent.json
[ ! -e /run/sub-agents/moved ] || fail "a process moved itself to $(cat /run/sub-agents/moved)"
claims=$(cut -d. -f2 /run/sub-agents/fetch.token | tr -- '-_' '+/' | { base64 -d 2>/dev/null || true; })
expect "/agent/researcher/sub/fetch" jq -r .act.sub <<<"$claims"
expect "docs.read" jq -r .scope <<<"$claims"

say "The daemon's restart changes nothing, and the parent's end ends both"
systemctl restart hostbadged.service
printf 'name = "root"\n[match]\nuser = 0\n[delegate]\ndepth = 2\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/root.toml
show hostbadge agent reload
introspect() {
    hostbadge introspect --json <"$1" | jq .active
}
expect true introspect /run/sub-agents/fetch.token
systemctl stop researcher.service
wait_for "the end of the sub-agent" sh -c "hostbadge introspect --json </run/sub-agents/fetch.token | grep -q '\"active\":false'"
expect "sub-agent-ended" hostbadge audit tail --json -n 50
systemctl stop fetch.service write.service

say "A command of root is a sub-agent in a scope of its own"
export OPENAI_API_KEY=sk-0123456789abcdef0123456789
expect "root/sub/job" hostbadge run --as job --file "token=$audience" -- sh -c \
    'cut -d. -f2 "$HOSTBADGE_RUN_DIR/token" | tr -- -_ +/ | base64 -d 2>/dev/null; echo "${OPENAI_API_KEY-removed}"; cat /proc/self/cgroup'
says "hostbadge-run-"
says "removed"
status=0
hostbadge run --quiet --as status -- sh -c 'exit 9' || status=$?
[ "$status" -eq 9 ] || fail "status $status"
ls -d /run/hostbadge-run-* 2>/dev/null && fail "a directory is left"

say "A command of a user is one in a scope of its service manager"
useradd --create-home --shell /bin/bash person 2>/dev/null || true
loginctl enable-linger person
wait_for "the user's manager" as person systemctl --user is-system-running
register person 'user = "person"'
show hostbadge agent reload
expect "person/sub/job" as person hostbadge run --as job -- hostbadge whoami --json
says "cooperative"

say "A unit with Delegate=yes runs commands below its own cgroup"
expect "researcher/sub/job" systemd-run --quiet --wait --pipe --collect --unit=researcher.service -p User=researcher \
    -p Delegate=yes hostbadge run --as job --file "token=$audience" -- sh -c \
    'hostbadge whoami; cat /proc/self/cgroup; ls "$HOSTBADGE_RUN_DIR"'
says "researcher.service/hostbadge-run-"
says "token"
refused systemd-run --quiet --wait --pipe --collect --unit=researcher.service -p User=researcher \
    hostbadge run --as job -- true
says "Delegate=yes"

say "A user whom [run] names starts a command for an agent"
printf '[run]\nusers = ["person"]\n' >>/etc/hostbadge/agents.d/researcher.toml
rm /etc/hostbadge/agents.d/person.toml
show hostbadge agent reload
expect "researcher/sub/run-person" as person hostbadge run --as researcher/sub/run-person -- hostbadge whoami --json
refused hostbadge run --as researcher/sub/run-other -- true
says "no [run] permits uid 0"
refused as games hostbadge run --as researcher/sub/run-other -- true

say "A run inside of a run has a scope beside it"
expect "root/sub/outer/sub/inner" hostbadge run --as outer -- hostbadge run --as inner -- hostbadge whoami --json

say "The time of a start beside systemd-run (not judged)"
seconds() {
    local began=$EPOCHREALTIME
    for _ in 1 2 3 4 5; do "$@"; done
    awk "BEGIN { printf \"%.3f s: %s\n\", ($EPOCHREALTIME - $began) / 5, \"$*\" }"
}
seconds systemd-run --quiet --scope --collect true
seconds hostbadge run --quiet -- true
seconds hostbadge run --quiet --as timed -- true
rm /etc/hostbadge/agents.d/root.toml
show hostbadge agent reload
