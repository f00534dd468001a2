# Evidence of a real machine and its boot, for a verifier that knows only the host ID.

need hostbadge
printf 'name = "prover"\n[match]\nuser = "bin"\n' >/etc/hostbadge/agents.d/prover.toml
show hostbadge agent reload
wait_for "the issuer" hostbadge status
nonce=$(head -c 32 /dev/urandom | base64 -w 0 | tr '+/' '-_' | tr -d '=')
as bin hostbadge attest --nonce "$nonce" >/root/evidence.json
id=$(hostbadge status --json | jq -r .host.id)
ak=$(hostbadge status --json | jq -r .tpm.ak_name)
expect "passed" hostbadge verify evidence /root/evidence.json --nonce "$nonce" --host "$id" --ak "$ak"
says "boot event log"
says "which give PCRs 0 to 7 as quoted"
refused hostbadge verify evidence /root/evidence.json --nonce "$nonce" --host "$id"
says "nothing here ties the AK to this host"
refused hostbadge verify evidence /root/evidence.json --nonce "AAAAAAAAAAAA" --ak "$ak"
says "FAILED"

say "The PCR values are those that the kernel reports"
for pcr in 0 4 7 10; do
    expect "$(tr 'A-F' 'a-f' <"/sys/class/tpm/tpm0/pcr-sha256/$pcr")" jq -r ".pcrs[\"$pcr\"]" /root/evidence.json
done
say "A changed event log does not match the quote"
refusals=0
for at in $(seq 100 40 1140); do
    jq -c --argjson at "$at" '.event_log |= (.[:$at] + "QUJD" + .[$at + 4:])' /root/evidence.json >/root/changed.json
    hostbadge verify evidence /root/changed.json --nonce "$nonce" --ak "$ak" >/dev/null || refusals=$((refusals + 1))
done
echo "$refusals of 27 changes were detected"
[ "$refusals" -ge 5 ] || fail "changes are not detected"

rm /etc/hostbadge/agents.d/prover.toml
show hostbadge agent reload --allow-empty
