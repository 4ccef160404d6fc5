# shellcheck shell=bash
# `scripts/bench migrate`: how long the service is down while its volume becomes a host directory. Sourced by
# scripts/bench, after bench-downtime.sh, whose load and client it uses.
#
# A Compose project serves 200 transactions a second of pgbench from a copy of the fixture's volume. Each round measures
# the client's longest gap between two writes three times: over a bare down and up, over the move by hand (down, cp -a,
# chown, edit, up), and over the migration. After each move the project goes back to its volume, which neither move
# touches.

# scripts/bench and bench-downtime.sh set these, and scripts/bench prints the table.
# shellcheck disable=SC2034,SC2153,SC2154
PROJECT=${CONTAINER//-/} PROJECT_VOLUME=${CONTAINER//-/}_data MOVED=$WORK/moved

tidy_migrate() {
    docker rm -f -v "$LOAD" "$CLIENT" "$CONTAINER" >/dev/null 2>&1 || true
    docker volume rm -f "$PROJECT_VOLUME" "$SOCKETS" >/dev/null 2>&1 || true
    docker network rm "${PROJECT}_default" >/dev/null 2>&1 || true
}

write_project() {
    cat >"$WORK/project/compose.yaml" <<YAML
services:
  db:
    image: $VOLSNAP_TEST_IMAGE
    container_name: $CONTAINER
    network_mode: none
    shm_size: 256m
    stop_grace_period: 10m
    restart: unless-stopped
    labels:
      volsnap.bench: "1"
    environment:
      POSTGRES_HOST_AUTH_METHOD: trust
    volumes:
      - data:/var/lib/postgresql/data   # where the data is
      - sockets:/var/run/postgresql
volumes:
  data:
    labels:
      volsnap.bench: "1"
  sockets:
    external: true
    name: $SOCKETS
YAML
}

in_project() { (cd "$WORK/project" && compose -p "$PROJECT" "$@") >>"$WORK/compose.log" 2>&1 </dev/null; }

# Starts the project on a copy of the fixture: the fixture itself stays as the other benchmarks want it.
start_project() {
    say "Starting a Compose project on a copy of the volume"
    # The container that filled the fixture has the name.
    docker rm -f -v "$CONTAINER" >/dev/null 2>&1 || true
    mkdir -p "$WORK/project"
    docker volume create --label volsnap.bench=1 "$SOCKETS" >/dev/null
    write_project
    in_project up --no-start || project_failed
    cp -a "$(mountpoint_of "$VOLUME")/." "$(mountpoint_of "$PROJECT_VOLUME")/"
    in_project up -d || project_failed
    wait_for_database
}

project_failed() {
    cat "$WORK/compose.log" >&2
    die "Compose failed in $WORK/project"
}

down_and_up() {
    in_project down || project_failed
    in_project up -d || project_failed
}

# What people do: the owner is that of the data, and the edit is as quick as possible.
move_by_hand() {
    mkdir -p "$MOVED"
    in_project down || project_failed
    docker run --rm --network none --label volsnap.bench=1 -v "$PROJECT_VOLUME:/from:ro" -v "$MOVED:/to" \
        --entrypoint sh "$VOLSNAP_TEST_IMAGE" -c 'cp -a /from/. /to/ && chown -R "$(stat -c %u:%g /from)" /to' </dev/null
    sed -i "s|- data:|- $MOVED:|" "$WORK/project/compose.yaml"
    in_project up -d || project_failed
}

# Leaves its report in $WORK/migrate.json, and its progress in $WORK/migrate.log.
migrate_it() {
    (cd "$WORK/project" && VOLSNAP_STATE_DIR=$WORK/state "$VOLSNAP" --repo "$REPO" --json -vv \
        migrate "service:$PROJECT/db" "$MOVED" -y) >"$WORK/migrate.json" 2>"$WORK/migrate.log" </dev/null || {
        cat "$WORK/migrate.log" >&2
        die "volsnap migrate failed"
    }
}

# Goes back to the volume, and removes the directory; its pages are written or forgotten.
go_back() {
    in_project down || project_failed
    rm -rf "$MOVED" "$WORK/state"
    rm -f "$WORK/project"/*
    write_project
    in_project up -d || project_failed
    wait_for_database
    sync
    settle
}

# Without the load, everything would be faster than it is.
refuse_idle() {
    local made
    made=$(sql "SELECT count(*) FROM pgbench_history WHERE mtime > localtimestamp - interval '2 s'")
    ((made >= LOAD_RATE)) || die "pgbench makes $made transactions in two seconds, instead of $((2 * LOAD_RATE))" \
        "See: docker logs $LOAD"
}

# gap_of COMMAND: runs it, and sets GAP_MS, the longest time for which a client could not write.
gap_of() {
    local begin
    start_client
    refuse_idle
    begin=$(sql 'SELECT clock_timestamp()')
    "$1"
    wait_for_database
    # The client may be between two attempts.
    sleep 0.5
    seen_since "$begin"
    stop_client
}

measure_down_and_up() {
    gap_of down_and_up
    floor_ms+=("$GAP_MS")
    note "down, up               down for $(milliseconds "$GAP_MS")"
    settle
}

measure_by_hand() {
    gap_of move_by_hand
    refuse_other_mount
    hand_ms+=("$GAP_MS")
    note "by hand                down for $(milliseconds "$GAP_MS")"
    go_back
}

measure_migrate() {
    local own all
    gap_of migrate_it
    refuse_other_mount
    read_report own downtime_ms
    read_report all elapsed_ms
    migrate_ms+=("$GAP_MS") own_ms+=("$own") all_ms+=("$all")
    note "volsnap migrate        down for $(milliseconds "$GAP_MS") (by its own account $(milliseconds "$own")), $(seconds "$all") in all"
    go_back
}

# read_report VARIABLE KEY: a number of the migration's JSON.
read_report() {
    local value
    value=$(jq -r --arg key "$2" 'if type == "array" then .[0] else . end | .[$key] // empty' "$WORK/migrate.json")
    [[ $value =~ ^[0-9]+$ ]] || die "volsnap migrate --json has no $2"
    printf -v "$1" %s "$value"
}

# A move that moves nothing would be fast.
refuse_other_mount() {
    docker inspect -f '{{range .Mounts}}{{.Source}} {{end}}' "$CONTAINER" | grep -qF "$MOVED " ||
        die "the database does not run on $MOVED"
}

bench_migrate() {
    ensure_compose
    fill_postgres
    : >"$WORK/filled"
    start_project
    start_load
    settle
    local round order what bytes
    bytes=$(bytes_in "$(mountpoint_of "$PROJECT_VOLUME")")
    local -a floor_ms=() hand_ms=() migrate_ms=() own_ms=() all_ms=()
    for ((round = 1; round <= ROUNDS; round++)); do
        say "Round $round of $ROUNDS"
        # The order alternates: a drift helps nobody.
        if ((round % 2)); then order='down_and_up by_hand migrate'; else order='migrate by_hand down_and_up'; fi
        for what in $order; do "measure_$what"; done
    done
    stop_load

    local floor hand migrate own
    floor=$(median "${floor_ms[@]}") hand=$(median "${hand_ms[@]}") migrate=$(median "${migrate_ms[@]}") own=$(median "${own_ms[@]}")
    row 'bare compose down and up: the floor' "$(milliseconds "$floor")"
    row 'by hand: down, cp -a, chown, edit, up' "$(milliseconds "$hand")"
    row 'volsnap migrate' "$(milliseconds "$migrate"), by its own account $(milliseconds "$own"); $(seconds "$(median "${all_ms[@]}")") in all"
    row 'migrate against by hand' "1/$(awk "BEGIN { printf \"%.1f\", $hand / $migrate }")" '≤ 1/5' "$migrate > 0 && $migrate <= $hand / 5"
    row 'migrate, minus the floor' "$(milliseconds "$migrate") − $(milliseconds "$floor") = $(awk "BEGIN { printf \"%d\", $migrate - $floor }") ms" \
        '≤ 3000 ms' "$migrate > 0 && $migrate - $floor <= 3000"
    print_table "$(gigabytes "$bytes") of PostgreSQL data under $LOAD_RATE transactions a second of pgbench"
}
