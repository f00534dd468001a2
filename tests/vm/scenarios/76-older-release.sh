# State of an older release is changed once and a copy stays; nothing is lost, and the older release refuses the result.
# limit: 600 s
#
# hostbadge-before.deb is that release, if there is one (scripts/package-before COMMIT). Without it, this package writes
# the state, and credentials.db is put back into the format of before.

audience=https://api.example.com
agents=/etc/hostbadge/agents.d
state=/var/lib/hostbadge
database=$state/credentials.db

# register NAME USER [TENANT]
register() {
    {
        printf 'name = "%s"\n' "$1"
        [ -z "${3:-}" ] || printf 'tenant = "%s"\n' "$3"
        printf '[match]\nuser = "%s"\n[[grant]]\naudience = "%s"\nttl = "1h"\n' "$2" "$audience"
        printf '[[credential]]\nname = "relay"\nuse = "release"\n[[credential]]\nname = "later"\nuse = "release"\n'
    } >"$agents/$1.toml"
}
value() { as "$1" hostbadge credential get "$2"; }
# The status of a host that cannot do everything is an exit status of its own.
is_blocked() { { hostbadge status 2>&1 || true; } | grep "requests for sealed credentials are refused"; }
is_active() {
    as "$1" curl -sS --unix-socket /run/hostbadge/agent.sock -d "token=$(cat "$2")" http://localhost/v1/introspect |
        jq -r .active
}
format() { sqlite3 "$1" "PRAGMA user_version"; }
install() { show apt-get install -y -q -o Dpkg::Use-Pty=0 --allow-downgrades "$1"; }
# Keys, credentials and revocations as they were.
is_complete() {
    expect of-host value bin relay
    expect of-acme value games relay
    for tenant in "" "--tenant acme"; do
        # shellcheck disable=SC2086 # an option with its value
        show hostbadge export jwks $tenant -o "/root/jwks-after$tenant"
        show cmp "/root/jwks-before$tenant" "/root/jwks-after$tenant"
    done
}
# Puts the database into format 1, which had no credentials of single agents.
to_format_1() {
    sqlite3 $database <<'SQL'
BEGIN IMMEDIATE;
ALTER TABLE credential RENAME TO credential_2;
CREATE TABLE credential (
    tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
    expires INTEGER, retires INTEGER, size INTEGER NOT NULL, ciphertext TEXT NOT NULL,
    PRIMARY KEY (tenant, name, version)
) WITHOUT ROWID;
INSERT INTO credential SELECT tenant, name, version, created, expires, retires, size, ciphertext FROM credential_2;
DROP TABLE credential_2;
PRAGMA user_version = 1;
COMMIT;
SQL
}

say "An older release with agents, tenants, credentials and revocations"
apt-get purge -y -qq -o Dpkg::Use-Pty=0 hostbadge >/dev/null 2>&1 || true
rm -rf /etc/hostbadge
need sqlite3
older=$vm/hostbadge.deb
[ ! -e "$vm/hostbadge-before.deb" ] || older=$vm/hostbadge-before.deb
install "$older"
register plain bin
register customer games acme
register revoked lp
register late mail
show hostbadge agent reload
wait_for "the issuer" hostbadge status
printf 'of-nobody' | hostbadge credential put relay
printf 'of-host' | hostbadge credential rotate relay --overlap 24h
printf 'of-acme' | hostbadge credential put relay --tenant acme
wait_for "the key of the tenant" as games hostbadge token $audience
is_complete_before() {
    for tenant in "" "--tenant acme"; do
        # shellcheck disable=SC2086 # an option with its value
        hostbadge export jwks $tenant -o "/root/jwks-before$tenant"
    done
}
is_complete_before
as bin hostbadge token $audience >/root/token
as lp hostbadge token $audience >/root/token-revoked
can_revoke() { hostbadge revoke --help >/dev/null 2>&1; }
if can_revoke; then
    show hostbadge revoke agent revoked --reason "in an older release"
    hostbadge revoke token </root/token
fi
systemctl stop hostbadged.service
[ "$older" != "$vm/hostbadge.deb" ] || to_format_1
expect 1 format $database
cp $database /root/older.db

say "The upgrade changes the database once, and keeps a copy"
dpkg-deb -R "$vm/hostbadge.deb" /root/newer
sed -i 's/^Version: .*/Version: 99.0-1/' /root/newer/DEBIAN/control
dpkg-deb -Znone -b /root/newer /root/newer.deb
install /root/newer.deb
systemctl start hostbadged.service
wait_for "the credentials" value bin relay
expect 3 format $database
show cmp /root/older.db $database.format-1
expect "hostbadge 600" stat -c '%U %a' $database.format-1
is_complete
expect of-nobody as bin hostbadge credential get relay --version 1
systemctl restart hostbadged.service
wait_for "the credentials" value bin relay
show journalctl -t hostbadged --no-pager -o cat -g 'is now in format'
[ "$(wc -l <<<"$output")" -eq 1 ] || fail "the database was changed more than once"

say "What was revoked before stays revoked"
if [ "$older" = "$vm/hostbadge.deb" ]; then
    refused as lp hostbadge token $audience
    expect "in an older release" hostbadge revoke list
    expect false is_active bin /root/token
fi
show hostbadge revoke agent late --reason "in the newer release"
printf 'of-the-newer' | hostbadge credential put later

say "The older release refuses the newer database, and names the ways back"
systemctl stop hostbadged.service
if [ "$older" = "$vm/hostbadge.deb" ]; then
    # As the release after this one would leave it.
    cp -p $database $database.format-3
    sqlite3 $database "PRAGMA user_version = 4"
    copy=$database.format-3
    systemctl start hostbadged.service
else
    copy=$database.format-1
    install "$older"
    systemctl start hostbadged.service
fi
wait_for "the refusal" is_blocked
show hostbadge status || true
says "install the release that wrote it"
says "replace it by $copy"
refused value bin relay
[ "$(format $database)" -gt 1 ] || fail "the older release has changed the database"

say "The first way: the newer release is installed again, and nothing is lost"
systemctl stop hostbadged.service
[ "$older" != "$vm/hostbadge.deb" ] || sqlite3 $database "PRAGMA user_version = 3"
install /root/newer.deb
systemctl start hostbadged.service
wait_for "the credentials" value bin relay
is_complete
expect of-the-newer value bin later
refused as mail hostbadge token $audience
expect "in the newer release" hostbadge revoke list

say "The second way: the copy from before, which has to be accepted"
systemctl stop hostbadged.service
if [ "$older" = "$vm/hostbadge.deb" ]; then
    cp /root/older.db $database
else
    cp $database.format-1 $database
    install "$older"
fi
systemctl start hostbadged.service
wait_for "the state to be accepted" hostbadge credential accept
is_complete
refused value bin later

say "Purging deletes the copies too"
show apt-get purge -y -q -o Dpkg::Use-Pty=0 hostbadge
[ ! -e $state ] || fail "state is left behind"
rm -f "$agents"/{plain,customer,revoked,late}.toml
