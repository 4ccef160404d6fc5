# Compares every index with its table; run as `sh -c SCRIPT volsnap` in a booted copy.
#
# Exit status 0: nothing found; 2: what is damaged is on standard output; 3: it cannot be looked at, and standard
# output says why. It must run in dash and in busybox ash.
command -v pg_amcheck >/dev/null || for bin in /usr/lib/postgresql/*/bin /opt/bitnami/postgresql/bin; do PATH=$PATH:$bin; done
command -v pg_amcheck >/dev/null || { echo 'the image has no pg_amcheck'; exit 3; }
PGUSER=${POSTGRES_USER:-postgres}
export PGUSER
for PGDATABASE in postgres template1; do
    export PGDATABASE
    has=$(psql -XAtqw -c "select count(*) from pg_available_extensions where name = 'amcheck'" 2>/dev/null) && break
done
[ "${has:-0}" = 1 ] || { echo 'the image has no extension amcheck'; exit 3; }
[ "$(psql -XAtqw -c 'select pg_is_in_recovery()')" = f ] || { echo 'a standby stays one, and is only read'; exit 3; }
said=$(pg_amcheck --all --install-missing --no-password 2>&1)
case $? in
0) exit 0 ;;
2) printf '%s\n' "$said"; exit 2 ;;
*) printf '%s\n' "$said" | tail -n 3; exit 3 ;;
esac
