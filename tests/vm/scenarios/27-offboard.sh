# The end of an agent on a real host: offboarding, a power cut, a restored backup, and tpm2_unseal on the host's TPM.
# limit: 300 s

agents=/etc/hostbadge/agents.d
state=/var/lib/hostbadge

own_value() {
    as daemon curl -sS --unix-socket /run/hostbadge/agent.sock -d "name=relay" -d "agent=$1" \
        http://localhost/v1/credential
}

# Asks the TPM for the erasure key of a copy of the state, by a policy for this value of the counter.
unseal() {
    local dir=$1 value=$2 file
    file=$dir/erasure.json
    rm -rf /root/tools && mkdir /root/tools && cd /root/tools
    jq -r .current.public "$file" | base64 -d >public
    jq -r .current.private "$file" | base64 -d >private
    printf "$(printf '%016x' "$value" | sed 's/../\\x&/g')" >value
    { printf '\x20\x00' && head -c 128 /dev/zero && printf '\x20\x00' && head -c 128 /dev/zero; } >unique
    export TPM2TOOLS_TCTI=device:/dev/tpmrm0
    tpm2_createprimary -Q -C o -g sha256 -G ecc256:aes128cfb -u unique -c srk \
        -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt'
    tpm2_load -Q -C srk -u public -r private -c sealed
    tpm2_startauthsession --policy-session -S session
    tpm2_policynv -Q -S session -C o -i value "$(jq -r .counter "$file")" eq &&
        tpm2_unseal -c sealed -p session:session | wc -c
}

part_1() {
    need hostbadge tpm2-tools
    for name in courier keeper; do
        printf 'name = "%s"\nowner = "%s-team"\n[match]\nuser = "daemon"\n[[credential]]\nname = "relay"\nuse = "release"\n' \
            "$name" "$name" >"$agents/$name.toml"
    done
    show hostbadge agent reload
    wait_for "the issuer" hostbadge status
    for name in courier keeper; do
        printf 'of-%s' "$name" | hostbadge credential put relay --agent "$name"
        expect "of-$name" own_value "$name"
    done
    systemctl stop hostbadged
    cp -a $state /root/backup
    count=$(jq -r .current.count /root/backup/erasure.json)
    echo "$count" >/root/count
    expect 32 unseal /root/backup "$count"
    systemctl start hostbadged
    wait_for "the credential" own_value courier

    say "Offboarding, with a receipt that is verified without the daemon"
    expect "to do: remove agent courier" sh -c 'hostbadge agent offboard courier >/root/receipt'
    hostbadge export jwks >/root/jwks
    expect "VALID" hostbadge verify receipt /root/receipt --jwks /root/jwks --agent courier
    expect "is revoked" own_value courier
    expect "of-keeper" own_value keeper
    sync
    cut_power_and_continue
}

part_2() {
    wait_for "the daemon" hostbadge status
    expect "of-keeper" own_value keeper
    expect "is revoked" own_value courier
    expect "nothing was left" hostbadge agent offboard courier

    say "The TPM itself refuses what the backup has"
    systemctl stop hostbadged
    count=$(cat /root/count)
    refused unseal /root/backup "$count"
    refused unseal /root/backup $((count + 1))
    expect 32 unseal $state $((count + 1))

    say "Nor does the daemon open it, whatever is accepted"
    mv $state /root/latest
    cp -a /root/backup $state
    systemctl start hostbadged
    wait_for "the state to be accepted" hostbadge key accept
    wait_for "the credentials" hostbadge credential list
    timeout=30 wait_for "the refusal" sh -c "$(declare -f as own_value); own_value courier | grep -q 'destroyed, or stayed'"
    systemctl stop hostbadged
    rm -r $state && mv /root/latest $state
    systemctl start hostbadged
    wait_for "the issuer" hostbadge key accept
    show hostbadge credential rm relay --agent keeper
    rm "$agents"/{courier,keeper}.toml
    show hostbadge agent reload --allow-empty
}
