# On an upgrade the old daemon runs until postun restarts it.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    # What an administrator may have enabled or started: first, since it asks the daemon.
    for unit in hostbadge-alert.socket hostbadge-metrics.timer hostbadge-selftest.timer; do
        systemctl --no-reload --quiet disable --now "$unit" || :
    done
    for unit in hostbadge-metrics.service hostbadge-selftest.service hostbadge-hygiene.service; do
        systemctl stop "$unit" || :
    done
    systemctl --no-reload disable --now hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket hostbadged.service || :
    systemctl stop hostbadge-reader.socket || :
fi
