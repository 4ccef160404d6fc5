# shellcheck shell=bash
# `scripts/bench drill`: how long a snapshot takes from the archive to a proved database. Sourced by scripts/bench.

# scripts/bench sets these, and prints the table.
# shellcheck disable=SC2034,SC2153,SC2154

# run_drill SNAPSHOT: sets EXTRACT_MS, BOOT_MS, COMPARE_MS, RECOVERY_MS and WALL_MS. WALL_MS includes the reading back
# before every drill.
run_drill() {
    local begin
    sync
    begin=$(now_ms)
    "$VOLSNAP" --repo "$REPO" --json verify --drill "$1" >"$WORK/verify.json" 2>"$WORK/verify.log" </dev/null || {
        cat "$WORK/verify.log" "$WORK/verify.json" >&2
        die "volsnap verify --drill failed"
    }
    WALL_MS=$(($(now_ms) - begin))
    jq .drill "$WORK/verify.json" >"$WORK/snapshot.json"
    read_figure EXTRACT_MS extract_ms
    read_figure BOOT_MS boot_ms
    read_figure COMPARE_MS compare_ms
    read_figure RECOVERY_MS recovery_ms
}

# Prints the volumes of drills: a drill may leave none.
left_of_drills() { docker volume ls -q --filter name=volsnap-drill; }

bench_drill() {
    fill_postgres
    start_postgres
    : >"$WORK/filled"
    DATA=$(mountpoint_of "$VOLUME")
    TARGET=container:$CONTAINER QUIESCE=stop
    say "Taking a snapshot of it"
    run_volsnap
    wait_for_database
    note "$(gigabytes "$RAW_BYTES") of data, $(gigabytes "$STORED_BYTES") stored"
    local round id before raw_bytes=$RAW_BYTES
    id=$(jq -r .id "$WORK/snapshot.json")
    before=$(left_of_drills)
    local -a extract_ms=() boot_ms=() compare_ms=() recovery_ms=() wall_ms=()
    for ((round = 1; round <= ROUNDS; round++)); do
        say "Round $round of $ROUNDS"
        run_drill "$id"
        extract_ms+=("$EXTRACT_MS") boot_ms+=("$BOOT_MS") compare_ms+=("$COMPARE_MS")
        recovery_ms+=("$RECOVERY_MS") wall_ms+=("$WALL_MS")
        note "extract $(seconds "$EXTRACT_MS"), boot $(seconds "$BOOT_MS"), compare $(seconds "$COMPARE_MS"); answering after $(seconds "$RECOVERY_MS"), $(seconds "$WALL_MS") in all"
    done
    [[ $(left_of_drills) = "$before" ]] || die "a drill left something behind" "See: volsnap recover --list"

    local extract
    extract=$(median "${extract_ms[@]}")
    row 'extract: unpack, digest, prove' "$(seconds "$extract"), $(awk "BEGIN { printf \"%.0f\", $raw_bytes / 1000 / $extract }") MB/s"
    row 'boot, until it answers' "$(seconds "$(median "${boot_ms[@]}")")"
    row 'compare: facts, indexes, checks' "$(seconds "$(median "${compare_ms[@]}")")"
    row 'recovery: from the archive to an answer' "$(seconds "$(median "${recovery_ms[@]}")")"
    row 'verify --drill, all of it, with the reading back' "$(seconds "$(median "${wall_ms[@]}")")"
    print_table "$(gigabytes "$raw_bytes") of PostgreSQL data, half of it random"
}
