# Boots the server on data that is nobody's; run as `sh -c SCRIPT volsnap DIRECTORY SCRATCH`, as the owner of the data.
#
# Nothing of how the data was served is needed or wanted: no password, no other machine, no archive, no jobs of its
# own. What of the configuration lies outside the data is there only if the image has it: SCRATCH/volsnap-elsewhere
# says `used PATH` of each file that is read, and `absent PATH` of each without which the server would not start.
#
# It must run in dash and in busybox ash.
umask 077
data=$1 scratch=$2
elsewhere=$scratch/volsnap-elsewhere settings=$scratch/volsnap.conf
printf '%s\n' 'local all all trust' 'host all all 127.0.0.1/32 trust' >"$scratch/volsnap-hba.conf"
: >"$scratch/volsnap-ident.conf"
command -v postgres >/dev/null || for bin in /usr/lib/postgresql/*/bin /opt/bitnami/postgresql/bin; do PATH=$PATH:$bin; done

# note WORD PATH: takes down a file of the configuration.
note() {
    real=$(readlink -f "$2" || readlink "$2") || real=$2
    printf '%s %s\n' "$1" "$real" >>"$elsewhere"
}

# trimmed TEXT: the text without the blanks before it.
trimmed() { printf '%s' "${1#"${1%%[!	 ]*}"}"; }

# flat FILE DEPTH: prints the settings of a file with those that it includes, as the server reads them.
flat() {
    # A file that includes itself is for the server to refuse.
    [ "$2" -le 10 ] || return 0
    if [ ! -f "$1" ] || [ ! -r "$1" ]; then
        note absent "$1"
        return 0
    fi
    note used "$1"
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        '#'*) continue ;;
        *[Ii][Nn][Cc][Ll][Uu][Dd][Ee]*) ;;
        *)
            printf '%s\n' "$line"
            continue
            ;;
        esac
        rest=$(trimmed "$line")
        name=${rest%%[!A-Za-z_]*}
        rest=$(trimmed "${rest#"$name"}")
        rest=$(trimmed "${rest#=}")
        case $rest in
        *"''"* | *\\*) name= path= ;;
        \'*) rest=${rest#\'} path=${rest%%\'*} ;;
        *) path=${rest%%[	 #]*} ;;
        esac
        case $path in /*) ;; *) path=${1%/*}/$path ;; esac
        case $(printf '%s' "$name" | tr A-Z a-z) in
        include) (flat "$path" $(($2 + 1))) ;;
        include_if_exists) if [ -e "$path" ]; then (flat "$path" $(($2 + 1))); fi ;;
        include_dir)
            [ -d "$path" ] || note absent "$path"
            for one in "$path"/*.conf; do
                if [ -f "$one" ]; then (flat "$one" $(($2 + 1))); fi
            done
            ;;
        *) printf '%s\n' "$line" ;;
        esac
    done <"$1"
}

# What the server last ran with, which may have been said in a file that is not there: a standby needs no less.
last_ran_with() {
    LC_ALL=C pg_controldata "$data" | while IFS=: read -r name value; do
        case $name in
        'max_connections setting' | 'max_worker_processes setting' | 'max_wal_senders setting') ;;
        'max_prepared_xacts setting') name='max_prepared_transactions setting' ;;
        'max_locks_per_xact setting') name='max_locks_per_transaction setting' ;;
        *) continue ;;
        esac
        printf '%s=%s\n' "${name% setting}" "$(trimmed "$value")"
    done
}

: >"$elsewhere"
# Where the configuration lies elsewhere, as with Debian's own packages, the defaults have to do.
own=$data/postgresql.conf replaced=
if [ -e "$own" ] || [ -h "$own" ]; then
    # Files of a directory are read in the order of their bytes.
    (export LC_ALL=C && flat "$own" 0) >"$settings"
    # Its own files stand as they are unless something that they name is not there.
    grep -q '^absent ' "$elsewhere" && replaced=yes
else
    : >"$settings" && replaced=yes
fi
set -- -D "$data" -c data_directory="$data" -c hba_file="$scratch/volsnap-hba.conf" \
    -c ident_file="$scratch/volsnap-ident.conf" -c listen_addresses=127.0.0.1 -c port=5432 \
    -c unix_socket_directories=/var/run/postgresql -c external_pid_file= -c ssl=off \
    -c archive_mode=off -c archive_command= -c restore_command= -c primary_conninfo= -c synchronous_standby_names= \
    -c autovacuum=off -c fsync=off -c shared_buffers=128MB -c huge_pages=off \
    -c logging_collector=off -c log_destination=stderr -c log_min_messages=warning -c log_statement=none
[ -n "$replaced" ] && set -- "$@" -c config_file="$settings"
# The container may have been started with arguments, which no file has.
last_ran_with >"$scratch/volsnap-limits"
while read -r limit; do set -- "$@" -c "$limit"; done <"$scratch/volsnap-limits"
exec postgres "$@"
