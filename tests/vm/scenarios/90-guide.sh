# All commands of the administrator's guide in order, on a host without hostbadge.
# limit: 480 s

apt-get purge -y -qq -o Dpkg::Use-Pty=0 hostbadge >/dev/null 2>&1 || true
rm -rf /etc/hostbadge /var/lib/hostbadge.*
userdel researcher 2>/dev/null || true
mkdir -p /root/guide && cd /root/guide
cp "$vm/hostbadge.deb" hostbadge_amd64.deb
# The sh blocks of all pages, in the order in which the guide's first page lists them.
pages=$(sed -n 's/^[0-9]*\. \[.*\](\([a-z-]*\.md\)).*/\1/p' "$vm/README.md")
[ "$(wc -w <<<"$pages")" -ge 8 ] || fail "the guide has no pages"
for page in $pages; do
    awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$vm/$page"
done >commands
[ "$(wc -l <commands)" -gt 20 ] || fail "the guide has no commands"
bash -euxo pipefail commands
