# Asks the server in this container; run as `sh -c SCRIPT volsnap ACTION PORT SECONDS`.
#
#   ready           exits with 0 once the server answers; tries again for SECONDS, not at all for 0
#   data-directory  prints where the server has its data
#
# It must run in dash and in busybox ash. Secrets come from the container's own environment and stay in the
# environment of the programs started here: no argument carries one.
action=$1 port=$2 seconds=$3

# setting VALUE FILE: the value, or the content of the file, as the official entrypoint takes them.
setting() {
    if [ -n "$1" ]; then printf '%s' "$1"; elif [ -n "$2" ] && [ -r "$2" ]; then cat "$2"; fi
}
user=$(setting "${POSTGRES_USER:-}" "${POSTGRES_USER_FILE:-}")
PGUSER=${user:-postgres}
database=$(setting "${POSTGRES_DB:-}" "${POSTGRES_DB_FILE:-}")
PGDATABASE=${database:-$PGUSER}
password=$(setting "${POSTGRES_PASSWORD:-}" "${POSTGRES_PASSWORD_FILE:-}")
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

case $action in
data-directory)
    # The database that was made at first may be gone by now.
    for PGDATABASE in "$PGDATABASE" postgres template1; do
        psql -XAtqw -h 127.0.0.1 -c 'show data_directory' 2>/dev/null && exit 0
        psql -XAtqw -c 'show data_directory' && exit 0
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
