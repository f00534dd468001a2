# On an upgrade the old daemon runs until postun restarts it.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket hostbadged.service || :
    systemctl --no-reload disable --now hostbadge-metrics.timer hostbadge-selftest.timer || :
    systemctl stop hostbadge-reader.socket || :
    # An administrator may have enabled it.
    systemctl --no-reload --quiet disable --now hostbadge-alert.socket || :
fi
