# A TPM that does not answer, or with an error, or has forgotten all it held, is of use again when that is over.

need tpm2-tools
random=(timeout 30 tpm2_getrandom --tcti device:/dev/tpmrm0 --hex 8)
show "${random[@]}"

say "It does not answer, and the kernel gives up"
host tpm-stall
refused "${random[@]}"
says "Timer expired"
host tpm-resume
wait_for "the TPM" "${random[@]}"

say "It says that it is locked out"
host tpm-answer 0x921
refused "${random[@]}"
says 0x921
host tpm-resume
wait_for "the TPM" "${random[@]}"

say "It starts anew under the running kernel"
host tpm-restart
wait_for "the TPM" "${random[@]}"
