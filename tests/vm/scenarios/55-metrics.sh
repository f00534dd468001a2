# Metrics: a group that reads them and nothing else, a file for node exporter, and a view over a terminal.

need hostbadge

say "The socket is for its group, whose members get metrics and nothing else"
expect "root hostbadge-metrics 660" stat -c '%U %G %a' /run/hostbadge/metrics.sock
useradd --system --no-create-home --groups hostbadge-metrics monitor
monitor() { as monitor env HOSTBADGE_ADMIN_SOCKET=/run/hostbadge/metrics.sock hostbadge "$@"; }
wait_for "the issuer" hostbadge status
expect 'hostbadge_tpm_state{state="ready"} 1' monitor metrics
expect 'hostbadge_health{state="full"} 1' monitor metrics --format prometheus
refused monitor status
says "access_denied"
refused as monitor hostbadge metrics
says "permission denied"
refused as nobody env HOSTBADGE_ADMIN_SOCKET=/run/hostbadge/metrics.sock hostbadge metrics
says "permission denied"

say "The timer is off; enabled, it has the file written"
refused systemctl is-enabled hostbadge-metrics.timer
[ ! -e /run/hostbadge-metrics ] || fail "there is a file already"
show systemctl enable --now hostbadge-metrics.timer
wait_for "the file" test -e /run/hostbadge-metrics/hostbadge.prom
expect "hostbadge-metrics 644" stat -c '%U %a' /run/hostbadge-metrics/hostbadge.prom
expect "# TYPE hostbadge_requests_total counter" as nobody cat /run/hostbadge-metrics/hostbadge.prom
first=$(grep ^hostbadge_exposition_timestamp /run/hostbadge-metrics/hostbadge.prom)
written_again() { [ "$(grep ^hostbadge_exposition_timestamp /run/hostbadge-metrics/hostbadge.prom)" != "$first" ]; }
wait_for "the next writing" written_again

say "It starts no daemon that was stopped, and keeps the file"
show systemctl stop hostbadged.service
show systemctl start hostbadge-metrics.service
refused systemctl is-active hostbadged.service
refused systemctl is-failed hostbadge-metrics.service
test -e /run/hostbadge-metrics/hostbadge.prom
show systemctl start hostbadged.service
show systemctl disable --now hostbadge-metrics.timer

say "The view fits 80 columns, and ends by q"
wait_for "the issuer" hostbadge status
# The terminal of script(1) is as large as the one that it runs in, which may be none.
{ sleep 3 && printf q; } | script --quiet --return --command "stty cols 80 rows 24; TERM=xterm hostbadge top" /dev/null >/root/top
tr '\033' '\n' </root/top | grep -q "hostbadge 0" || fail "the view is empty"
expect "TPM       ready" hostbadge top --once
userdel monitor
