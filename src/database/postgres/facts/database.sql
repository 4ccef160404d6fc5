-- What is true of one database, in one snapshot: one JSON object a line. Run by `probe.sh` with these variables:
--
--   level     quick or full
--   deadline  seconds since 1970 at which looking ends; what is left by then is said to be so
--   databases how many share the time until then, this one with them: each has an even share of what is left
--   pages     a heap of more pages than this is not read for quick facts
--
-- Each table is looked at by itself, so that one that is locked or damaged does not hide the rest, and what was looked
-- at is taken back at once: with it goes the lock, which would keep others from changing the table, and of which a
-- server has only so many. The counting is one statement, for the server's own timeout to end it; what it found goes
-- out through a setting.
begin transaction isolation level repeatable read read only;
set local search_path = pg_catalog;
set local row_security = off;
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local timezone = 'UTC';
set local extra_float_digits = 1;
set local bytea_output = 'hex';
set local xmlbinary = 'base64';
set local lc_monetary = 'C';
select extract(epoch from clock_timestamp()) + greatest(0, :deadline - extract(epoch from clock_timestamp())) / :databases
    as deadline \gset
select set_config('volsnap.level', :'level', true),
       set_config('volsnap.deadline', :'deadline', true),
       set_config('volsnap.pages', :'pages', true),
       set_config('volsnap.out', '', true) \g /dev/null

-- The first look at data: from here on the snapshot holds. A running transaction shows as a distance between the
-- oldest and the next.
select json_build_object(
    'fact', 'in',
    'name', current_database(),
    'oldest', pg_snapshot_xmin(pg_current_snapshot())::text,
    'next', pg_snapshot_xmax(pg_current_snapshot())::text);

select json_build_object('fact', 'extension', 'name', extname, 'version', extversion)
from pg_extension
order by extname;

-- An index that is being built is not valid yet.
select json_build_object('fact', 'invalid-index', 'schema', n.nspname, 'name', c.relname, 'table', t.relname)
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_class t on t.oid = i.indrelid
join pg_namespace n on n.oid = c.relnamespace
where not (i.indisvalid and i.indisready and i.indislive)
    and c.relkind = 'i'
    and n.nspname !~ '^pg_(toast|temp_)'
    and not exists (select from pg_stat_progress_create_index p where p.index_relid = c.oid)
order by n.nspname, c.relname;

select exists (select from pg_language where lanname = 'plpgsql' and has_language_privilege(oid, 'usage')) as can_loop \gset
\if :can_loop
-- The loops look at the clock themselves; this ends the one look that takes too long, and what it may take on top is
-- shared as well. No timeout at all would be 0.
select greatest(1, (extract(epoch from to_timestamp(:deadline) - clock_timestamp()) * 1000)::bigint + 1500 / :databases)
    as milliseconds \gset
set local statement_timeout = :milliseconds;
-- One lock of somebody must not take the time of all other tables.
select greatest(50, least(500, :milliseconds / 10)) as lock_milliseconds \gset
set local lock_timeout = :lock_milliseconds;
do $looking$
declare
    is_full constant boolean := current_setting('volsnap.level') = 'full';
    deadline constant timestamptz := to_timestamp(current_setting('volsnap.deadline')::float8);
    most_pages constant bigint := current_setting('volsnap.pages')::bigint;
    block constant bigint := current_setting('block_size')::bigint;
    out text[] := '{}';
    one record;
    statement text;
    begun timestamptz;
    -- Work since the last pause, seconds.
    worked float8 := 0;
    is_over boolean := false;
    why text;
    state text;
    bytes bigint;
    row_count bigint;
    digest text;
    empty bigint[];
    found text;
    applied bigint;
    reached numeric;
    next_value numeric;
    last_value bigint;
    is_called boolean;
    checked bigint := 0;
    unchecked bigint := 0;
begin
    -- Tables, the small ones first.
    for one in
        select c.oid, n.nspname as schema, c.relname as name, c.relkind as kind, c.relpersistence = 'u' as unlogged,
            exists (select from pg_inherits h where h.inhrelid = c.oid) as partition,
            c.relispopulated as populated, c.reltuples as tuples, c.relpages as pages,
            c.relkind in ('r', 'm') as has_rows,
            has_table_privilege(c.oid, 'select') and has_schema_privilege(n.oid, 'usage') as may_read,
            array(select a.attname from pg_attribute a join pg_type t on t.oid = a.atttypid
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                      and 'bytea'::regtype in (t.oid, t.typbasetype)
                  order by a.attnum)::text[] as bytea
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'm', 'f', 'v')
            and n.nspname <> 'information_schema' and n.nspname !~ '^pg_(catalog$|toast|temp_)'
        order by c.relpages, c.oid
    loop
        bytes := null; row_count := null; digest := null; empty := null; why := null; state := null;
        begun := clock_timestamp();
        is_over := is_over or begun >= deadline;
        if not one.has_rows then
            null;
        elsif not one.may_read then
            why := 'no permission to read it';
        elsif not one.populated then
            row_count := 0;
        elsif is_over then
            why := 'there was no time left';
        else
            begin
                bytes := pg_relation_size(one.oid);
                if is_full or bytes <= most_pages * block then
                    -- The rows themselves, not what an index says of them.
                    perform set_config('enable_indexonlyscan', 'off', true);
                    statement := format('select count(*), %s, %s from only %I.%I t',
                        case when is_full then 'coalesce(sum(hashtextextended(t::text collate "C", 0)), 0)::text' else 'null' end,
                        coalesce('array[' || (
                            select string_agg(format('count(*) filter (where coalesce(octet_length(t.%I), 0) = 0)', of), ', ')
                            from unnest(one.bytea) of) || ']', 'null::bigint[]'),
                        one.schema, one.name);
                    execute statement into row_count, digest, empty;
                end if;
                raise exception using errcode = 'VS000';
            exception
                when sqlstate 'VS000' then null;
                when query_canceled then
                    row_count := null; is_over := true; why := 'there was no time left';
                when others then
                    row_count := null; why := sqlerrm; state := sqlstate;
            end;
        end if;
        out := out || json_strip_nulls(json_build_object('fact', 'table', 'schema', one.schema, 'name', one.name, 'kind', one.kind,
            'unlogged', nullif(one.unlogged, false), 'partition', nullif(one.partition, false), 'bytes', bytes, 'rows', row_count, 'digest', digest,
            -- As the planner guesses: as many rows on a page as when they were last counted.
            'about', case
                when row_count is not null or not one.has_rows or one.tuples < 0 or not one.populated then null
                when one.pages > 0 and bytes is not null then round(one.tuples / one.pages * (bytes / block))
                else one.tuples end,
            'bytea', to_json(case when cardinality(one.bytea) > 0 then one.bytea end), 'empty', to_json(empty),
            'unread', why, 'state', state))::text;
        -- To wait for a lock is no work.
        if state is distinct from '55P03' then
            worked := worked + extract(epoch from clock_timestamp() - begun);
        end if;
        -- Where others are at work, leave them two thirds of the time.
        if worked > 0.02 and not is_full and not is_over then
            perform pg_stat_clear_snapshot();
            if exists (select from pg_stat_activity where pg_stat_activity.state = 'active' and backend_type = 'client backend'
                       and pid <> pg_backend_pid()) then
                perform pg_sleep(least(2 * worked, greatest(0, extract(epoch from deadline - clock_timestamp()))));
            end if;
            worked := 0;
        end if;
    end loop;

    -- Sequences behind the columns they number. The column is read before its sequence, which only goes on.
    begin
        for one in
            with numbering as (
                select d.objid as sequence, d.refobjid as relation, d.refobjsubid as number
                from pg_depend d
                where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                    and d.refobjsubid > 0 and d.deptype in ('a', 'i')
                union
                select d.refobjid, ad.adrelid, ad.adnum
                from pg_attrdef ad
                join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = ad.oid and d.refclassid = 'pg_class'::regclass
            )
            select sn.nspname as schema, s.relname as name, tn.nspname as table_schema, t.relname as table, a.attname as column,
                q.seqincrement as increment,
                has_sequence_privilege(s.oid, 'select') and has_table_privilege(t.oid, 'select')
                    and has_schema_privilege(sn.oid, 'usage') and has_schema_privilege(tn.oid, 'usage') as may_read,
                is_full or t.relpages <= most_pages or exists (
                    select from pg_index i join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam
                    where i.indrelid = t.oid and i.indkey[0] = a.attnum and i.indpred is null and i.indisvalid
                        and am.amname = 'btree') as is_quick
            from numbering n
            join pg_class s on s.oid = n.sequence and s.relkind = 'S'
            join pg_namespace sn on sn.oid = s.relnamespace
            join pg_sequence q on q.seqrelid = s.oid
            join pg_class t on t.oid = n.relation and t.relkind in ('r', 'p')
            join pg_namespace tn on tn.oid = t.relnamespace
            join pg_attribute a on a.attrelid = t.oid and a.attnum = n.number and not a.attisdropped
            join pg_type ty on ty.oid = a.atttypid and ty.typcategory = 'N'
            where not q.seqcycle and sn.nspname !~ '^pg_temp_'
            order by t.relpages, s.oid
        loop
            is_over := is_over or clock_timestamp() >= deadline;
            if is_over or not one.may_read or not one.is_quick then
                unchecked := unchecked + 1;
                continue;
            end if;
            begin
                execute format('select %s(t.%I)::numeric from %I.%I t', case when one.increment > 0 then 'max' else 'min' end,
                    one.column, one.table_schema, one.table) into reached;
                execute format('select last_value, is_called from %I.%I', one.schema, one.name) into last_value, is_called;
                raise exception using errcode = 'VS000';
            exception
                when sqlstate 'VS000' then null;
                when query_canceled then
                    is_over := true; last_value := null;
                when others then
                    last_value := null;
            end;
            if last_value is null then
                unchecked := unchecked + 1;
                continue;
            end if;
            checked := checked + 1;
            next_value := last_value + case when is_called then one.increment else 0 end;
            if (one.increment > 0 and next_value <= reached) or (one.increment < 0 and next_value >= reached) then
                out := out || json_strip_nulls(json_build_object('fact', 'sequence-behind', 'schema', one.schema, 'name', one.name,
                    'table_schema', one.table_schema, 'table', one.table, 'column', one.column,
                    'next', next_value::text, 'reached', reached::text))::text;
            end if;
        end loop;
        out := out || json_strip_nulls(json_build_object('fact', 'sequences', 'checked', checked, 'unchecked', unchecked))::text;
    exception when query_canceled then
        is_over := true;
        out := out || json_build_object('fact', 'remark', 'part', 'sequences', 'remark', 'there was no time left for all sequences')::text;
    end;

    -- What the schema's own tools say of its revision. A tool is known by its table and the columns in it.
    begin
        for one in
            with known(tool, relation, columns, lacks, latest) as (values
                ('alembic', 'alembic_version', '{version_num}', '{}', 'string_agg(version_num, '', '' order by version_num)'),
                ('flyway', 'flyway_schema_history', '{installed_rank,version,success}', '{}',
                    '(array_agg(coalesce(version, ''repeatable'') order by installed_rank desc))[1]'),
                ('liquibase', 'databasechangelog', '{id,orderexecuted}', '{}', '(array_agg(id order by orderexecuted desc))[1]'),
                ('django', 'django_migrations', '{id,app,name}', '{}', '(array_agg(app || ''.'' || name order by id desc))[1]'),
                ('prisma', '_prisma_migrations', '{migration_name,started_at,finished_at}', '{}',
                    '(array_agg(migration_name order by started_at desc) filter (where finished_at is not null))[1]'),
                ('sqlx', '_sqlx_migrations', '{version,success}', '{}', 'max(version)::text'),
                ('diesel', '__diesel_schema_migrations', '{version}', '{}', 'max(version)'),
                ('entity framework', '__EFMigrationsHistory', '{MigrationId}', '{}', 'max("MigrationId")'),
                ('goose', 'goose_db_version', '{id,version_id,is_applied}', '{}', '(array_agg(version_id::text order by id desc))[1]'),
                ('golang-migrate', 'schema_migrations', '{version,dirty}', '{}', 'max(version)::text'),
                ('ecto', 'schema_migrations', '{version,inserted_at}', '{}', 'max(version)::text'),
                ('rails', 'schema_migrations', '{version}', '{dirty,inserted_at}', 'max(version)'))
            select k.tool, k.latest, n.nspname as schema, c.relname as name,
                has_table_privilege(c.oid, 'select') and has_schema_privilege(n.oid, 'usage') as may_read
            from known k
            join pg_class c on c.relname = k.relation and c.relkind = 'r'
            join pg_namespace n on n.oid = c.relnamespace and n.nspname !~ '^pg_'
            where (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attname = any (k.columns::name[]))
                    = cardinality(k.columns::name[])
                and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = any (k.lacks::name[]))
            order by n.nspname, k.tool
        loop
            found := null; applied := 0; why := null;
            is_over := is_over or clock_timestamp() >= deadline;
            if not one.may_read then
                why := 'no permission to read its table';
            elsif is_over then
                why := 'there was no time left';
            else
                begin
                    execute format('select %s, count(*) from %I.%I', one.latest, one.schema, one.name) into found, applied;
                    raise exception using errcode = 'VS000';
                exception
                    when sqlstate 'VS000' then null;
                    when query_canceled then
                        found := null; applied := 0; is_over := true; why := 'there was no time left';
                    when others then
                        found := null; applied := 0; why := sqlerrm;
                end;
            end if;
            -- One that could not be read is there all the same: it must not be taken for gone.
            out := out || json_strip_nulls(json_build_object('fact', 'revision', 'tool', one.tool, 'schema', one.schema,
                'revision', found, 'applied', applied, 'unread', why))::text;
        end loop;
    exception when query_canceled then
        is_over := true;
        out := out || json_build_object('fact', 'remark', 'part', 'revisions', 'remark', 'there was no time left for all schema revisions')::text;
    end;

    -- Rows whose foreign key leads nowhere, whatever the constraint itself is worth: it may be not valid, or its
    -- triggers may be off. Of a partitioned table the partitions' own copies are looked at.
    begin
        for one in
            select k.conname as name, cn.nspname as schema, c.relname as table, pn.nspname as other_schema, p.relname as other,
                p.relkind = 'p' as other_is_partitioned,
                case when to_jsonb(k) ->> 'conenforced' = 'false' or exists (
                        select from pg_trigger g where g.tgconstraint = k.oid and g.tgenabled in ('D', 'R')) then 'disabled'
                    when not k.convalidated then 'not-valid' end as state,
                coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'true' as is_temporal,
                has_table_privilege(c.oid, 'select') and has_table_privilege(p.oid, 'select')
                    and has_schema_privilege(cn.oid, 'usage') and has_schema_privilege(pn.oid, 'usage') as may_read,
                is_full or (c.relpages <= most_pages and p.relpages <= most_pages) as is_quick,
                (select string_agg(format('t.%I is not null', a.attname), case k.confmatchtype when 'f' then ' or ' else ' and ' end)
                 from unnest(k.conkey) key join pg_attribute a on a.attrelid = k.conrelid and a.attnum = key) as refers,
                (select string_agg(format('o.%I operator(%I.%s) t.%I', oa.attname, opn.nspname, op.oprname, a.attname), ' and ')
                 from unnest(k.conkey, k.confkey, k.conpfeqop) pair(key, other_key, equals)
                 join pg_attribute a on a.attrelid = k.conrelid and a.attnum = key
                 join pg_attribute oa on oa.attrelid = k.confrelid and oa.attnum = other_key
                 join pg_operator op on op.oid = equals
                 join pg_namespace opn on opn.oid = op.oprnamespace) as leads
            from pg_constraint k
            join pg_class c on c.oid = k.conrelid and c.relkind = 'r'
            join pg_namespace cn on cn.oid = c.relnamespace
            join pg_class p on p.oid = k.confrelid
            join pg_namespace pn on pn.oid = p.relnamespace
            where k.contype = 'f' and cn.nspname !~ '^pg_'
                -- Not the copies that stand for single partitions of the table referred to.
                and not exists (select from pg_constraint u where u.oid = k.conparentid and u.conrelid = k.conrelid)
            order by c.relpages + p.relpages, k.oid
        loop
            row_count := null; why := null; state := null;
            begun := clock_timestamp();
            is_over := is_over or begun >= deadline;
            if one.is_temporal then
                why := 'it is about periods of time';
            elsif not one.may_read then
                why := 'no permission to read both tables';
            elsif is_over then
                why := 'there was no time left';
            elsif not one.is_quick then
                why := 'the tables are too large for quick facts';
            else
                begin
                    execute format('select count(*) from only %I.%I t where (%s) and not exists (select from %s %I.%I o where %s)',
                        one.schema, one.table, one.refers, case when one.other_is_partitioned then '' else 'only' end,
                        one.other_schema, one.other, one.leads) into row_count;
                    raise exception using errcode = 'VS000';
                exception
                    when sqlstate 'VS000' then null;
                    when query_canceled then
                        row_count := null; is_over := true; why := 'there was no time left';
                    when others then
                        row_count := null; why := sqlerrm; state := sqlstate;
                end;
            end if;
            out := out || json_strip_nulls(json_build_object('fact', 'foreign-key', 'schema', one.schema, 'table', one.table, 'name', one.name,
                'worth', one.state, 'orphans', row_count, 'unread', why, 'state', state))::text;
            if state is distinct from '55P03' then
                worked := worked + extract(epoch from clock_timestamp() - begun);
            end if;
            if worked > 0.02 and not is_full and not is_over then
                perform pg_stat_clear_snapshot();
                if exists (select from pg_stat_activity where pg_stat_activity.state = 'active' and backend_type = 'client backend'
                           and pid <> pg_backend_pid()) then
                    perform pg_sleep(least(2 * worked, greatest(0, extract(epoch from deadline - clock_timestamp()))));
                end if;
                worked := 0;
            end if;
        end loop;
    exception when query_canceled then
        is_over := true;
        out := out || json_build_object('fact', 'remark', 'part', 'foreign-keys', 'remark', 'there was no time left for all foreign keys')::text;
    end;

    perform set_config('volsnap.out', array_to_string(out, E'\n'), true);
end
$looking$;
set local statement_timeout = '30s';
select current_setting('volsnap.out');
\else
select json_build_object('fact', 'remark', 'part', 'all', 'remark', 'there is no plpgsql, so tables, sequences and foreign keys were not looked at');
\endif

select json_build_object('fact', 'done', 'large_objects', count(*)) from pg_largeobject_metadata;
commit;
