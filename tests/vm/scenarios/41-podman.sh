# Containers of Podman: by the id of one that root created, by a unit with --cgroups=split, and one that a user runs.
# limit: 900 s

need hostbadge netavark podman crun uidmap
audience=https://api.example.com
agents=/etc/hostbadge/agents.d
socket=/run/hostbadge/agent.sock
modprobe overlay
mkdir -p /etc/containers
printf '[network]\nnetwork_backend = "netavark"\n' >/etc/containers/containers.conf

register() {
    printf 'name = "%s"\n[match]\n%s\n[[grant]]\naudience = "%s"\nttl = "1h"\n' "$1" "$2" "$audience" \
        >"$agents/$1.toml"
}
introspect() {
    as daemon curl -sS --unix-socket $socket -d "token=$1" http://localhost/v1/introspect
}

say "An image without a registry: busybox, and the command with its libraries"
container_files /srv/image
tar -C /srv/image -cf /var/tmp/agent.tar .
chmod 644 /var/tmp/agent.tar
show podman import -q /var/tmp/agent.tar agent:1
# container NAME: creates one that runs on, and prints its id.
container() {
    podman create --name "$1" --network none -v $socket:$socket agent:1 sleep infinity
}
container_in() { podman exec "$@"; }

say "The processes of one container are the agent, whatever their user, and those of another are not"
id=$(container one)
container other >/root/other-id
register contained "container = \"$id\""
register reader 'user = "daemon"'
show hostbadge agent reload
expect "container alone admits the processes of every user" hostbadge agent check
podman start one other
expect "contained" container_in one hostbadge whoami
expect "contained" container_in --user guest one hostbadge whoami
expect "$id" container_in one hostbadge whoami --json
refused container_in other hostbadge whoami
says "no registered agent matches"
refused hostbadge whoami
show hostbadge agent why "$(podman inspect --format '{{.State.Pid}}' one)"
says "$id, created by root"
show hostbadge agent why "$(podman inspect --format '{{.State.Pid}}' other)"
says "$(cat /root/other-id), created by root"

say "A user beside the container"
register contained "container = \"$id\"
user = 1234"
show hostbadge agent reload
expect "contained" container_in --user guest one hostbadge whoami
refused container_in one hostbadge whoami

say "Root of a user namespace in the container is not root"
register contained "container = \"$id\"
user = 0"
show hostbadge agent reload
expect "contained" container_in one hostbadge whoami
mapped=$(podman create --name mapped --network none --uidmap 0:200000:1000 -v $socket:$socket agent:1 sleep infinity)
register mapped "container = \"$mapped\"
user = 0"
register mapped-uid "container = \"$mapped\"
user = 200000"
show hostbadge agent reload
podman start mapped
expect "mapped-uid" container_in mapped hostbadge whoami

say "What a container got ends with it, and one that is created again is another"
token=$(podman exec one hostbadge token $audience)
expect '"active":true' introspect "$token"
podman stop --time 1 one
inactive() { introspect "$token" | grep -q '"active":false'; }
timeout=10 wait_for "the end of its token" inactive
podman start one
expect "contained" container_in one hostbadge whoami
podman rm --force --time 1 one
new=$(container one)
[ "$new" != "$id" ] || fail "the same id"
podman start one
refused container_in one hostbadge whoami

say "A container in a unit of its own matches by the unit, also when it is created again"
register split 'unit = "split.service"'
show hostbadge agent reload
in_unit() {
    systemd-run --quiet --wait --pipe --collect --unit="$1" -p Delegate=yes \
        podman run --rm --cgroups=split --network none -v $socket:$socket agent:1 hostbadge whoami
}
expect "split" in_unit split.service
expect "split" in_unit split.service
refused in_unit other.service

say "A container of a user counts for agents of that user only"
useradd --create-home --shell /bin/bash person 2>/dev/null || true
loginctl enable-linger person
wait_for "the user's manager" as person systemctl --user is-system-running
# In a unit of the user's manager, which leaves Podman's monitor of a container behind.
of_person() { as person systemd-run --user --quiet --wait --pipe --collect -p KillMode=process podman "$@"; }
show of_person import -q /var/tmp/agent.tar agent:1
own=$(of_person create --name own --network none -v $socket:$socket agent:1 sleep infinity)
register of-person "container = \"$own\"
user = \"person\""
register by-id "container = \"$own\""
show hostbadge agent reload
of_person start own
expect "of-person" of_person exec own hostbadge whoami
expect "/user@$(id -u person).service/" cat "/proc/$(of_person inspect --format '{{.State.Pid}}' own)/cgroup"
show hostbadge agent why "$(of_person inspect --format '{{.State.Pid}}' own)"
says "who can give it any id"
says "no stronger than user, unless root created it"
refused of_person exec --user guest own hostbadge whoami
rm "$agents/of-person.toml"
show hostbadge agent reload
refused of_person exec own hostbadge whoami

say "The user can give any program the id, and so is the agent of the user, and never one of root's containers"
register of-person "container = \"$own\"
user = \"person\""
register contained "container = \"$new\""
show hostbadge agent reload
expect "contained" container_in one hostbadge whoami
of_person stop --time 1 own
named() {
    as person systemd-run --user --quiet --wait --pipe --collect \
        systemd-run --user --quiet --scope --collect --unit="libpod-$1.scope" hostbadge whoami
}
expect "of-person" named "$own"
refused named "$new"
says "no registered agent matches"

podman rm --force --time 1 one other mapped
of_person rm --force --time 1 own
loginctl disable-linger person
# Debian's package has Podman run at each boot.
systemctl disable podman-restart.service podman-auto-update.service podman-auto-update.timer
rm "$agents"/{contained,reader,mapped,mapped-uid,split,of-person,by-id}.toml
show hostbadge agent reload --allow-empty
