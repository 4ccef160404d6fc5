-- Who takes the log, or may take it: each replication slot, and each standby that has none. One JSON array on one line.
-- A base backup takes the log for a moment and is nobody's standby.
select coalesce(jsonb_agg(to_jsonb(c) order by c.slot, c.application, c.address), '[]')
from (
    select
        s.slot_name as slot,
        coalesce(s.slot_type, 'physical') as kind,
        s.database,
        r.pid is not null or coalesce(s.active, false) as connected,
        -- What these programs receive is nobody's data directory.
        coalesce(r.application_name ~ '^(pg_receivewal|pg_receivexlog|barman|pghoard|wal-g|walg)', false) as archives,
        r.application_name as application,
        host(r.client_addr) as address,
        pg_wal_lsn_diff(
            case when pg_is_in_recovery() then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                else pg_current_wal_lsn() end,
            s.restart_lsn)::bigint as retained_bytes
    from pg_replication_slots s
    full join pg_stat_replication r on r.pid = s.active_pid
    where s.temporary is not true and r.state is distinct from 'backup'
) c
