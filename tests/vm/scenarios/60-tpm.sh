# A TPM that has a bad day stops no token, is named where people look, and is of use again by itself.
# limit: 300 s

need hostbadge
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
wait_for "the issuer" hostbadge status
works() { as bin hostbadge token "$audience" >/dev/null; }
works

say "It does not answer"
host tpm-stall
works
host tpm-resume
wait_for "the TPM" hostbadge status

say "It starts anew under the running kernel"
host tpm-restart
works
wait_for "the TPM" hostbadge status

say "It does not answer at the end and the next start of the daemon"
sleep 3
host tpm-stall
timeout 10 systemctl stop hostbadged.service || fail "the daemon does not end"
systemctl start --no-block hostbadged.service
named() { { hostbadge status || true; } | grep -E '^TPM +busy'; }
wait_for "the state by its name" named
refused as bin hostbadge token "$audience"
says "TPM"
host tpm-resume
patience=120 wait_for "the issuer" hostbadge status
works
expect "tpm-state" journalctl -t hostbadged -o json --no-pager
rm /etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
