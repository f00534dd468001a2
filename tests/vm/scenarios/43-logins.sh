# Units of a user's own service manager, and login sessions by PAM.
# limit: 300 s

need hostbadge
audience=https://api.example.com
agents=/etc/hostbadge/agents.d

register() {
    printf 'name = "%s"\n[match]\n%s\n[[grant]]\naudience = "%s"\nttl = "1h"\n' "$1" "$2" "$audience" \
        >"$agents/$1.toml"
}
introspect() {
    as daemon curl -sS --unix-socket /run/hostbadge/agent.sock -d "token=$(cat "$1")" http://localhost/v1/introspect
}
is_inactive() { introspect "$1" | grep -q '"active":false'; }

for user in person visitor; do
    useradd --create-home --shell /bin/bash $user 2>/dev/null || true
    loginctl enable-linger $user
    wait_for "the manager of $user" as $user systemctl --user is-system-running
done
register by-unit 'user = "person"
user_unit = "agent.service"'
register by-login 'user = "person"
session = true'
register reader 'user = "daemon"'
expect "warning: user_unit is no stronger than user" hostbadge agent check
says "warning: session is no stronger than user"
show hostbadge agent reload

say "A unit file of a user, started by the user's manager"
mkdir -p /home/person/.config/systemd/user
cat >/home/person/.config/systemd/user/agent.service <<UNIT
[Service]
ExecStart=/bin/sh -c 'hostbadge token $audience >/tmp/unit-token; hostbadge whoami --json >/tmp/unit-whoami; exec sleep infinity'
UNIT
cp /home/person/.config/systemd/user/agent.service /home/person/.config/systemd/user/another.service
sed -i s/unit-/another-/g /home/person/.config/systemd/user/another.service
chown -R person: /home/person/.config
as person systemctl --user daemon-reload
as person systemctl --user start agent another
wait_for "its answer" test -s /tmp/unit-whoami
expect by-unit jq -r .agent /tmp/unit-whoami
expect agent.service jq -r .peer.user_unit /tmp/unit-whoami
expect "user@$(id -u person).service" jq -r .peer.unit /tmp/unit-whoami
expect '"active":true' introspect /tmp/unit-token

say "Another unit of the user, and a unit of that name of another user or of the system, are not the agent"
wait_for "the refusal of the other unit" grep invalid_client /tmp/another-whoami
of() { as "$1" systemd-run --user --quiet --wait --pipe --collect --unit="$2" hostbadge whoami; }
refused of visitor agent.service
says "no registered agent matches"
refused systemd-run --quiet --wait --pipe --collect --unit=agent.service -p User=person hostbadge whoami
expect "agent.service (no stronger than user)" hostbadge agent why \
    "$(as person systemctl --user show -P MainPID agent.service)"

say "The user can give any program the name of the unit: no stronger than user"
as person systemctl --user stop agent another
rm -r /home/person/.config
as person systemctl --user daemon-reload
timeout=10 wait_for "the end of its token" is_inactive /tmp/unit-token
expect by-unit of person agent.service

say "A login by su is a session of the user, with PAM"
logs_in() { su --login person -c "$1"; }
expect by-login logs_in "hostbadge whoami"
session=$(logs_in "hostbadge whoami --json" | jq -r .peer.session)
[ -n "$session" ] && [ "$session" != null ] || fail "no session"
expect "session-" logs_in "cat /proc/self/cgroup"

say "So is one by systemd's own way, as machinectl shell takes it"
pam=login
[ -e /etc/pam.d/login ] || pam=su-l
expect by-login systemd-run --quiet --wait --pipe --collect -p PAMName=$pam -p User=person hostbadge whoami
if command -v run0 >/dev/null; then
    expect by-login run0 --user=person hostbadge whoami
fi

say "What a session got ends with it"
logs_in "echo \$XDG_SESSION_ID >/tmp/session-id; hostbadge token $audience >/tmp/session-token; sleep 600" &
wait_for "the token" test -s /tmp/session-token
expect '"active":true' introspect /tmp/session-token
loginctl terminate-session "$(cat /tmp/session-id)"
wait $! || true
timeout=10 wait_for "the end of its token" is_inactive /tmp/session-token

say "Nobody else is in the session of the user: not without a login, nor by su in a session of another"
refused as person hostbadge whoami
refused su --login visitor -c "hostbadge whoami"
refused su --login root -c "su --login person -c 'hostbadge whoami'"
says "no registered agent matches"
expect "user-0.slice" su --login root -c "su --login person -c 'cat /proc/self/cgroup'"
refused as person systemd-run --user --quiet --wait --pipe --collect \
    systemd-run --user --quiet --scope --collect --unit=session-1.scope hostbadge whoami
says "no registered agent matches"

for user in person visitor; do loginctl disable-linger $user; done
rm "$agents"/{by-unit,by-login,reader}.toml
show hostbadge agent reload --allow-empty
