# States of a TPM behind the kernel's driver are detected without calls; tokens are issued where that is safe.
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

say "The TPM is stalled"
host tpm-stall
timeout=15 wait_for "busy" named busy
works
host tpm-resume
wait_for "the TPM" hostbadge status

say "The TPM returns TPM_RC_RETRY and TPM_RC_LOCKOUT"
for code in 0x922:busy 0x921:lockout; do
    host tpm-answer "${code%:*}"
    timeout=15 wait_for "${code#*:}" named "${code#*:}"
    works
    host tpm-resume
    wait_for "the TPM" hostbadge status
done

say "The owner or endorsement hierarchy gets a password"
for hierarchy in owner endorsement; do
    show tpm2_changeauth -c "$hierarchy" secret
    timeout=15 wait_for "owner-auth" named owner-auth
    works
    show tpm2_changeauth -c "$hierarchy" -p secret
    wait_for "the TPM" hostbadge status
done

say "Wrong passwords lead to a lockout"
show tpm2_nvdefine 0x1500001 -C o -s 8 -p right -a "authread|authwrite"
for _ in 1 2 3 4 5 6; do
    refused tpm2_nvread 0x1500001 -P wrong
done
timeout=15 wait_for "lockout" named lockout
works
show hostbadge key rotate --now
show tpm2_dictionarylockout -c
wait_for "the TPM" hostbadge status

say "The TPM is cleared: keys in memory are used until the daemon exits"
show tpm2_clear -c p || show tpm2_clear -c l
timeout=15 wait_for "cleared" named cleared
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
show hostbadge agent reload --allow-empty
