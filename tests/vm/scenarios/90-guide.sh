# Every command of the administrator's guide, from the first to the last, on a host that has never seen hostbadge.
# limit: 300 s

apt-get purge -y -qq -o Dpkg::Use-Pty=0 hostbadge >/dev/null 2>&1 || true
rm -rf /etc/hostbadge /var/lib/hostbadge.*
userdel researcher 2>/dev/null || true
mkdir -p /root/guide && cd /root/guide
cp "$vm/hostbadge.deb" hostbadge_amd64.deb
# The blocks that are marked as a shell's, put together.
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$vm/guide.md" >commands
[ "$(wc -l <commands)" -gt 20 ] || fail "the guide has no commands"
bash -euxo pipefail commands
