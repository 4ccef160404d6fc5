-- The names of the databases that can be looked into, each byte as printf's %b takes it. Run by `probe.sh`.
--
-- The small ones first: they share the time evenly, and what one of them leaves is there for those after it.
select string_agg('\0' || lpad(to_oct.digits, 3, '0'), '' order by at)
from pg_catalog.pg_database d
cross join lateral pg_catalog.convert_to(d.datname, 'UTF8') bytes
cross join lateral generate_series(0, length(bytes) - 1) at
cross join lateral (
    select (get_byte(bytes, at) >> 6)::text || ((get_byte(bytes, at) >> 3) & 7)::text || (get_byte(bytes, at) & 7)::text as digits
) to_oct
where d.datallowconn and pg_catalog.has_database_privilege(d.oid, 'connect')
group by d.oid, d.datname
order by pg_catalog.pg_database_size(d.oid), d.datname;
