# shellcheck shell=bash
# Runs the steps of a longer script one after the other, with progress, times and a summary. Sourced by test and soak.

STEPS_PASSED=0
STEPS_FAILED=()

# step NAME COMMAND...: runs COMMAND; its output passes through. A failure is remembered and the next steps go on,
# so that one run shows all that is wrong.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    printf '\n== %s\n' "$name" >&2
    "$@" || status=$?
    if [ "$status" = 0 ]; then
        STEPS_PASSED=$((STEPS_PASSED + 1))
        printf '== %s: passed in %s s\n' "$name" $((SECONDS - began)) >&2
    else
        STEPS_FAILED+=("$name")
        printf '== %s: FAILED (status %s) after %s s\n' "$name" "$status" $((SECONDS - began)) >&2
    fi
}

# Prints the summary; the status says whether all passed. The line is one that test runners' readers know.
steps_end() {
    local name
    for name in "${STEPS_FAILED[@]}"; do note "failed: $name"; done
    note "took $((SECONDS / 60)) min $((SECONDS % 60)) s"
    printf 'steps: %d passed, %d failed\n' "$STEPS_PASSED" "${#STEPS_FAILED[@]}"
    [ ${#STEPS_FAILED[@]} = 0 ]
}
