#!/usr/bin/env bash
# Functions for scenarios; as a program, runs a part of one: lib.sh SCENARIO PART.
#
# A scenario runs as root from its first line to its last, and fails at the first command that fails. A
# scenario with a reboot is functions instead, part_1, part_2 and so on; each but the last ends in
# reboot_and_continue or cut_power_and_continue. Files survive both (a power cut only if they were synced),
# variables do not. A line `# limit: N s` allows each part N seconds instead of 180.
set -euo pipefail

vm=/srv/vm
output=

say() { printf '\n-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" && exit 1; }

# The last command's output contains this text.
says() { [[ $output == *"$1"* ]] || fail "its output lacks '$1'"; }

# The command succeeds and prints this text.
expect() {
    local text=$1
    shift
    show "$@" || fail "exit status $?"
    says "$text"
}

# The command fails; `says` checks its output.
refused() {
    ! show "$@" || fail "the command succeeded"
}

show() {
    local status=0
    printf '# %s\n' "$*"
    output=$("$@" 2>&1) || status=$?
    [ -z "$output" ] || printf '%s\n' "$output"
    return "$status"
}

# wait_for 'what' command…: waits 60 seconds, or $timeout.
wait_for() {
    local what=$1 end=$((SECONDS + ${timeout:-60}))
    shift
    until output=$("$@" 2>&1); do
        ((SECONDS < end)) || { printf '%s\n' "$output" && fail "timed out waiting for $what"; }
        sleep 0.3
    done
}

# as USER command…
as() {
    local user=$1
    shift
    runuser -u "$user" -- env XDG_RUNTIME_DIR="/run/user/$(id -u "$user")" "$@"
}

# Has the host do something to the machine, and waits until it is done:
#   tpm-stall        commands to the TPM wait, until tpm-resume
#   tpm-answer RC    the TPM answers every command with this code, until tpm-resume
#   tpm-restart      the TPM restarts under the running machine, and loses its memory
#   tpm-replace, tpm-remove, tpm-insert    take effect at the next power cut
host() {
    local answer
    echo "# host $*"
    printf 'do %s\n' "$*" >&3
    read -r -t 60 answer <&3 || fail "the host does not answer"
    [ "$answer" = "done" ] || fail "the host: $answer"
}

# Installs packages without network: hostbadge, or packages that are in the image.
need() {
    local package file
    for package in "$@"; do
        ! dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || continue
        file=$package
        [[ $package != hostbadge ]] || file=$vm/hostbadge.deb
        apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$file"
    done
}

# Fills a directory with the files of a container: busybox, and hostbadge with its libraries.
container_files() {
    local files=$1 applet
    mkdir -p "$files"/{bin,etc,proc,sys,dev,tmp,run/hostbadge}
    # Installing it would create the initrd again.
    dpkg-deb -x /var/lib/vm-packages/busybox-static_*.deb /srv/busybox
    find /srv/busybox -path '*/bin/busybox' -exec cp {} "$files/bin/" ';'
    cp /usr/bin/hostbadge "$files/bin/"
    for applet in sh sleep cat; do ln -s busybox "$files/bin/$applet"; done
    printf 'root:x:0:0::/:/bin/sh\nguest:x:1234:1234::/:/bin/sh\n' >"$files/etc/passwd"
    ldd /usr/bin/hostbadge | grep -oE '/[^ )]+' | xargs cp -L --parents -t "$files"
}

reboot_and_continue() { exit 250; }
cut_power_and_continue() { exit 251; }

if [[ $0 == "${BASH_SOURCE[0]}" ]]; then
    cd /root
    # shellcheck disable=SC1090 # the scenario
    source "$1"
    ! declare -F "part_$2" >/dev/null || "part_$2"
fi
