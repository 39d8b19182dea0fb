# shellcheck shell=bash
# What every script shares: where things lie, how to speak, and how to build a cached artefact.
# Sourced by scripts/*, after `set -euo pipefail`; it must never print to stdout or change the caller's folder.

# A failure inside $(...) is a failure of the script.
shopt -s inherit_errexit

# The clone this script belongs to, and the cache, which lies outside every clone and is shared by all of them.
# shellcheck disable=SC2034  # for the scripts that source this
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
CACHE=${COOPVIRT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/coopvirt}
export COOPVIRT_CACHE=$CACHE

# depmod, modprobe and friends live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

SELF=$(basename -- "$0")

# One line for the person who waits; never on stdout, which belongs to results.
note() { printf '%s: %s\n' "$SELF" "$*" >&2; }

# End with one line; the status is 1, or what COOPVIRT_STATUS says (the lab keeps 125 for its own failures).
die() {
    note "$*"
    exit "${COOPVIRT_STATUS:-1}"
}

# The comment block at the top of the calling script is its help.
show_help() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

is_number() { [[ $1 =~ ^[1-9][0-9]{0,6}$ ]]; }

# Whether this machine can run guests itself.
has_kvm() { grep -qwE 'svm|vmx' /proc/cpuinfo && (: <>/dev/kvm) 2>/dev/null; }

# Whether scripts/lab would emulate a host.
in_the_lab() {
    case ${COOPVIRT_LAB_WHEN:-auto} in
        always) true ;;
        never) false ;;
        *) ! has_kvm ;;
    esac
}

need() {
    local program
    for program; do
        command -v "$program" >/dev/null || die "$program is missing: run scripts/setup"
    done
}

# cached KIND KEY-TEXT BUILDER [ARG...]: prints the folder $CACHE/store/KIND-<hash of KEY-TEXT>. Where it does not
# exist yet, BUILDER is called with an empty folder and ARGs; only a folder that was built to its end is ever seen.
cached() {
    local kind=$1 key dir tmp
    key=$(printf '%s' "$2" | sha256sum | cut -c1-16)
    shift 2
    dir=$CACHE/store/$kind-$key
    if [ ! -d "$dir" ]; then
        mkdir -p "$CACHE/store"
        tmp=$(mktemp -d "$CACHE/store/.building.XXXXXX")
        chmod 755 "$tmp"
        # Not under `if` or `||`: that would switch errexit off inside the builder.
        (
            set -e
            trap '[ $? = 0 ] || { rm -rf -- "$tmp"; note "preparing the $kind failed"; }' EXIT
            "$1" "$tmp" "${@:2}" >&2
        )
        # Somebody else may have been faster: then theirs is as good as ours.
        mv -T -- "$tmp" "$dir" 2>/dev/null || rm -rf -- "$tmp"
    fi
    printf '%s\n' "$dir"
}

# watched LOG COMMAND...: runs it with its output in LOG, and says every ten seconds how far it is. kbuild and
# `ninja -v` print one line for every file they make.
watched() {
    local log=$1 pid status=0
    shift
    "$@" >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 10
        note "  $(wc -l <"$log") files: $(tail -n 1 -- "$log" | tr -s ' ' | cut -c1-80)"
    done
    wait "$pid" || status=$?
    [ "$status" = 0 ] || { grep -E -A5 'error|Error|\*\*\*' -- "$log" | tail -n 30 >&2; }
    return "$status"
}
