# Runs after an upgrade, when the old files are gone. Sockets stay open: connections wait in their queues.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        systemctl try-restart hostbadged.service || :
    fi
fi
