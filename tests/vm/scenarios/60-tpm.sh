# While the TPM fails, tokens are issued and status has the failure; the daemon recovers without a restart.
# limit: 300 s

need hostbadge
audience=https://api.example.com
printf 'name = "steady"\n[match]\nuser = "bin"\n[[grant]]\naudience = "%s"\n' "$audience" >/etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload
wait_for "the issuer" hostbadge status
works() { as bin hostbadge token "$audience" >/dev/null; }
works

say "The TPM is stalled"
host tpm-stall
works
host tpm-resume
wait_for "the TPM" hostbadge status

say "The TPM restarts under the running kernel"
host tpm-restart
works
wait_for "the TPM" hostbadge status

say "The TPM is stalled while the daemon stops and starts"
sleep 3
host tpm-stall
timeout 10 systemctl stop hostbadged.service || fail "the daemon does not stop"
systemctl start --no-block hostbadged.service
named() { { hostbadge status || true; } | grep -E '^TPM +busy'; }
wait_for "the state by its name" named
refused as bin hostbadge token "$audience"
says "TPM"
host tpm-resume
timeout=120 wait_for "the issuer" hostbadge status
works
expect "tpm-state" journalctl -t hostbadged -o json --no-pager
rm /etc/hostbadge/agents.d/steady.toml
show hostbadge agent reload --allow-empty
