# shellcheck shell=bash
# Runs test programs in labs, several labs at once if need be; a program is run by the first lab that comes to it.
# Sourced by scripts/lib/lab-tests, outside and inside the labs. What the labs tell each other lies in $LANES, a folder
# under out/: NAME.taken is there as soon as a lab has begun with a program, its file "lane" says which; NAME.status is
# its status.

LANES=$ROOT/out/lab-tests
# How often a lab is started whose host fails.
TRIES=3

# boot-0123456789abcdef is boot.
name_of() { basename -- "${1%-*}"; }

# run_programs LANE FILTER PROGRAM...: inside a lab; goes on after a failure, so that one run shows all.
run_programs() {
    local lane=$1 filter=$2 program name status
    shift 2
    for program; do
        name=$(name_of "$program")
        # One of the labs makes the folder, for the others it is there.
        mkdir "$LANES/$name.taken" 2>/dev/null || continue
        printf '%s\n' "$lane" >"$LANES/$name.taken/lane"
        status=0
        printf '\n%s:' "$name"
        "$program" --test-threads=1 ${COOPVIRT_LONG:+--include-ignored} ${filter:+"$filter"} || status=$?
        printf '%s\n' "$status" >"$LANES/$name.status"
    done
}

# in_lab LANE FILTER PROGRAM... -- LAB-OPTION...: runs them in one lab; if its host fails (status 125), what it had begun
# or left in another.
in_lab() {
    local lane=$1 filter=$2 programs=() program try=1 status
    shift 2
    while [ "$1" != -- ]; do
        programs+=("$1")
        shift
    done
    shift
    while :; do
        status=0
        "$ROOT/scripts/lab" "$@" -- bash "$ROOT/scripts/lib/lab-tests" --inside "$lane" "$filter" "${programs[@]}" \
            </dev/null || status=$?
        [ "$status" = 125 ] && [ "$try" -lt "$TRIES" ] || return "$status"
        try=$((try + 1))
        for program in "${programs[@]}"; do
            release "$(name_of "$program")" "$lane"
        done
        note "the lab failed: try $try of $TRIES, with what is left to run"
    done
}

# A program that a failed lab has begun can be begun again.
release() {
    [ ! -e "$LANES/$1.status" ] || return 0
    [ "$(cat "$LANES/$1.taken/lane" 2>/dev/null)" != "$2" ] || rm -r -- "$LANES/$1.taken"
}

# labelled LABEL COMMAND...: each line of what it says is preceded by LABEL and by the seconds since the script began.
labelled() {
    local label=$1 line
    shift
    "$@" 2>&1 | while IFS= read -r line; do
        printf '%-5s %4d  %s\n' "$label" "$SECONDS" "$line"
    done
}
