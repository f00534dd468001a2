# What becomes of a TPM behind a kernel's driver is named while nobody calls, goes on where that is sound, and passes.
# limit: 300 s

need hostbadge tpm2-tools
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
export TPM2TOOLS_TCTI=device:/dev/tpmrm0
wait_for "the issuer" hostbadge status
works() { as bin hostbadge token "$audience" >/dev/null; }
named() { { hostbadge status --json || true; } | jq -e --arg state "$1" '.tpm.state == $state'; }
works

say "It does not answer"
host tpm-stall
patience=15 wait_for "busy" named busy
works
host tpm-resume
wait_for "the TPM" hostbadge status

say "It answers that it is busy, and that it is in lockout"
for code in 0x922:busy 0x921:lockout; do
    host tpm-answer "${code%:*}"
    patience=15 wait_for "${code#*:}" named "${code#*:}"
    works
    host tpm-resume
    wait_for "the TPM" hostbadge status
done

say "Passwords"
for hierarchy in owner endorsement; do
    show tpm2_changeauth -c "$hierarchy" secret
    patience=15 wait_for "owner-auth" named owner-auth
    works
    show tpm2_changeauth -c "$hierarchy" -p secret
    wait_for "the TPM" hostbadge status
done

say "Wrong passwords"
show tpm2_nvdefine 0x1500001 -C o -s 8 -p right -a "authread|authwrite"
for _ in 1 2 3 4 5 6; do
    refused tpm2_nvread 0x1500001 -P wrong
done
patience=15 wait_for "lockout" named lockout
works
show hostbadge key rotate --now
show tpm2_dictionarylockout -c
wait_for "the TPM" hostbadge status

say "It is cleared: what is in memory goes on until the daemon ends"
show tpm2_clear -c p || show tpm2_clear -c l
patience=15 wait_for "cleared" named cleared
works
systemctl restart hostbadged.service
wait_for "cleared" named cleared
refused as bin hostbadge token "$audience"
says "which destroyed its keys"
systemctl stop hostbadged.service
rm -r /var/lib/hostbadge
systemctl start hostbadged.service
wait_for "the issuer" hostbadge status
works
rm /etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
