-- What is true of the whole cluster: one JSON object a line. Run by `probe.sh`, in the first database it can reach.
begin transaction isolation level repeatable read read only;
set local search_path = pg_catalog;

select json_build_object(
    'fact', 'cluster',
    'version', current_setting('server_version'),
    'identifier', (select system_identifier::text from pg_control_system()),
    'user', current_user,
    'database', current_database(),
    'taken', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'started', to_char(pg_postmaster_start_time() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'settings', json_build_object(
        'data_checksums', current_setting('data_checksums'),
        'in_recovery', pg_is_in_recovery()::text,
        'wal_level', current_setting('wal_level')),
    -- Not there before 12, and null where pages carry no checksums.
    'checksum_failures', (select sum((to_jsonb(d) ->> 'checksum_failures')::bigint) from pg_stat_database d));

select json_build_object(
    'fact', 'role',
    'name', r.rolname,
    'attributes', array_remove(array[
        case when r.rolsuper then 'superuser' end,
        case when r.rolinherit then 'inherit' end,
        case when r.rolcreaterole then 'createrole' end,
        case when r.rolcreatedb then 'createdb' end,
        case when r.rolcanlogin then 'login' end,
        case when r.rolreplication then 'replication' end,
        case when r.rolbypassrls then 'bypassrls' end], null)
        || array(select distinct 'member of ' || g.rolname
                 from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid order by 1))
from pg_roles r
where r.rolname !~ '^pg_'
order by r.rolname;

select json_build_object('fact', 'tablespace', 'name', spcname, 'location', pg_tablespace_location(oid))
from pg_tablespace
where spcname !~ '^pg_'
order by spcname;

-- What differs between versions is read by name from the row as JSON.
select current_setting('server_version_num')::int >= 150000 as has_collation_version \gset
\if :has_collation_version
    \set collation_version 'pg_database_collation_actual_version(d.oid)'
\else
    \set collation_version 'null'
\endif
select json_build_object(
    'fact', 'database',
    'name', d.datname,
    'oid', d.oid::bigint,
    'encoding', pg_encoding_to_char(d.encoding),
    'collation', d.datcollate,
    'character_type', d.datctype,
    'provider', case to_jsonb(d) ->> 'datlocprovider'
        when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    'collation_version', :collation_version,
    'recorded_collation_version', to_jsonb(d) ->> 'datcollversion',
    'unread', case
        when not d.datallowconn then 'it allows no connections'
        when not has_database_privilege(d.oid, 'connect') then 'no permission to connect'
    end,
    'template', d.datistemplate,
    'bytes', case when has_database_privilege(d.oid, 'connect') then pg_database_size(d.oid) end)
from pg_database d
order by d.datname;
commit;
