#!/usr/bin/env bash
# What a scenario is written with; as a program, runs a part of one: lib.sh SCENARIO PART.
#
# A scenario is run as root from its first line to its last, and fails at the first command that fails. One that outlives a
# reboot is functions instead, part_1, part_2 and so on, each but the last ending in reboot_and_continue or
# cut_power_and_continue. Variables do not outlive either, files do; a power cut, only those that were synced. `# limit: N s`
# on a line of its own allows a part more than 180 seconds.
set -euo pipefail

vm=/srv/vm
output=

say() { printf '\n-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" && exit 1; }

# The last command's output has this text in it.
says() { [[ $output == *"$1"* ]] || fail "its output lacks '$1'"; }

# The command succeeds, and says this.
expect() {
    local text=$1
    shift
    show "$@" || fail "exit status $?"
    says "$text"
}

# The command fails; `says` looks at what it said.
refused() {
    ! show "$@" || fail "this should have been refused"
}

show() {
    local status=0
    printf '# %s\n' "$*"
    output=$("$@" 2>&1) || status=$?
    [ -z "$output" ] || printf '%s\n' "$output"
    return "$status"
}

# wait_for 'what' command…: up to a minute, or $patience seconds.
wait_for() {
    local what=$1 end=$((SECONDS + ${patience:-60}))
    shift
    until output=$("$@" 2>&1); do
        ((SECONDS < end)) || { printf '%s\n' "$output" && fail "waited in vain for $what"; }
        sleep 0.3
    done
}

# as USER command…
as() {
    local user=$1
    shift
    runuser -u "$user" -- env XDG_RUNTIME_DIR="/run/user/$(id -u "$user")" "$@"
}

# Asks the host to do something to the machine, and waits until it has:
#   tpm-stall        commands to the TPM wait, until tpm-resume
#   tpm-answer RC    the TPM answers every command with this code, until tpm-resume
#   tpm-restart      the TPM loses what is in its memory, under the running machine
#   tpm-replace, tpm-remove, tpm-insert    at the next cut of the power
host() {
    local answer
    echo "# host $*"
    printf 'do %s\n' "$*" >&3
    read -r -t 60 answer <&3 || fail "the host does not answer"
    [ "$answer" = "done" ] || fail "the host: $answer"
}

# Installs a package with no network: hostbadge, or one that the image has in store.
need() {
    local package file
    for package in "$@"; do
        ! dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || continue
        file=$package
        [[ $package != hostbadge ]] || file=$vm/hostbadge.deb
        apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$file"
    done
}

reboot_and_continue() { exit 250; }
cut_power_and_continue() { exit 251; }

if [[ $0 == "${BASH_SOURCE[0]}" ]]; then
    cd /root
    # shellcheck disable=SC1090 # the scenario
    source "$1"
    ! declare -F "part_$2" >/dev/null || "part_$2"
fi
