# A host without a TPM, and one with another: the service is up, says what is missing and how to mend it.
# limit: 300 s

part_1() {
    need hostbadge
    wait_for "the issuer" hostbadge status
    hostbadge status --json | jq -r .host.id >/root/host
    host tpm-remove
    sync
    cut_power_and_continue
}

part_2() {
    say "No TPM at all"
    wait_for "the service" systemctl is-active hostbadged.service
    refused hostbadge status
    says "absent"
    says "/dev/tpmrm0"
    expect tpm-state journalctl -b -t hostbadged -o json --no-pager
    expect degraded curl -sS --unix-socket /run/hostbadge/agent.sock http://localhost/v1/health
    host tpm-insert
    sync
    cut_power_and_continue
}

part_3() {
    say "It is back, and so is the host"
    wait_for "the issuer" hostbadge status
    expect "$(cat /root/host)" hostbadge status
    host tpm-replace
    sync
    cut_power_and_continue
}

part_4() {
    say "Another one: nothing of the old state is served"
    wait_for "the service" systemctl is-active hostbadged.service
    named() { hostbadge status; [ $? -eq 4 ]; }
    wait_for "a named state" named
    says "replaced"
    say "The way out, deliberately taken, is a new identity"
    systemctl stop hostbadged.service
    mv /var/lib/hostbadge /var/lib/hostbadge.old
    systemctl start hostbadged.service
    wait_for "the issuer" hostbadge status
    [ "$(hostbadge status --json | jq -r .host.id)" != "$(cat /root/host)" ] || fail "it is the same host"
}
