# shellcheck shell=bash
# `scripts/bench downtime`: how long the service is down, for each way of holding it. Sourced by scripts/bench.
#
# The database serves 200 transactions a second of pgbench throughout. Another client makes one small write every
# 10 ms. The server notes when it gets to each write and over which connection: so a freeze, a stop and a lost
# connection all show, and only the server's clock counts. Load and client run in containers of their own (a freeze
# would include them in the database's), and reach the database over its socket in a volume: the volume of the data is
# the database's alone.

# scripts/bench sets these, and prints the table.
# shellcheck disable=SC2034,SC2153,SC2154
LOAD=$CONTAINER-load CLIENT=$CONTAINER-client SOCKETS=$CONTAINER-sockets
# Transactions a second of the load, and the number of its clients.
LOAD_RATE=200 LOAD_CLIENTS=4

tidy_downtime() {
    docker rm -f -v "$LOAD" "$CLIENT" "$CONTAINER" >/dev/null 2>&1 || true
    docker volume rm -f "$SOCKETS" >/dev/null 2>&1 || true
}

# Like start_postgres, with the socket in the volume.
start_served() {
    docker volume create --label volsnap.bench=1 "$SOCKETS" >/dev/null
    SERVE=(-v "$SOCKETS:/var/run/postgresql")
    start_postgres
    SERVE=()
}

# beside NAME SCRIPT: starts a container beside the database that runs SCRIPT for ever. It tries again whenever the
# database is down, as a service would.
beside() {
    docker rm -f -v "$1" >/dev/null 2>&1 || true
    docker run -d --name "$1" --label volsnap.bench=1 --network none -v "$SOCKETS:/var/run/postgresql" \
        -e PGUSER=postgres -e PGDATABASE=postgres --entrypoint sh "$VOLSNAP_TEST_IMAGE" \
        -c "trap 'exit 0' TERM; while :; do { $2; } >/dev/null 2>&1; sleep 0.05; done" >/dev/null </dev/null
}

start_load() {
    beside "$LOAD" "pgbench -n -c $LOAD_CLIENTS -R $LOAD_RATE -T 86400"
    local before
    before=$(sql 'SELECT count(*) FROM pgbench_history')
    for ((SECONDS = 0; SECONDS < 60; )); do
        sleep 0.2
        if (($(sql 'SELECT count(*) FROM pgbench_history') > before)); then return; fi
    done
    die "pgbench does not run" "See: docker logs $LOAD"
}

start_client() {
    sql 'SET client_min_messages = warning;
         DROP TABLE IF EXISTS beats;
         CREATE TABLE beats (at timestamptz NOT NULL DEFAULT clock_timestamp(), pid int NOT NULL DEFAULT pg_backend_pid())'
    beside "$CLIENT" 'printf "%s\n" "INSERT INTO beats DEFAULT VALUES \watch 0.01" | psql -X'
    for ((SECONDS = 0; SECONDS < 60; )); do
        sleep 0.2
        if (($(sql 'SELECT count(*) FROM beats') > 20)); then return; fi
    done
    die "the client does not write" "See: docker logs $CLIENT"
}

stop_client() { docker rm -f -v "$CLIENT" >/dev/null 2>&1 || true; }

# seen_since MOMENT: sets GAP_MS, the longest time between two writes of the client since then, and LOST, the
# connections it has lost. A gap that has not ended yet counts as well.
seen_since() {
    read -r GAP_MS LOST < <(sql "
        WITH seen AS (SELECT at, pid FROM beats WHERE at >= '$1' UNION ALL SELECT clock_timestamp(), NULL)
        SELECT round(1000 * extract(epoch FROM max(gap))), count(DISTINCT pid) - 1
        FROM (SELECT pid, at - lag(at) OVER (ORDER BY at) AS gap FROM seen) AS gaps" | tr '|' ' ')
    [[ $GAP_MS =~ ^[0-9]+$ && $LOST =~ ^[0-9]+$ ]] || die "the client wrote nothing since $1" "See: docker logs $CLIENT"
}

# held QUIESCE CAPTURE: a snapshot under load. Sets DOWNTIME_MS, WALL_MS and PHASES.
held() {
    local begin
    rm -rf "$REPO"
    begin=$(now_ms)
    "$VOLSNAP" --repo "$REPO" --json snapshot "container:$CONTAINER" --quiesce "$1" --capture "$2" \
        >"$WORK/snapshot.json" 2>"$WORK/snapshot.log" </dev/null || {
        cat "$WORK/snapshot.log" >&2
        die "volsnap snapshot --quiesce $1 --capture $2 failed"
    }
    WALL_MS=$(($(now_ms) - begin))
    read_figure DOWNTIME_MS downtime_ms
    read_figure RAW_BYTES raw_bytes
    PHASES=$(jq -r '(if type == "array" then .[0] else . end).phases | map("\(.phase) \(.ms)") | join(", ")' \
        "$WORK/snapshot.json")
    wait_for_database
}

# The floor: how long any stop and start of this database takes under this load. Sets FLOOR_MS.
run_floor() {
    local begin
    begin=$(now_ms)
    docker stop -t 600 "$CONTAINER" >/dev/null
    docker start "$CONTAINER" >/dev/null
    wait_for_database
    FLOOR_MS=$(($(now_ms) - begin))
}

# Each measurement ends with the load back on for a while: a database that has just started, or has just written a
# checkpoint, would have it easier than one in service.
settle() { sleep 3; }

measure_floor() {
    run_floor
    floor_ms+=("$FLOOR_MS")
    note "docker stop, start     $(milliseconds "$FLOOR_MS")"
    settle
}

measure_staged() {
    held stop staged
    staged_ms+=("$DOWNTIME_MS")
    note "staged, stop           $(milliseconds "$DOWNTIME_MS") down, $(seconds "$WALL_MS") in all ($PHASES)"
    settle
}

# measure_seen QUIESCE CAPTURE GAPS: puts what the client sees of a snapshot into the array GAPS and LOST_IN_ALL.
measure_seen() {
    local -n gaps=$3
    local begin
    # The client also feels the removal of gigabytes at once, which is not the snapshot's doing.
    rm -rf "$REPO"
    settle
    start_client
    begin=$(sql 'SELECT clock_timestamp()')
    if [[ $1 = nothing ]]; then sleep "$(awk "BEGIN { print $WALL_MS / 1000 }")"; else held "$1" "$2"; fi
    sleep 0.5
    seen_since "$begin"
    stop_client
    gaps+=("$GAP_MS")
    LOST_IN_ALL[$1]=$((${LOST_IN_ALL[$1]:-0} + LOST))
    if [[ $1 = nothing ]]; then
        note "no snapshot            longest gap $(milliseconds "$GAP_MS") in $(seconds "$WALL_MS")"
    else
        note "$(printf '%-22s' "$1") longest gap $(milliseconds "$GAP_MS"), $LOST connections lost, $(seconds "$WALL_MS") in all ($PHASES)"
    fi
    settle
}

# The memory of a staged snapshot. Only the state of the stage grows with the volume, by 16 bytes for 256 KiB.
# (tests/docker/staging.rs stages 100 GB of a sparse file, and reads the same of its helper.)
measure_staged_memory() {
    say "Memory while staging, in a round of its own"
    TARGET=container:$CONTAINER QUIESCE=stop WARM_UP=0 measure_memory staged
    wait_for_database
    PEAK_MIB=$((PEAK_KIB / 1024))
    LARGE_MIB=$((PEAK_MIB + (100 * 1000 * 1000 * 1000 - RAW_BYTES) / 262144 * 16 / 1048576))
    note "$PEAK_PARTS MiB; for 100 GB $LARGE_MIB MiB"
    settle
}

milliseconds() { printf '%.0f ms' "$1"; }

# Writes the same tables again, past the log like the first ones.
double_postgres() {
    say "Doubling the volume"
    stop_load
    docker stop -t 600 "$CONTAINER" >/dev/null
    start_postgres "${FILL_SETTINGS[@]}"
    local table
    for table in blobs documents pgbench_accounts; do sql "CREATE TABLE more_$table AS TABLE $table"; done
    sql 'CHECKPOINT'
    docker stop -t 600 "$CONTAINER" >/dev/null
    start_served
    start_load
}

# Leaves the volume as the other benchmarks want it.
undo_doubling() {
    sql 'SET client_min_messages = warning;
         DROP TABLE IF EXISTS beats, more_blobs, more_documents, more_pgbench_accounts'
    sql 'CHECKPOINT'
}

stop_load() { docker rm -f -v "$LOAD" >/dev/null 2>&1 || true; }

# Whether the volume's file system can copy files by reference.
has_reflink() {
    local probe
    probe=$(dirname "$DATA")/.volsnap-bench-reflink
    echo x >"$probe"
    local status=1
    if cp --reflink=always "$probe" "$probe.copy" 2>/dev/null; then status=0; fi
    rm -f "$probe" "$probe.copy"
    return "$status"
}

bench_downtime() {
    fill_postgres
    start_served
    : >"$WORK/filled"
    undo_doubling
    DATA=$(mountpoint_of "$VOLUME")
    start_load
    settle

    local round order what
    local -a floor_ms=() staged_ms=() pause_ms=() online_ms=() nothing_ms=()
    local -A LOST_IN_ALL=()
    for ((round = 1; round <= ROUNDS; round++)); do
        say "Round $round of $ROUNDS"
        # The order alternates: a drift (of a disk, a cache, a growing log) helps nobody.
        if ((round % 2)); then order='floor staged pause online'; else order='online pause staged floor'; fi
        for what in $order; do
            case $what in
            floor) measure_floor ;;
            staged) measure_staged ;;
            pause) measure_seen pause staged pause_ms ;;
            online)
                measure_seen online auto online_ms
                # As long again without a snapshot: what the load alone does to that client.
                measure_seen nothing '' nothing_ms
                ;;
            esac
        done
    done
    local raw_bytes=$RAW_BYTES PEAK_MIB LARGE_MIB
    measure_staged_memory
    if ((USUAL)); then
        say "The usual procedure, under the same load: docker stop, docker run … tar czf, docker start"
        WARM_UP=0 run_usual
        note "down for $(seconds "$USUAL_MS")"
        settle
    fi
    local floor staged doubled
    floor=$(median "${floor_ms[@]}") staged=$(median "${staged_ms[@]}")

    double_postgres
    settle
    staged_ms=()
    for ((round = 1; round <= ROUNDS; round++)); do measure_staged; done
    doubled=$(median "${staged_ms[@]}")
    local doubled_bytes=$RAW_BYTES
    if ((KEEP_DATA)); then undo_doubling; fi
    stop_load
    docker stop -t 600 "$CONTAINER" >/dev/null

    local reach=500 kind=copied
    if has_reflink; then reach=300 kind=reflinked; fi
    row 'bare stop, start, answer: the floor' "$(milliseconds "$floor")"
    row "staged + stop, minus the floor ($kind)" "$(milliseconds "$staged") − $(milliseconds "$floor") = $(calculate "$staged - $floor" | sed 's/[.].*//') ms" \
        "≤ $reach ms" "$staged > 0 && $staged - $floor <= $reach"
    if ((USUAL)); then
        row 'staged + stop against the usual procedure' \
            "$(milliseconds "$staged") against $(seconds "$USUAL_MS"): 1/$(awk "BEGIN { printf \"%.1f\", $USUAL_MS / $staged }")" \
            '≤ 1/25' "$staged > 0 && $staged <= $USUAL_MS / 25"
    fi
    row 'pause: longest gap of a client that writes every 10 ms' \
        "$(milliseconds "$(median "${pause_ms[@]}")"), ${LOST_IN_ALL[pause]} connections lost" \
        '≤ 500 ms, 0 lost' "$(median "${pause_ms[@]}") <= 500 && ${LOST_IN_ALL[pause]} == 0"
    row 'online: longest gap of that client' \
        "$(milliseconds "$(median "${online_ms[@]}")"), ${LOST_IN_ALL[online]} connections lost" \
        '≤ 100 ms' "$(median "${online_ms[@]}") <= 100 && ${LOST_IN_ALL[online]} == 0"
    row 'no snapshot, as long: longest gap of that client' "$(milliseconds "$(median "${nothing_ms[@]}")")"
    row 'staged + stop, the volume doubled' \
        "$(milliseconds "$doubled") for $(gigabytes "$doubled_bytes") against $(milliseconds "$staged") for $(gigabytes "$raw_bytes"): $(calculate "$doubled / $staged") ×" \
        '≤ 1.1 ×' "$staged > 0 && $doubled <= 1.1 * $staged"
    row 'memory of a staged snapshot (command, guard and helper)' \
        "$PEAK_MIB MiB for $(gigabytes "$raw_bytes"), so $LARGE_MIB MiB for 100 GB" \
        '≤ 256 MiB for 100 GB' "$PEAK_MIB > 0 && $LARGE_MIB <= 256"
    print_table "$(gigabytes "$raw_bytes") of PostgreSQL data${FS:+ on $FS} under $LOAD_RATE transactions a second of pgbench"
}
