# Boots the server on data that is nobody's; run as `sh -c SCRIPT volsnap DIRECTORY`, as the owner of the data.
#
# Nothing of how the data was served is needed or wanted: no password, no other machine, no archive, no jobs of its
# own. It must run in dash and in busybox ash.
umask 077
printf '%s\n' 'local all all trust' 'host all all 127.0.0.1/32 trust' >/tmp/volsnap-hba.conf
# Where the configuration lies elsewhere, as with Debian's own packages, the defaults have to do.
for file in postgresql.conf pg_ident.conf; do [ -e "$1/$file" ] || : >"$1/$file"; done
command -v postgres >/dev/null || for bin in /usr/lib/postgresql/*/bin /opt/bitnami/postgresql/bin; do PATH=$PATH:$bin; done
exec postgres -D "$1" -c hba_file=/tmp/volsnap-hba.conf -c listen_addresses=127.0.0.1 -c port=5432 \
    -c unix_socket_directories=/var/run/postgresql -c external_pid_file= -c ssl=off \
    -c archive_mode=off -c archive_command= -c restore_command= -c primary_conninfo= -c synchronous_standby_names= \
    -c autovacuum=off -c fsync=off -c shared_buffers=128MB -c huge_pages=off \
    -c logging_collector=off -c log_destination=stderr -c log_min_messages=warning -c log_statement=none
