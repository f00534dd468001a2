# The machine is a plain Debian with a TPM.

say "It is up, and nothing failed"
wait_for "the system to be up" systemctl is-system-running
expect "0 loaded units" systemctl list-units --failed

say "It has a TPM 2.0, and the log of what the firmware measured"
expect 2 cat /sys/class/tpm/tpm0/tpm_version_major
[ -c /dev/tpmrm0 ]
[ "$(wc -c </sys/kernel/security/tpm0/binary_bios_measurements)" -gt 0 ]
show uname -r
show wc -c /sys/kernel/security/tpm0/binary_bios_measurements
show head -n 3 /sys/kernel/security/ima/ascii_runtime_measurements
