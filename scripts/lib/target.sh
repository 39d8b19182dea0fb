# shellcheck shell=bash
# Where cargo puts what it builds: outside the clone, so that a clone made anew at the same place does not compile every
# dependency again. Keyed by what dependencies are made from and by the clone's place: cargo takes two clones for one
# workspace and goes by file times, so a shared folder could hand one clone the programs of the other.
# Sourced after common.sh; a CARGO_TARGET_DIR of the caller's own wins.

use_cached_target() {
    local key
    [ -z "${CARGO_TARGET_DIR:-}" ] || return 0
    key=$({ cat "$ROOT/Cargo.lock" "$ROOT/Cargo.toml" && rustc -vV && printf '%s\n' "$ROOT"; } | sha256sum | cut -c1-16)
    export CARGO_TARGET_DIR=$CACHE/target/$key
    mkdir -p "$CARGO_TARGET_DIR"
    # Older ones are of no use to anybody once they have not been touched for two weeks.
    find "$CACHE/target" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} + 2>/dev/null || true
    touch "$CARGO_TARGET_DIR"
}
