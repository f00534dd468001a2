# A program on a file system that does not answer holds up neither other callers nor the end of the service.
# limit: 400 s

need hostbadge
modprobe -a fuse overlay
mkdir -p /etc/systemd/system/hostbadged.service.d
cp /usr/share/hostbadge/executables.conf /etc/systemd/system/hostbadged.service.d/
digest=$(sha256sum /usr/bin/curl | cut -d' ' -f1)
for agent in slow:games quick:daemon; do
    cat >"/etc/hostbadge/agents.d/${agent%:*}.toml" <<TOML
name = "${agent%:*}"
[match]
user = "${agent#*:}"
exe_sha256 = "$digest"
TOML
done
systemctl daemon-reload
systemctl restart hostbadged.service

# run_served NAME UID COMMAND…: COMMAND executes curl from an overlay on a FUSE file system, whose server does
# not answer an open from then on. curl reads its URL from a pipe, and so connects afterwards.
run_served() {
    local dir=/run/served/$1 uid=$2
    shift 2
    mkdir -p "$dir"
    chmod 777 "$dir"
    mkfifo -m 666 "$dir/config"
    "$@" python3 "$vm/fuse_server.py" "$dir" "$uid" merged /usr/bin/curl -sS --max-time 60 -K "$dir/config" \
        >"$dir/answer" 2>&1 3>&- &
    {
        touch "$dir/armed"
        printf 'unix-socket = "/run/hostbadge/agent.sock"\nurl = "http://localhost/v1/whoami"\n'
    } >"$dir/config"
}
whoami_of() { as "$1" curl -sS --max-time 20 --unix-socket /run/hostbadge/agent.sock http://localhost/v1/whoami; }
readers() { systemctl list-units --all --no-legend 'hostbadge-reader@*'; }
no_readers() { [ -z "$(readers)" ]; }

say "A user's own file system is not asked, and delays no other caller"
for number in 1 2 3 4; do
    run_served "stranger-$number" 0 as nobody unshare --user --map-root-user --mount
done
for number in 1 2 3 4; do
    wait_for "an answer" grep -q invalid_client "/run/served/stranger-$number/answer"
done
run_served own 0 as games unshare --user --map-root-user --mount
wait_for "a refusal" grep -F "(overlay) that was mounted in another user namespace" /run/served/own/answer
refused grep OPEN /run/served/*/requests
expect ok hostbadge status

say "An executable is read by a unit of its own"
expect '"quick"' whoami_of daemon
expect "$digest" whoami_of daemon
wait_for "the end of the readers" no_readers

say "One that cannot be read delays no other agent, and not the end of the service"
run_served hung "$(id -u games)" unshare --mount
wait_for "the reader" grep -q OPEN /run/served/hung/requests
cp /usr/bin/curl /usr/local/bin/curl-copy
expect '"quick"' as daemon /usr/local/bin/curl-copy -sS --max-time 20 --unix-socket /run/hostbadge/agent.sock \
    http://localhost/v1/whoami
expect ok hostbadge status
expect "Reader of an executable" readers
wait_for "the refusal" grep -E "takes longer than 10 s|could not be read in time" /run/served/hung/answer
run_served again "$(id -u games)" unshare --mount
wait_for "another refusal" grep "the next one is read in" /run/served/again/answer
run_served last "$(id -u daemon)" unshare --mount
wait_for "another reader" grep -q OPEN /run/served/last/requests
before=$SECONDS
systemctl stop hostbadged.service
# systemd waits 90 s for a process that does not end.
((SECONDS - before < 60)) || fail "the stop took $((SECONDS - before)) s"
systemctl start hostbadged.service
expect '"quick"' whoami_of daemon
wait
wait_for "the end of the readers" no_readers

rm -r /etc/systemd/system/hostbadged.service.d /etc/hostbadge/agents.d/{slow,quick}.toml /usr/local/bin/curl-copy
systemctl daemon-reload
systemctl restart hostbadged.service
