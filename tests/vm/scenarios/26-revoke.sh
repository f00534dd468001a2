# Revocation, freeze and thaw on a real host, over a power cut in the middle, and with an older database put back.
# limit: 300 s

audience=https://api.example.com
socket=/run/hostbadge/agent.sock

# The unit of the agent: it has a token in /run/agent and lives until it is stopped.
agent_unit() {
    systemd-run --quiet --unit="$1.service" -p User=bin -p RuntimeDirectory="$1" sh -c \
        "hostbadge token $audience -o /run/$1/token && exec sleep infinity"
    wait_for "the token of $1" test -s "/run/$1/token"
}

is_active() {
    as daemon curl -sS --unix-socket $socket -d "token=$1" http://localhost/v1/introspect | jq -r .active
}

part_1() {
    need hostbadge
    for name in one two; do
        printf 'name = "%s"\nowner = "%s-team"\n[match]\nunit = "%s.service"\n[[grant]]\naudience = "%s"\n' \
            "$name" "$name" "$name" "$audience" >"/etc/hostbadge/agents.d/$name.toml"
    done
    printf 'name = "reader"\n[match]\nuser = "daemon"\n' >/etc/hostbadge/agents.d/reader.toml
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status
    agent_unit one
    agent_unit two
    token=$(cat /run/one/token)
    expect true is_active "$token"

    say "One token"
    expect "revoked token" hostbadge revoke token --reason "in a log" </run/one/token
    expect false is_active "$token"
    expect true is_active "$(cat /run/two/token)"

    say "An agent by its owner, until that is lifted"
    expect "revoked owner two-team" hostbadge revoke owner two-team
    expect false is_active "$(cat /run/two/token)"
    expect "two-team" hostbadge revoke list
    expect "revocation-added" hostbadge audit tail --json -n 1000
    expect "lifted" hostbadge revoke lift owner two-team
    expect false is_active "$(cat /run/two/token)"

    say "The journal explains a revocation"
    journalctl -q -x -t hostbadged --no-pager >/root/journal
    expect "Something is revoked" cat /root/journal

    cp /var/lib/hostbadge/revocations.db /root/older.db
    expect "frozen" hostbadge freeze --reason "an exercise"
    sync
    cut_power_and_continue
}

part_2() {
    wait_for "the daemon" hostbadge revoke list
    says "an exercise"
    refused systemd-run --quiet --wait --pipe --collect --unit=one.service -p User=bin hostbadge token "$audience"
    says "frozen"
    expect "thawed" hostbadge thaw
    expect "ey" systemd-run --quiet --wait --pipe --collect --unit=one.service -p User=bin hostbadge token "$audience"

    say "An older database is found by the counter in the TPM"
    systemctl stop hostbadged
    cp /var/lib/hostbadge/revocations.db /root/latest.db
    install -o hostbadge -g hostbadge -m 600 /root/older.db /var/lib/hostbadge/revocations.db
    systemctl start hostbadged
    refused systemd-run --quiet --wait --pipe --collect --unit=one.service -p User=bin hostbadge token "$audience"
    says "not what this host wrote last"
    expect "frozen" hostbadge revoke accept
    expect "thawed" hostbadge thaw
    expect "ey" systemd-run --quiet --wait --pipe --collect --unit=one.service -p User=bin hostbadge token "$audience"
    rm /etc/hostbadge/agents.d/{one,two,reader}.toml
    show hostbadge agent reload --allow-empty
}
