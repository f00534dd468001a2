# apt installs the package, whose service runs without configuration and without agents.

say "One command installs and starts it"
show apt-get install -y -q -o Dpkg::Use-Pty=0 "$vm/hostbadge.deb"
expect active systemctl is-active hostbadged.service hostbadge-agent.socket hostbadge-workload.socket hostbadge-credentials.socket hostbadge-metrics.socket hostbadge-admin.socket
expect "enabled" systemctl is-enabled hostbadged.service

say "It has a host ID and no agents"
wait_for "the issuer" hostbadge status
expect "TPM               ready" hostbadge status
expect "agents            0" hostbadge status
refused as nobody hostbadge token https://api.example.com
says "no registered agent matches this process"

say "It runs as its own user without capabilities, and its files are private"
pid=$(systemctl show -P MainPID hostbadged.service)
expect hostbadge ps -o user= -p "$pid"
expect 0000000000000000 grep CapEff "/proc/$pid/status"
expect 0000000000000000 grep CapBnd "/proc/$pid/status"
expect "NoNewPrivs:	1" grep NoNewPrivs "/proc/$pid/status"
expect "hostbadge 700" stat -c '%U %a' /var/lib/hostbadge
expect "hostbadge 700" stat -c '%U %a' /var/log/hostbadge/audit
[ "$(awk '/^VmLck/ { print $2 }' "/proc/$pid/status")" -gt 0 ] || fail "its memory is not locked"
expect "root hostbadge-admin 660" stat -c '%U %G %a' /run/hostbadge/admin.sock
expect "root root 666" stat -c '%U %G %a' /run/hostbadge/agent.sock
refused as nobody cat /var/lib/hostbadge/issuing.json
refused as nobody hostbadge status

say "systemd-analyze rates its exposure at most 1.2"
exposure=$(systemd-analyze security --no-pager hostbadged.service | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
echo "exposure $exposure"
awk -v e="$exposure" 'BEGIN { exit !(e <= 1.2) }' || fail "exposure $exposure is above 1.2"

say "The journal has an explained entry of the start"
expect "serves /run/hostbadge" journalctl -t hostbadged -o cat
expect "Subject: hostbadged started" journalctl -x -t hostbadged

say "Manual pages and completions are installed"
for page in "1 hostbadge" "1 hostbadge-token" "5 hostbadged.toml" "5 hostbadge-agents" "8 hostbadged"; do
    # shellcheck disable=SC2086 # a section and a name
    [ -f "$(man -w $page)" ] || fail "no page $page"
done
bash -c 'source /usr/share/bash-completion/completions/hostbadge && complete -p hostbadge'
