# Asks the server in this container; run as `sh -c SCRIPT volsnap ACTION PORT SECONDS [DATA-DIRECTORY]`.
#
#   ready           exits with 0 once the server answers; tries again for SECONDS, not at all for 0
#   data-directory  prints where the server has its data
#   facts           prints what is true of the data, looking for SECONDS; further arguments: LEVEL PAGES, and the
#                   statements of cluster.sql, databases.sql and database.sql
#   query           prints what a query gives, within SECONDS; further arguments: DATABASE ("" for the service's), QUERY
#   online          prints what there is to know for a base backup, NAME=VALUE a line, the password last
#   configuration   prints the files of its configuration that lie outside its data directory; further arguments: the
#                   statements that name the files, and those that are included
#   shutdown        asks the server that has DATA-DIRECTORY for a fast shutdown
#   checkpoint      has the server write what it holds in memory to its files
#
# It must run in dash and in busybox ash. Secrets come from the container's own environment and stay in the
# environment of the programs started here: no argument carries one.
action=$1 port=$2 seconds=$3 data=${4:-}

# Whom the container's own clients connect as.
client_user=${PGUSER:-} client_password=${PGPASSWORD:-}

# setting VALUE FILE: the value, or the content of the file, as the official entrypoint takes them.
setting() {
    if [ -n "$1" ]; then printf '%s' "$1"; elif [ -n "$2" ] && [ -r "$2" ]; then cat "$2"; fi
}
# Not every image takes the official names.
own=$(setting "${POSTGRESQL_POSTGRES_PASSWORD:-}" "${POSTGRESQL_POSTGRES_PASSWORD_FILE:-}")
user=$(setting "${POSTGRES_USER:-}" "${POSTGRES_USER_FILE:-}")
if [ -z "$user" ] && [ -z "$own" ]; then user=${POSTGRESQL_USERNAME:-}; fi
user=${user:-${PGUSER_SUPERUSER:-}}
PGUSER=${user:-postgres}
database=$(setting "${POSTGRES_DB:-${POSTGRESQL_DATABASE:-}}" "${POSTGRES_DB_FILE:-}")
PGDATABASE=${database:-$PGUSER}
password=$(setting "${POSTGRES_PASSWORD:-}" "${POSTGRES_PASSWORD_FILE:-}")
password=${password:-$own}
if [ -z "$password" ]; then
    password=$(setting "${POSTGRESQL_PASSWORD:-}" "${POSTGRESQL_PASSWORD_FILE:-}")
    password=${password:-$(setting "${POSTGRES_PASS:-}" "${POSTGRES_PASS_FILE:-}")}
    password=${password:-${PGPASSWORD_SUPERUSER:-}}
fi
if [ -n "$password" ]; then export PGPASSWORD="$password"; fi
PGPORT=$port PGCONNECT_TIMEOUT=3
export PGUSER PGDATABASE PGPORT PGCONNECT_TIMEOUT
# What a container has for its clients must not lead these elsewhere. A directory in PGHOST is where the server's
# socket is.
unset PGHOSTADDR PGSERVICE PGSSLMODE PGOPTIONS PGREQUIREAUTH PGTARGETSESSIONATTRS
case ${PGHOST:-} in /*) ;; *) unset PGHOST ;; esac

# listening [-h HOST], answers [-h HOST]: without one, over the socket.
listening() { pg_isready -q -t 3 "$@"; }
answers() { psql -XAtqw "$@" -c 'select pg_is_in_recovery()' >/dev/null 2>&1; }

# Whether the server is the container's own, not the one that the official entrypoint starts for the first
# initialisation, which listens on the socket alone and goes away again.
initialised() {
    read -r first </proc/1/comm || return 1
    case $first in
    postgres | postmaster) return 0 ;;
    *sh | docker-entrypoi* | busybox) return 1 ;;
    esac
    # Some init is process 1.
    for comm in /proc/[0-9]*/comm; do
        if read -r name <"$comm"; then
            case $name in docker-entrypoi*) return 1 ;; esac
        fi
    done 2>/dev/null
    return 0
}

ready() {
    # A psql that ends with 1 had a session and its query failed. With 2 it had none: the environment may not have
    # (any more) what the server asks for. That it accepts connections is then as much as can be known; it is asked
    # again, lest it has gone meanwhile.
    if listening -h 127.0.0.1; then
        answers -h 127.0.0.1 && return 0
        [ $? -ne 1 ] || return 1
        answers && return 0
        [ $? -ne 1 ] && listening -h 127.0.0.1
    else
        # It may be set not to listen there.
        initialised && listening || return 1
        answers && return 0
        [ $? -ne 1 ] && listening
    fi
}

# in_a_database COMMAND…: the database that was made at first may be gone by now.
in_a_database() {
    for PGDATABASE in "$PGDATABASE" postgres template1; do
        psql -XAtqw -h 127.0.0.1 "$@" 2>/dev/null && return 0
        psql -XAtqw "$@" && return 0
    done
    return 1
}

# Has psql only read, wait for nobody, and take no more of the machine than one session needs.
read_only() {
    PGOPTIONS="-c default_transaction_read_only=on -c lock_timeout=500ms -c statement_timeout=$1"
    PGOPTIONS="$PGOPTIONS -c max_parallel_workers_per_gather=0 -c jit=off"
    PGCLIENTENCODING=UTF8 PGAPPNAME=volsnap
    export PGOPTIONS PGCLIENTENCODING PGAPPNAME
}

# Finds a database to begin with: over the socket, where the superuser mostly needs no password, else over TCP.
reach() {
    wanted=$PGDATABASE
    for PGDATABASE in "$wanted" postgres template1; do
        psql -XAtqw -c 'select 1' >/dev/null 2>&1 && return 0
    done
    PGHOST=127.0.0.1
    export PGHOST
    for PGDATABASE in "$wanted" postgres template1; do
        psql -XAtqw -c 'select 1' >/dev/null && return 0
    done
    return 1
}

# look STATEMENTS: through a pipe, so that they are neither in a file nor in the list of processes twice.
look() {
    printf '%s\n' "$1" | psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=verbose \
        -v level="$level" -v pages="$pages" -v deadline="$deadline" -v databases="$left" -f -
}

# may_back_up: what the server says of itself and of this role, and whether it lets it replicate. That is tried over
# TCP, as from another container that shares the network of this one: which line of pg_hba.conf applies, only the
# server knows.
may_back_up() {
    printf 'user=%s\n' "$PGUSER"
    if said=$(in_a_database -c "select concat_ws(E'\n', 'version=' || current_setting('server_version_num'),
        'wal_level=' || current_setting('wal_level'), 'max_wal_senders=' || current_setting('max_wal_senders'),
        'wal_senders=' || (select count(*) from pg_stat_replication),
        'max_slots=' || current_setting('max_replication_slots'),
        'slots=' || (select count(*) from pg_replication_slots), 'standby=' || pg_is_in_recovery(),
        'tablespaces=' || (select count(*) from pg_tablespace where pg_tablespace_location(oid) <> ''),
        'role=' || (select rolsuper or rolreplication from pg_roles where rolname = current_user))" 2>&1); then
        printf '%s\n' "$said"
    else
        printf 'unasked=%s\n' "$(one_line "$said")"
    fi
    if said=$(psql -XAtqw -d 'host=127.0.0.1 replication=true' -c IDENTIFY_SYSTEM 2>&1); then
        printf 'system=%s\n' "$said"
    else
        printf 'refused=%s\n' "$(one_line "$said")"
    fi
    printf 'password=%s' "${PGPASSWORD:-}"
}

one_line() { printf '%s' "$1" | tr '\n' ' '; }

case $action in
facts)
    level=$4 pages=$5 deadline=$(($(date +%s) + seconds)) left=1
    read_only 30s
    reach || exit 1
    look "$6" || exit 1
    names=$(look "$7") || exit 1
    left=$(printf '%s\n' "$names" | wc -l)
    set -f
    # Of each database its name, then what is true of it; what went wrong instead stands behind a mark.
    for name in $names; do
        printf '@%s\n' "$name"
        # The substitution would take away line ends that belong to the name.
        PGDATABASE=$(printf '%b.' "$name")
        PGDATABASE=${PGDATABASE%.}
        { said=$(look "$8" 2>&1 >&3 3>&-); } 3>&1 ||
            printf '%s\n' "$said" | while IFS= read -r line; do printf '!%s\n' "$line"; done
        left=$((left - 1))
    done
    echo end
    ;;
query)
    read_only "${seconds}s"
    PGDATABASE=${4:-$PGDATABASE}
    psql -XAtqw -c 'select 1' >/dev/null 2>&1 || {
        PGHOST=127.0.0.1
        export PGHOST
    }
    # After a line end: psql takes what begins with a backslash for a command of its own.
    psql -XAtqw -v ON_ERROR_STOP=1 -c "
$5"
    ;;
data-directory)
    in_a_database -c 'show data_directory'
    exit
    ;;
configuration)
    # A role that may not see this would be shown a part of the rest.
    data=$(in_a_database -c 'show data_directory') && data=$(readlink -f "$data") || exit 1
    named=$(in_a_database -c "$4") || exit 1
    # Not every role may see what is included.
    included=$(in_a_database -c "$5" 2>/dev/null)
    printf '%s\n%s\n' "$named" "$included" | while IFS= read -r file; do
        case $file in
        '') continue ;;
        /*) ;;
        *) file=$data/$file ;;
        esac
        real=$(readlink -f "$file") || real=$file
        case $real in "$data"/*) ;; *) printf '%s\n' "$real" ;; esac
    done | sort -u
    ;;
online)
    found=$(may_back_up)
    case $found in
    *"
system="*) ;;
    *)
        if [ -n "$client_user" ] && [ "$client_user" != "$PGUSER" ]; then
            export PGPASSWORD="$client_password"
            other=$(PGUSER=$client_user && may_back_up)
            case $other in
            *"
system="*) found=$other ;;
            esac
        fi
        ;;
    esac
    stat -c 'owner=%u:%g' "$data" || exit 1
    printf '%s' "$found"
    ;;
shutdown)
    # A supervisor hands on at best the signal of a shutdown that waits for every session.
    read -r pid <"$data/postmaster.pid" && kill -INT "$pid"
    exit
    ;;
checkpoint)
    for PGDATABASE in "$PGDATABASE" postgres template1; do
        psql -XAtqw -h 127.0.0.1 -c 'checkpoint' 2>/dev/null && exit 0
        psql -XAtqw -c 'checkpoint' && exit 0
    done
    exit 1
    ;;
ready)
    command -v pg_isready >/dev/null || {
        echo 'there is no pg_isready in the container' >&2
        exit 127
    }
    ready && exit 0
    end=$(($(date +%s) + seconds))
    # Not every sleep knows fractions of a second.
    if [ "$seconds" -gt 0 ]; then sleep 0.05 2>/dev/null && pause=0.05 || pause=1; fi
    while [ "$(date +%s)" -lt "$end" ]; do
        ready && exit 0
        sleep "$pause"
    done
    # Says why: starting up, no response …
    pg_isready -t 3 -h 127.0.0.1 >&2
    exit 1
    ;;
esac
