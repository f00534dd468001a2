# The end of a unit, a user's unit and a session ends what was issued in it; a reboot ends everything.
# limit: 300 s

audience=https://api.example.com
agents=/etc/hostbadge/agents.d
register() {
    printf 'name = "%s"\n[match]\n%s\n[[grant]]\naudience = "%s"\nttl = "1h"\n' "$1" "$2" "$audience" \
        >"$agents/$1.toml"
}
introspect() {
    as daemon curl -sS --unix-socket /run/hostbadge/agent.sock -d "token=$(cat "$1")" \
        http://localhost/v1/introspect
}
is_active() { introspect "$1" | grep -q '"active":true'; }
is_inactive() { introspect "$1" | grep -q '"active":false'; }
# The end is noticed within 2 s; a busy machine needs a moment more.
ends() { timeout=10 wait_for "the end of what $1 has" is_inactive "$1"; }
revoked() { hostbadge audit tail -n 1000 --event certificates-revoked | grep -c "/agent/$1 .*has ended"; }
# A unit that fetches a token and a certificate, and runs on.
unit_file() {
    cat >"/etc/systemd/system/$1.service" <<UNIT
[Service]
$2
UMask=0022
RuntimeDirectory=$1
ExecStartPre=/bin/sh -c 'hostbadge token $audience >/run/$1/token && hostbadge certificate >/run/$1/certificate'
ExecStart=/bin/sleep infinity
UNIT
    systemctl daemon-reload
}

part_1() {
    need hostbadge
    register reader 'user = "daemon"'
    useradd --system --no-create-home worker 2>/dev/null || true
    register static 'unit = "static.service"'
    register dynamic 'unit = "dynamic.service"'
    register direct 'unit = "direct.service"'
    register burst 'unit = "burst.service"'
    register oneshot 'unit = "oneshot.service"'
    register restarting 'unit = "restarting.service"'
    useradd --create-home --shell /bin/bash person 2>/dev/null || true
    register person 'user = "person"'
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status

    say "A unit that stops"
    unit_file static "User=worker"
    systemctl start static
    cp /run/static/token /root/static
    show is_active /root/static
    expect "$(systemctl show -P InvocationID static)" \
        sh -c "cut -d. -f2 /root/static | tr -- '-_' '+/' | base64 -d 2>/dev/null || true"
    systemctl stop static
    ends /root/static
    wait_for "the revocation of its certificate" revoked static
    expect "static.service" hostbadge audit tail -n 1000 --event invocation-ended

    say "A unit that is started again is another invocation, also with a dynamic user"
    unit_file dynamic "DynamicUser=yes"
    systemctl start dynamic
    cp /run/dynamic/token /root/dynamic-1
    systemctl restart dynamic
    cp /run/dynamic/token /root/dynamic-2
    ends /root/dynamic-1
    sleep 3
    show is_active /root/dynamic-2
    systemctl daemon-reload
    sleep 2
    show is_active /root/dynamic-2
    systemctl kill --signal=SIGKILL dynamic
    ends /root/dynamic-2

    say "A unit that waits before it is started again has ended"
    unit_file restarting "User=worker
Restart=always
RestartSec=30"
    systemctl start restarting
    cp /run/restarting/token /root/restarting
    systemctl kill --signal=SIGKILL restarting
    ends /root/restarting
    expect auto-restart systemctl show -P SubState restarting
    systemctl stop restarting

    say "What systemd says of a unit that is started again without having stopped (for information)"
    unit_file direct "User=worker
Restart=always
RestartMode=direct
RestartSec=1"
    systemctl start direct
    systemctl kill --signal=SIGKILL direct
    sleep 4
    show systemctl show -p InvocationID -p SubState direct || true
    show readlink /run/systemd/units/invocation:direct.service || true
    systemctl stop direct

    say "A oneshot unit that remains goes on without a process"
    cat >/etc/systemd/system/oneshot.service <<UNIT
[Service]
Type=oneshot
RemainAfterExit=yes
UMask=0022
ExecStart=/bin/sh -c 'hostbadge token $audience >/root/oneshot'
UNIT
    systemctl daemon-reload
    systemctl start oneshot
    sleep 4
    show is_active /root/oneshot
    systemctl stop oneshot
    ends /root/oneshot

    say "A unit of a user"
    loginctl enable-linger person
    wait_for "the user's manager" as person systemctl --user is-system-running
    as person systemd-run --user --quiet --collect --unit=agent \
        sh -c "hostbadge token $audience >/tmp/person-token; exec sleep infinity"
    wait_for "its token" test -s /tmp/person-token
    cp /tmp/person-token /root/person
    sleep 3
    show is_active /root/person
    as person systemctl --user stop agent
    ends /root/person

    say "A hundred starts in a row leave no valid token"
    mkdir -p /root/burst-tokens
    for n in $(seq 100); do
        systemd-run --quiet --wait --pipe --collect --unit=burst.service -p User=worker \
            hostbadge token "$audience" >"/root/burst-tokens/$n"
    done
    for n in $(seq 100); do ends "/root/burst-tokens/$n"; done
    expect active systemctl is-active hostbadged

    say "The daemon is restarted while a unit stops"
    systemctl start static
    cp /run/static/token /root/static
    systemctl stop hostbadged
    systemctl stop static
    wait_for "the issuer" hostbadge status
    ends /root/static

    say "A reboot"
    systemctl start static
    cp /run/static/token /root/static
    show is_active /root/static
    sync
    reboot_and_continue
}

part_2() {
    wait_for "the issuer" hostbadge status
    show is_inactive /root/static
    systemctl start static
    show is_active /run/static/token
    systemctl stop static
    rm -f "$agents"/{reader,static,dynamic,burst,direct,oneshot,restarting,person}.toml
    show hostbadge agent reload --allow-empty
}
