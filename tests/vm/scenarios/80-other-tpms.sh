# Without a TPM, and with another one, the service runs and reports the problem and its fix.
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
    say "No TPM"
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
    say "With the TPM again, it is the same host"
    wait_for "the issuer" hostbadge status
    expect "$(cat /root/host)" hostbadge status
    host tpm-replace
    sync
    cut_power_and_continue
}

part_4() {
    say "With another TPM, nothing is issued from the old state"
    wait_for "the service" systemctl is-active hostbadged.service
    named() { hostbadge status; [ $? -eq 4 ]; }
    wait_for "a named state" named
    says "replaced"
    say "Without the old state, the host gets a new identity"
    systemctl stop hostbadged.service
    mv /var/lib/hostbadge /var/lib/hostbadge.old
    systemctl start hostbadged.service
    wait_for "the issuer" hostbadge status
    [ "$(hostbadge status --json | jq -r .host.id)" != "$(cat /root/host)" ] || fail "it is the same host"
}
