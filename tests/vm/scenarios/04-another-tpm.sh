# A machine without its TPM, and with another one.

# Each TPM has one endorsement hierarchy, from which this key comes whenever it is made.
key() {
    tpm2_createprimary --quiet --hierarchy e --key-algorithm ecc --key-context /root/key
    tpm2_readpublic --quiet --object-context /root/key --name "$1"
    [ -s "$1" ]
    sync
}

part_1() {
    need tpm2-tools
    key /root/first
    host tpm-remove
    cut_power_and_continue
}

part_2() {
    [ ! -e /dev/tpm0 ] || fail "the TPM is still there"
    host tpm-insert
    host tpm-replace
    cut_power_and_continue
}

part_3() {
    key /root/second
    ! cmp /root/first /root/second || fail "it is the same TPM"
}
