# Writes a base backup of the server at 127.0.0.1; run as `sh -c SCRIPT volsnap USER PORT DIRECTORY RATE`, with
# the line of a password file on standard input, in a container of the server's image that shares its network. An empty
# RATE is none.
#
# The password is in no argument and no environment: only in a file in this container's own memory, that nobody else
# may read.
set -eu
umask 077
cat >/tmp/pgpass
export PGPASSFILE=/tmp/pgpass PGAPPNAME=volsnap LC_ALL=C
# What the image has for its clients must not lead elsewhere.
unset PGHOST PGHOSTADDR PGSERVICE PGSERVICEFILE PGUSER PGPASSWORD PGDATABASE PGSSLMODE PGOPTIONS PGREQUIREAUTH \
    PGTARGETSESSIONATTRS
# Nothing is forced to the disk: what is written here is read once more and then removed. The agent sends it there in
# small steps meanwhile, so that the server never waits behind much of it.
exec pg_basebackup --host=127.0.0.1 "--username=$1" "--port=$2" --no-password "--pgdata=$3" --format=plain \
    --wal-method=stream --checkpoint=fast --no-sync --progress ${4:+"--max-rate=$4"}
