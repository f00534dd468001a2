# The rpm, installed by rpm(8): its scriptlets create the user, start the service, keep it in an upgrade, and
# remove it.

apt-get purge -y -qq -o Dpkg::Use-Pty=0 hostbadge >/dev/null 2>&1 || true
rm -rf /etc/hostbadge
# The rpm requires libraries by file names; Debian has them in these packages.
need libtss2-tcti-device0 2>/dev/null || need libtss2-tcti-device0t64
case $(. /etc/os-release && echo "$VERSION_CODENAME") in
    bookworm) need libtss2-esys-3.0.2-0 libtss2-tctildr0 libtss2-mu0 tpm-udev ;;
    *) need libtss2-esys-3.0.2-0t64 libtss2-tctildr0t64 libtss2-mu-4.0.1-0t64 tpm-udev ;;
esac
udevadm trigger --settle /dev/tpmrm0

say "Installed"
show rpm --nodeps --ignorearch -i "$vm"/hostbadge-*.rpm
expect active systemctl is-active hostbadged.service hostbadge-agent.socket
wait_for "the issuer" hostbadge status
expect "hostbadge" id hostbadge

say "It requires its libraries by their file names"
expect "libtss2-esys.so.0" rpm -qp --requires "$vm"/hostbadge-*.rpm
says "libtss2-tcti-device.so.0"

say "An upgrade restarts the daemon and keeps the sockets"
before=$(systemctl show -P MainPID hostbadged.service)
inode=$(stat -c %i /run/hostbadge/agent.sock)
show rpm --nodeps --ignorearch -U --force "$vm"/hostbadge-*.rpm
expect active systemctl is-active hostbadged.service
[ "$(systemctl show -P MainPID hostbadged.service)" != "$before" ] || fail "the daemon was not restarted"
[ "$(stat -c %i /run/hostbadge/agent.sock)" = "$inode" ] || fail "the socket was created again"

say "Removed, with what an administrator enabled"
for unit in hostbadge-alert.socket hostbadge-metrics.timer hostbadge-selftest.timer; do
    [ "$(systemctl is-enabled "$unit" || true)" = disabled ] || fail "$unit is on after the installation"
    show systemctl enable --now "$unit"
done
show rpm --nodeps -e hostbadge
refused systemctl is-active hostbadged.service
for unit in hostbadge-alert.socket hostbadge-metrics.timer hostbadge-selftest.timer; do
    refused systemctl is-active "$unit"
    [ -z "$(find /etc/systemd/system -name "$unit")" ] || fail "$unit is still enabled"
done
[ -e /var/lib/hostbadge/tpm.json ] || fail "the state is gone"
rm -rf /var/lib/hostbadge /var/log/hostbadge
