# A reboot keeps the host ID and the keys, and ends all invocations: earlier tokens are verified, and inactive.

audience=https://api.example.com

part_1() {
    need hostbadge
    printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\nttl = "1h"\n' "$audience" \
        >/etc/hostbadge/agents.d/steady.toml
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status
    as bin hostbadge token "$audience" >/root/token
    hostbadge export jwks -o /root/jwks-before.json
    hostbadge status --json | jq -r .host.id >/root/host
    reboot_and_continue
}

part_2() {
    wait_for "the issuer" hostbadge status
    expect "$(cat /root/host)" hostbadge status
    hostbadge export jwks -o /root/jwks-after.json
    show cmp /root/jwks-before.json /root/jwks-after.json
    hostbadge verify token "$(cat /root/token)" --jwks /root/jwks-after.json --audience "$audience"
    introspect() { as bin curl -sS --unix-socket /run/hostbadge/agent.sock -d "token=$1" http://localhost/v1/introspect; }
    expect '"active":false' introspect "$(cat /root/token)"
    expect "the host was started again" hostbadge audit tail -n 1000 --event invocation-ended
    as bin hostbadge token "$audience" >/root/token-2
    expect '"active":true' introspect "$(cat /root/token-2)"
    hostbadge verify token "$(cat /root/token-2)" --jwks /root/jwks-before.json --audience "$audience"
    sync
    cut_power_and_continue
}

part_3() {
    say "After a power cut the audit log has the issued tokens"
    wait_for "the issuer" hostbadge status
    expect "$(cat /root/host)" hostbadge status
    expect token-issued hostbadge audit tail -n 1000
    rm /etc/hostbadge/agents.d/steady.toml
    show hostbadge agent reload --allow-empty
}
