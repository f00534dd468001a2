# A container is given the socket by a bind mount; what is in it is told apart as the host sees it.

need hostbadge
cat >/etc/hostbadge/agents.d/contained.toml <<'TOML'
name = "contained"
[match]
unit = "contained.service"
TOML
show hostbadge agent reload

contained() {
    systemd-run --quiet --wait --pipe --collect --unit=contained.service \
        unshare --mount --pid --fork --mount-proc --uts --ipc bash -c "$1"
}
say "In mount, pid, uts and ipc namespaces of its own, with the socket at another place"
expect "contained" contained "
    mkdir -p /tmp/inside && mount -t tmpfs none /tmp/inside && touch /tmp/inside/sock &&
    mount --bind /run/hostbadge/agent.sock /tmp/inside/sock &&
    hostbadge --socket /tmp/inside/sock whoami"

say "Root of a user namespace is the user that made it"
refused as nobody unshare --user --map-root-user hostbadge whoami
says "uid 65534"
refused as nobody unshare --user --map-root-user hostbadge status
rm /etc/hostbadge/agents.d/contained.toml
show hostbadge agent reload
