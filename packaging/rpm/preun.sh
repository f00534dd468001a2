# On an upgrade the daemon goes on until the new one is there.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now hostbadge-agent.socket hostbadge-workload.socket hostbadge-admin.socket hostbadged.service || :
fi
