# The machine is a Debian system with a TPM.

say "The system is up without failed units"
wait_for "the system to be up" systemctl is-system-running
expect "0 loaded units" systemctl list-units --failed

say "It has a TPM 2.0 and a boot event log"
expect 2 cat /sys/class/tpm/tpm0/tpm_version_major
[ -c /dev/tpmrm0 ]
[ "$(wc -c </sys/kernel/security/tpm0/binary_bios_measurements)" -gt 0 ]
show uname -r
show wc -c /sys/kernel/security/tpm0/binary_bios_measurements
show head -n 3 /sys/kernel/security/ima/ascii_runtime_measurements
