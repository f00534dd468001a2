# Posture of a real machine: across a reboot, and after another measurement.

audience=https://api.example.com

part_1() {
    need hostbadge
    printf 'name = "posed"\n[match]\nuser = "games"\n[[grant]]\naudience = "%s"\nposture = "enforce"\n' "$audience" \
        >/etc/hostbadge/agents.d/posed.toml
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status
    expect "not accepted yet" hostbadge posture show
    wait_for "the posture" sh -c 'hostbadge status --json | jq -e ".posture == \"unaccepted\""'
    refused as games hostbadge token "$audience"
    says "hostbadge posture accept"
    expect "by uid 0" hostbadge posture accept
    expect "Nothing changed" hostbadge posture diff
    as games hostbadge token "$audience" >/dev/null
    reboot_and_continue
}

part_2() {
    say "Another boot of the same firmware and kernel is accepted"
    wait_for "the issuer" hostbadge status
    show hostbadge posture diff
    expect "Nothing changed" hostbadge posture diff
    wait_for "a token" as games hostbadge token "$audience"

    say "Another measurement is detected, audited, and can be accepted"
    need tpm2-tools
    tpm2_pcrextend "14:sha256=$(printf x | sha256sum | cut -d' ' -f1)"
    wait_for "the changed posture" sh -c 'hostbadge status --json | jq -e ".posture == \"changed\""'
    refused as games hostbadge token "$audience"
    says "PCR 14 changed"
    expect "PCR 14" hostbadge posture diff
    expect "posture-changed" journalctl -t hostbadged -o json HOSTBADGE_EVENT=posture-changed -n 1
    expect "by uid 0" hostbadge posture accept
    as games hostbadge token "$audience" >/dev/null

    say "The IMA list is in evidence where the kernel has one"
    if [ -e /sys/kernel/security/ima/binary_runtime_measurements ]; then
        expect "boot_aggregate" runuser -u hostbadge -- grep -a -o -m 1 boot_aggregate /run/hostbadge/ima-list
    fi
    rm /etc/hostbadge/agents.d/posed.toml
    show hostbadge agent reload --allow-empty
}
