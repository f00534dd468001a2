# LoadCredential= from hostbadge: plain services, dynamic users, a user's manager, and a moved environment file.
# limit: 300 s

need hostbadge
socket=/run/hostbadge/credentials.sock
agents=/etc/hostbadge/agents.d
# agent NAME CONDITIONS CREDENTIAL…
agent() {
    local name=$1 conditions=$2 credential
    shift 2
    {
        printf 'name = "%s"\n[match]\n%s\n' "$name" "$conditions"
        for credential; do printf '[[credential]]\nname = "%s"\nuse = "release"\n' "$credential"; done
    } >"$agents/$name.toml"
}
# Runs a command as a unit that loads a credential: loads UNIT CREDENTIAL PROPERTY… -- COMMAND…
loads() {
    local unit=$1 credential=$2
    shift 2
    systemd-run --quiet --wait --pipe --collect --unit="$unit" -p "LoadCredential=$credential:$socket" "$@"
}
read_value() { printf '%s' "cat \"\$CREDENTIALS_DIRECTORY/$1\""; }

useradd --system researcher 2>/dev/null || true
groupadd --system readers 2>/dev/null || true
printf 'sk-of-the-unit' | hostbadge credential put unit-key
printf 'sk-other' | hostbadge credential put other-key
agent plain 'unit = "plain.service"' unit-key
agent with-user 'unit = "with-user.service"
user = "researcher"' unit-key
agent with-group 'unit = "with-group.service"
group = "readers"' unit-key
agent dynamic 'unit = "dynamic.service"' unit-key
agent program 'unit = "program.service"
exe = "/bin/sh"' unit-key
expect "plain" hostbadge agent reload
expect active systemctl is-active hostbadge-credentials.socket
expect "root root 666" stat -c '%U %G %a' "$socket"

say "A service, with and without a user"
expect sk-of-the-unit loads plain.service unit-key sh -c "$(read_value unit-key)"
expect sk-of-the-unit loads with-user.service unit-key -p User=researcher sh -c "$(read_value unit-key)"
expect sk-of-the-unit loads with-group.service unit-key -p User=nobody -p SupplementaryGroups=readers \
    sh -c "$(read_value unit-key)"
expect "loaded by the service manager" journalctl -t hostbadged -b --no-pager -g 'got version 1 of the credential unit-key'

say "A dynamic user"
expect sk-of-the-unit loads dynamic.service unit-key -p DynamicUser=yes sh -c "$(read_value unit-key)"

say "Another user, another unit, another credential and a condition on the program: the unit does not start"
# unstarted REASON UNIT CREDENTIAL…: the journal has the reason.
unstarted() {
    local reason=$1
    shift
    refused loads "$@" sh -c 'echo started'
    [[ $output != *started* ]] || fail "the program was started"
    expect "$reason" journalctl -t hostbadged -b --no-pager -n 1 -g 'refused:'
}
unstarted "no registered agent matches" with-user.service unit-key -p User=nobody
unstarted "no registered agent matches" with-user.service unit-key
unstarted "no registered agent matches" none.service unit-key
unstarted "has no [[credential]] of this name" plain.service other-key
unstarted "conditions on its program" program.service unit-key

say "The address of a forged connection is not believed"
cat >/root/forge.py <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(f"\0f00d/unit/{sys.argv[1]}/{sys.argv[2]}")
s.connect("/run/hostbadge/credentials.sock")
print(f"got {len(s.recv(100))} bytes")
PY
chmod 644 /root/forge.py && cp /root/forge.py /tmp/forge.py
expect "got 0 bytes" as nobody python3 /tmp/forge.py plain.service unit-key
expect "got 0 bytes" python3 /tmp/forge.py plain.service unit-key
expect "got 0 bytes" systemd-run --quiet --wait --pipe --collect --unit=other.service python3 /tmp/forge.py plain.service unit-key

say "A user's manager gets what its user may have"
useradd --create-home --shell /bin/bash person 2>/dev/null || true
loginctl enable-linger person
wait_for "the user's manager" as person systemctl --user is-system-running
agent person 'user = "person"' other-key
show hostbadge agent reload
user_loads() {
    as person systemd-run --user --quiet --wait --pipe --collect --unit=plain.service \
        -p "LoadCredential=$1:$socket" sh -c "$(read_value "$1")"
}
expect sk-other user_loads other-key
refused user_loads unit-key

say "The secrets of an environment file, moved"
printf 'MOVED_KEY="sk-moved value"\n' >/root/agent.env
expect moved-key hostbadge credential import --env-file /root/agent.env --remove
[ ! -e /root/agent.env ] || fail "the file is still there"
agent moved 'unit = "moved.service"' moved-key
show hostbadge agent reload
expect "sk-moved value" loads moved.service moved-key sh -c "MOVED_KEY=\$($(read_value moved-key)); echo \"\$MOVED_KEY\""

say "After a rotation, a restarted unit gets the latest; units that start during a restart of the daemon wait"
printf 'sk-second' | hostbadge credential rotate unit-key
expect sk-second loads plain.service unit-key sh -c "$(read_value unit-key)"
systemctl restart --no-block hostbadged.service
expect sk-second loads plain.service unit-key sh -c "$(read_value unit-key)"

rm -f "$agents"/{plain,with-user,with-group,dynamic,program,person,moved}.toml
for credential in unit-key other-key moved-key; do hostbadge credential rm "$credential"; done
show hostbadge agent reload --allow-empty
