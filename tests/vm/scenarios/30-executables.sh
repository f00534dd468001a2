# With the drop-in, the daemon can read executables of other users' processes; without it, it reports that it
# cannot.

need hostbadge
cp /usr/bin/hostbadge /usr/local/bin/researcher
cat >/etc/hostbadge/agents.d/program.toml <<TOML
name = "program"
[match]
user = "daemon"
exe = "/usr/local/bin/researcher"
exe_sha256 = "$(sha256sum /usr/local/bin/researcher | cut -d' ' -f1)"
TOML
show hostbadge agent reload

say "By default, executables of other users cannot be read"
refused as daemon /usr/local/bin/researcher whoami
says "executable not readable"

say "With the drop-in they can be read"
mkdir -p /etc/systemd/system/hostbadged.service.d
cp /usr/share/hostbadge/executables.conf /etc/systemd/system/hostbadged.service.d/
systemctl daemon-reload
systemctl restart hostbadged.service
expect "program" as daemon /usr/local/bin/researcher whoami
refused as daemon hostbadge whoami

say "A changed program does not match"
printf x >>/usr/local/bin/researcher
refused as daemon /usr/local/bin/researcher whoami

say "The drop-in adds one capability, whose system calls stay blocked"
exposure=$(systemd-analyze security --no-pager hostbadged.service | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
echo "exposure $exposure"
awk -v e="$exposure" 'BEGIN { exit !(e <= 1.5) }' || fail "exposure $exposure is above 1.5"
expect "$(printf '%016x' $((1 << 19)))" grep CapEff "/proc/$(systemctl show -P MainPID hostbadged.service)/status"

rm -r /etc/systemd/system/hostbadged.service.d /etc/hostbadge/agents.d/program.toml
systemctl daemon-reload
systemctl restart hostbadged.service
