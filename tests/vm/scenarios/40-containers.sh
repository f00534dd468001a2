# A container gets the socket by a bind mount; its processes are identified as the host sees them.

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
say "In its own mount, PID, UTS and IPC namespaces, with the socket at another path"
expect "contained" contained "
    mkdir -p /tmp/inside && mount -t tmpfs none /tmp/inside && touch /tmp/inside/sock &&
    mount --bind /run/hostbadge/agent.sock /tmp/inside/sock &&
    hostbadge --socket /tmp/inside/sock whoami"

say "Root of a user namespace is the user that created it"
refused as nobody unshare --user --map-root-user hostbadge whoami
says "uid 65534"
refused as nobody unshare --user --map-root-user hostbadge status
rm /etc/hostbadge/agents.d/contained.toml
show hostbadge agent reload --allow-empty
