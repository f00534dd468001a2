systemd-sysusers hostbadge.conf || :
units="hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket hostbadged.service"
if [ "$1" -eq 1 ]; then
    # shellcheck disable=SC2086 # a list of words
    systemctl --no-reload preset $units >/dev/null 2>&1 || :
fi
if [ -d /run/systemd/system ]; then
    journalctl --update-catalog || :
    systemctl daemon-reload || :
    for unit in $units; do
        [ "$1" -ne 1 ] || ! systemctl --quiet is-enabled "$unit" || systemctl start "$unit" || :
    done
fi
