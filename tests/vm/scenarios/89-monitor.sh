# A monitoring agent, whose health checks and alerts are refused until the host has been attested.
# limit: 300 s

health=https://health.example.com
alerts=https://alerts.example.com

part_1() {
    need hostbadge tpm2-tools
    useradd --system monitor 2>/dev/null || true
    {
        printf 'name = "monitor"\nowner = "ops@example.com"\n[match]\nuser = "monitor"\nunit = "monitor.service"\n'
        printf '[[grant]]\naudience = "%s"\nposture = "enforce"\n' $health $alerts
    } >/etc/hostbadge/agents.d/monitor.toml
    printf 'name = "auditor"\n[match]\nuser = "bin"\n' >/etc/hostbadge/agents.d/auditor.toml
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status
    # What another scenario has accepted is not what this boot measures: its PCR 14 is another one.
    reboot_and_continue
}

# A health check or an alert of the monitor: it needs a token for where it sends it.
monitor() {
    systemd-run --quiet --wait --pipe --collect --unit=monitor.service -p User=monitor hostbadge token "$1"
}

part_2() {
    say "Nothing is monitored until a verifier has seen the evidence"
    wait_for "the issuer" hostbadge status
    wait_for "the posture" sh -c 'hostbadge status --json | jq -e ".posture == \"changed\" or .posture == \"unaccepted\""'
    for audience in $health $alerts; do
        refused monitor $audience
        says "posture"
    done
    nonce=$(head -c 32 /dev/urandom | base64 -w 0 | tr '+/' '-_' | tr -d '=')
    as bin hostbadge attest --nonce "$nonce" >/root/evidence.json
    id=$(hostbadge status --json | jq -r .host.id)
    ak=$(hostbadge status --json | jq -r .tpm.ak_name)
    expect "passed" hostbadge verify evidence /root/evidence.json --nonce "$nonce" --host "$id" --ak "$ak"
    expect "$(tr 'A-F' 'a-f' </sys/class/tpm/tpm0/pcr-sha256/14)" jq -r '.pcrs["14"]' /root/evidence.json
    refused monitor $health
    expect "by uid 0" hostbadge posture accept
    for audience in $health $alerts; do
        wait_for "a token" monitor $audience
    done

    say "Another measurement stops it again, and each decision is in the log"
    tpm2_pcrextend "14:sha256=$(printf z | sha256sum | cut -d' ' -f1)"
    wait_for "the changed posture" sh -c 'hostbadge status --json | jq -e ".posture == \"changed\""'
    refused monitor $alerts
    says "PCR 14 changed"
    expect "access_denied" sh -c 'hostbadge audit query --agent monitor --json | jq -r ".reason // empty" | sort | uniq -c'
    expect "by uid 0" hostbadge posture accept
    rm /etc/hostbadge/agents.d/monitor.toml /etc/hostbadge/agents.d/auditor.toml
    show hostbadge agent reload --allow-empty
}
