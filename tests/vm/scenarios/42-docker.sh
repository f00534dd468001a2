# Containers of Docker: by id, with cgroups by systemd, and by Docker itself.
# limit: 900 s

# No network in the machine, and none of Docker's.
mkdir -p /etc/docker
printf '{ "bridge": "none", "iptables": false, "ip6tables": false }\n' >/etc/docker/daemon.json
need hostbadge docker.io
# A part of docker.io in Debian 12.
! apt-cache show docker-cli >/dev/null 2>&1 || need docker-cli
wait_for "Docker" docker version
agents=/etc/hostbadge/agents.d
socket=/run/hostbadge/agent.sock

register() { printf 'name = "%s"\n[match]\n%s\n' "$1" "$2" >"$agents/$1.toml"; }

container_files /srv/docker-image
tar -C /srv/docker-image -c . | docker import - agent:1

# container NAME: creates one that runs on, and prints its id. The machine has no profiles of AppArmor.
container() {
    docker create --name "$1" --network none --security-opt apparmor=unconfined -v $socket:$socket \
        agent:1 sleep infinity
}

say "With cgroups by systemd, the default"
id=$(container one)
container other
register docked "container = \"$id\""
show hostbadge agent reload
docker start one other
expect "docker-$id.scope" cat "/proc/$(docker inspect --format '{{.State.Pid}}' one)/cgroup"
expect "docked" docker exec one hostbadge whoami
expect "docked" docker exec --user 1234 one hostbadge whoami
expect "$id" docker exec one hostbadge whoami --json
refused docker exec other hostbadge whoami
says "no registered agent matches"

say "A restarted container is the same, and one that is created again is not"
docker restart --time 1 one
expect "docked" docker exec one hostbadge whoami
docker rm --force one
container one
docker start one
refused docker exec one hostbadge whoami
docker rm --force one other

say "With cgroups by Docker itself"
printf '{ "bridge": "none", "iptables": false, "ip6tables": false, "exec-opts": ["native.cgroupdriver=cgroupfs"] }\n' \
    >/etc/docker/daemon.json
systemctl restart docker.service
wait_for "Docker" docker version
id=$(container one)
container other
register docked "container = \"$id\""
show hostbadge agent reload
docker start one other
expect "/docker/$id" cat "/proc/$(docker inspect --format '{{.State.Pid}}' one)/cgroup"
expect "docked" docker exec one hostbadge whoami
refused docker exec other hostbadge whoami

docker rm --force one other
systemctl stop docker.socket docker.service containerd.service
systemctl disable docker.socket docker.service containerd.service
rm "$agents/docked.toml"
show hostbadge agent reload --allow-empty
