# The TPM is told of a reboot, and not of a power cut; either way it is the same TPM afterwards.

resets() { tpm2_readclock | sed -n 's/^ *reset_count: *//p'; }
orderly() { tpm2_getcap properties-variable | sed -n 's/^ *orderly: *//p'; }
# What was written down in the part before, and is true of this boot.
remember() {
    resets >/root/resets
    cat /proc/sys/kernel/random/boot_id >/root/boot
    sync
}
another_boot() {
    [ "$(cat /proc/sys/kernel/random/boot_id)" != "$(cat /root/boot)" ] || fail "it did not boot again"
    [ "$(resets)" -eq $(($(cat /root/resets) + 1)) ] || fail "the TPM counts $(resets) starts, after $(cat /root/resets)"
}

part_1() {
    need tpm2-tools
    say "Users of the TPM are those of group tss"
    expect tss stat -c %G /dev/tpmrm0
    remember
    reboot_and_continue
}

part_2() {
    another_boot
    [ "$(orderly)" -eq 1 ] || fail "the TPM was not shut down"
    expect tss stat -c %G /dev/tpmrm0
    remember
    cut_power_and_continue
}

part_3() {
    another_boot
    [ "$(orderly)" -eq 0 ] || fail "the TPM was shut down in order, which a power cut leaves no time for"
}
