//! What is true of the data of a real database: all of it is looked at, whatever it is called; every kind of
//! damage is found; and a database that is only written to gives no false alarm.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use volsnap::database::compare::{ComparisonContext, compare};
use volsnap::engine::Docker as _;
use volsnap::model::facts::difference::Severity;
use volsnap::model::facts::{Database, Facts, FactsLevel, Table, TableKind, Worth};
use volsnap::ops::facts::take;

use crate::database::{Postgres, Volsnap};
use crate::deep::is_deep;
use crate::world::docker;

impl Postgres {
    /// Runs a script of psql's in a database, a statement a transaction.
    pub(crate) fn script(&self, database: &str, script: &str) {
        let mut child = Command::new("docker")
            .args(["exec", "-i", "-e", "PGCLIENTENCODING=UTF8", "-e"])
            .arg(format!("PGDATABASE={database}"))
            .args([&self.container, "psql", "-XAtq", "-U", "user", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
    }

    async fn facts(&self, level: FactsLevel) -> Facts {
        let container = self.world.engine.container(&self.container).await.unwrap().unwrap();
        take(&self.world.engine, &container, level).await.unwrap().unwrap()
    }

    /// Returns the facts of a look that had time enough: of a machine that is busy with other tests the few seconds
    /// of quick facts may be too few.
    async fn facts_in_peace(&self) -> Facts {
        let mut unread = Vec::new();
        for _ in 0..10 {
            let facts = self.facts(FactsLevel::Quick).await;
            unread = facts.unread();
            if !unread.iter().any(|why| why.contains(OUT_OF_TIME)) {
                return facts;
            }
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
        panic!("there was never time enough: {unread:?}");
    }

    /// Returns where the host has the volume.
    fn mountpoint(&self) -> PathBuf {
        docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &self.volume]).into()
    }

    /// Leaves a session at work in the container until it is dropped.
    pub(crate) fn background(&self, script: &str) -> Background {
        let child = Command::new("docker")
            .args([
                "exec",
                "-e",
                "PGUSER=user",
                "-e",
                "PGDATABASE=memory_db",
                &self.container,
                "bash",
                "-c",
                script,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Background(child)
    }
}

/// A client of the engine's command line; what it started ends with the container.
pub(crate) struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn database<'f>(facts: &'f Facts, name: &str) -> &'f Database {
    facts
        .databases
        .iter()
        .find(|database| database.name == name)
        .unwrap_or_else(|| panic!("no {name}: {facts:?}"))
}

fn table<'f>(database: &'f Database, name: &str) -> &'f Table {
    database
        .tables
        .iter()
        .find(|table| table.name.name == name)
        .unwrap_or_else(|| panic!("no {name}: {database:?}"))
}

const ODD: &str = "odd 'na\"me\\\n ü=x; --";

#[tokio::test]
async fn everything_is_looked_at_whatever_it_is_called_and_what_is_not_is_said() {
    let postgres = Postgres::start().await;
    // Few locks in all: what is looked at must be let go again.
    postgres.query("alter system set max_locks_per_transaction = 10");
    postgres.query("alter system set max_connections = 20");
    docker(&["restart", "-t", "60", &postgres.container]);
    postgres.await_answer();
    let odd = ODD.replace('"', "\"\"");
    postgres.script(
        "memory_db",
        &format!(
            "create database \"{odd}\" template template0 encoding 'LATIN1' locale 'C';
             create database closed allow_connections false;
             create database zz;
             create role reader login password 'secret-word';
             create extension postgres_fdw;
             create server elsewhere foreign data wrapper postgres_fdw;
             create foreign table distant (n int) server elsewhere;
             create table parted (n int primary key) partition by range (n);
             create table parted_low partition of parted for values from (0) to (100);
             create table parted_high partition of parted for values from (100) to (200);
             insert into parted select generate_series(1, 150);
             create table refers (n int references parted);
             insert into refers select generate_series(1, 150);
             create view seen as select 1 as n;
             create materialized view filled as select generate_series(1, 7) as n;
             create materialized view unfilled as select 1 as n with no data;
             create unlogged table fleeting as select 1 as n;
             create temp table mine as select 1 as n;
             create table locked as select 1 as n;
             create table images (id serial primary key, data bytea, thumb bytea);
             insert into images (data) select case n % 4 when 0 then null when 1 then ''::bytea else 'x'::bytea end
                 from generate_series(1, 100) n;
             create table alembic_version (version_num varchar);
             insert into alembic_version values ('3f2a');
             create table django_migrations (id serial, app text, name text, applied timestamptz);
             insert into django_migrations (app, name) values ('auth', '0001'), ('shop', '0002');
             create table goose_db_version (id bigint, version_id bigint, is_applied bool);
             create table parent (id int primary key);
             create table child (id int references parent, loose int, constraint loose foreign key (loose)
                 references parent not valid);
             alter table child drop constraint loose;
             insert into child (loose) values (1), (2), (null);
             alter table child add constraint loose foreign key (loose) references parent not valid;
             create table large (filler text);
             alter table large alter filler set storage plain;
             insert into large select repeat('x', 7000) from generate_series(1, 8300);
             analyze large;"
        ),
    );
    postgres.script(
        ODD,
        "create schema \"a.b\"; create table \"a.b\".\"t'\"\"\nü\" (\"c \"\"'\" bytea, id serial, primary key (id));
         insert into \"a.b\".\"t'\"\"\nü\" (\"c \"\"'\") values ('x'), (null);",
    );
    postgres.script(
        "zz",
        "select format('create table t%s (id serial primary key, other int references t%s)', n, greatest(n - 1, 1))
         from generate_series(1, 250) n \\gexec",
    );
    let _lock =
        postgres.background("psql -c 'begin; lock table locked, goose_db_version; select pg_sleep(300)'");
    while postgres.query("select count(*) from pg_locks where mode = 'AccessExclusiveLock'") == "0" {}

    let facts = postgres.facts_in_peace().await;
    assert!(facts.ms < 10_000, "{} ms", facts.ms);
    assert_eq!(facts.engine_version, postgres.query("show server_version").split(' ').next().unwrap());
    assert_eq!(
        facts.identifier.as_deref(),
        Some(&*postgres.query("select system_identifier from pg_control_system()"))
    );
    assert!(facts.roles["reader"].contains(&"login".to_owned()), "{:?}", facts.roles);
    let stored = serde_json::to_string(&facts).unwrap();
    assert!(!stored.contains("secret-word") && !stored.contains("SCRAM"), "{stored}");
    let names: Vec<_> = facts.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["closed", "memory_db", ODD, "postgres", "template0", "template1", "zz"]);

    let memory_db = database(&facts, "memory_db");
    assert_eq!(memory_db.encoding, "UTF8");
    assert!(memory_db.collation.contains("libc") && memory_db.collation_version.is_some(), "{memory_db:?}");
    assert!(memory_db.extensions.contains_key("postgres_fdw"));
    let rows = |name: &str| (table(memory_db, name).kind, table(memory_db, name).rows);
    assert_eq!(rows("kept"), (TableKind::Table, Some(1000)));
    assert_eq!(rows("parted"), (TableKind::Partitioned, None));
    assert_eq!(rows("parted_low"), (TableKind::Table, Some(99)));
    assert_eq!(rows("distant"), (TableKind::Foreign, None));
    assert_eq!(rows("seen"), (TableKind::View, None));
    assert_eq!(rows("filled"), (TableKind::MaterializedView, Some(7)));
    assert_eq!(rows("unfilled"), (TableKind::MaterializedView, Some(0)));
    assert!(table(memory_db, "fleeting").unlogged && table(memory_db, "parted_low").partition);
    assert!(memory_db.tables.iter().all(|table| table.name.name != "mine"), "a session's own");
    let images = table(memory_db, "images");
    let empty = [("data".to_owned(), 50), ("thumb".to_owned(), 100)];
    assert_eq!((images.rows, &images.empty), (Some(100), &empty.into()), "{images:?}");
    let large = table(memory_db, "large");
    assert_eq!(large.rows, None);
    assert!((8000..8600).contains(&large.estimated.unwrap()), "{large:?}");
    let revisions: Vec<_> =
        memory_db.revisions.iter().map(|one| (&*one.tool, one.revision.as_deref(), one.applied)).collect();
    // The one that is locked is there, and not known.
    let read = [("alembic", Some("3f2a"), 1), ("django", Some("shop.0002"), 2), ("goose", None, 0)];
    assert_eq!(revisions, read);
    assert!(memory_db.revisions[2].unread.as_deref().is_some_and(|why| why.contains("lock timeout")));
    let [loose] = &memory_db.doubtful_keys[..] else { panic!("{:?}", memory_db.doubtful_keys) };
    assert_eq!((&*loose.name, loose.orphans, loose.worth), ("loose", Some(2), Worth::NotValid));
    assert_eq!(memory_db.foreign_keys, 3);

    let odd = database(&facts, ODD);
    assert_eq!((odd.encoding.as_str(), odd.sequences), ("LATIN1", 1));
    assert_eq!((odd.tables[0].name.name.as_str(), odd.tables[0].rows), ("t'\"\nü", Some(2)));
    assert_eq!(odd.tables[0].empty["c \"'"], 1);
    let many = database(&facts, "zz");
    assert_eq!((many.tables.len(), many.foreign_keys, many.sequences), (250, 250, 250));
    assert!(many.unread.is_none() && many.tables.iter().all(|table| table.rows == Some(0)));

    let unread = facts.unread();
    assert_eq!(unread.len(), 4, "{unread:?}");
    assert!(unread.iter().any(|why| why.contains("closed") && why.contains("no connections")), "{unread:?}");
    assert!(
        unread.iter().any(|why| why.contains("public.locked") && why.contains("lock timeout")),
        "{unread:?}"
    );
    assert!(unread.iter().any(|why| why.contains("schema revision of goose in public")), "{unread:?}");
    assert!(compare(&facts, &facts, &ComparisonContext::default()).ok());

    // Every row, and what is in it: the order in which the rows lie does not matter.
    let digest = async |what: &str| {
        let facts = postgres.facts(FactsLevel::Full).await;
        assert_eq!(table(database(&facts, "memory_db"), "large").rows, Some(8300), "{what}");
        table(database(&facts, "memory_db"), "images").digest.clone().unwrap()
    };
    let first = digest("first").await;
    postgres.script(
        "memory_db",
        "create table again as select * from images; truncate images; insert into images select * from again order by id desc;",
    );
    assert_eq!(digest("rewritten").await, first);
    postgres.query("update images set data = 'y' where id = 7");
    assert_ne!(digest("changed").await, first);
}

/// Why something was not looked at that would have been with more time.
const OUT_OF_TIME: &str = "no time left";

/// What a check said.
struct Said(Value);

impl Said {
    fn of(volsnap: &Volsnap, arguments: &[&str], code: i32) -> Self {
        let ran = volsnap.run([arguments, &["--json"]].concat());
        let said: Value = serde_json::from_str(&ran.expect(code).stdout()).unwrap();
        assert_eq!(said["ok"], code == 0, "{said}");
        Self(said)
    }

    /// Returns the one difference of a kind.
    #[track_caller]
    fn difference(&self, kind: &str) -> &Value {
        let differences = self.0["differences"].as_array().unwrap();
        differences
            .iter()
            .find(|difference| difference["kind"] == kind)
            .unwrap_or_else(|| panic!("no {kind} in {}", self.0))
    }

    /// It was found, is damage, and comes with the next command.
    #[track_caller]
    fn damaged(&self, kind: &str) -> &Value {
        let difference = self.difference(kind);
        assert_eq!(difference["severity"], "damage", "{difference}");
        assert!(difference["next"].as_str().is_some_and(|next| next.contains(' ')), "{difference}");
        difference
    }
}

/// Damage planted by statements, what it is called, and the statements that mend it.
const PLANTED: &[(&str, &str, &str)] = &[
    ("missing-table", "alter table kept rename to hidden", "alter table hidden rename to kept"),
    ("missing-role", "alter role app rename to other", "alter role other rename to app"),
    ("missing-database", "alter database second rename to third", "alter database third rename to second"),
    ("missing-extension", "drop extension postgres_fdw", "create extension if not exists postgres_fdw"),
    (
        "emptied-bytea",
        "create table saved as select * from images; update images set data = ''",
        "update images set data = saved.data from saved where saved.id = images.id; drop table saved",
    ),
    (
        "orphans",
        "alter table users disable trigger all; delete from users where id = 3; alter table users enable trigger all",
        "insert into users values (3)",
    ),
    ("sequence-behind", "select setval('images_id_seq', 5)", "select setval('images_id_seq', 40)"),
    (
        "invalid-index",
        "update pg_index set indisvalid = false where indexrelid = 'images_user'::regclass",
        "reindex index images_user",
    ),
    (
        "schema-revision",
        "create table saved as select * from flyway_schema_history; delete from flyway_schema_history where installed_rank = 2",
        "insert into flyway_schema_history select * from saved where installed_rank = 2; drop table saved",
    ),
];

#[tokio::test]
async fn every_kind_of_damage_is_found_and_the_users_own_checks_are_kept() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.script(
        "memory_db",
        "create role app login;
         create database second;
         create extension postgres_fdw;
         create table users (id int primary key);
         insert into users select generate_series(1, 10);
         create table images (id serial primary key, user_id int references users, data bytea);
         create index images_user on images (user_id);
         insert into images (user_id, data) select n % 10 + 1, 'bytes' from generate_series(1, 40) n;
         create table flyway_schema_history (installed_rank int, version text, success bool);
         insert into flyway_schema_history values (1, '1', true), (2, '2', true);
         create table sand as select n from generate_series(1, 1000) n;
         checkpoint;",
    );
    let target = postgres.target();
    let write_checks = |text: &str| {
        let _ = volsnap.run(["list"]);
        std::fs::write(volsnap.directory().join("volsnap.toml"), text).unwrap();
    };
    write_checks(
        "[[check]]\nname = 'users'\nsql = 'select count(*) from users'\nexpect = 'unchanged'\n\
         [[check]]\nname = 'images with bytes'\nsql = \"select count(*) from images where octet_length(data) = 0\"\nexpect = '= 0'\n\
         [[check]]\nname = 'elsewhere'\nsql = 'select 7'\ndatabase = 'second'\nexpect = '>= 7'\n",
    );

    // The first look has nothing to compare with, and is remembered.
    let first = Said::of(&volsnap, &["check", &target], 0);
    assert!(first.0["against"].is_null() && first.0["checks"][0]["why"].is_string(), "{}", first.0);
    let same = Said::of(&volsnap, &["check", &target], 0);
    assert_eq!(
        (&same.0["strict"], &same.0["checks"][0]["before"]),
        (&true.into(), &"10".into()),
        "{}",
        same.0
    );
    assert!(same.0["differences"].as_array().unwrap().is_empty(), "{}", same.0);

    for (index, (kind, plant, mend)) in PLANTED.iter().enumerate() {
        postgres.script("memory_db", &format!("{plant};"));
        let said = Said::of(&volsnap, &["check", &target], 3);
        let difference = said.damaged(kind);
        assert_eq!(said.0["strict"], false, "{difference}");
        if index == 0 {
            // It was not remembered as what the data is to be.
            Said::of(&volsnap, &["check", &target], 3).damaged(kind);
        }
        // What is printed to mend it does no harm, whether or not it is all there is to do.
        if let Some(command) = difference["next"].as_str().filter(|next| next.contains(" psql ")) {
            let _ = volsnap.paste(command).expect(0);
        }
        postgres.script("memory_db", &format!("{mend};"));
        let _ = volsnap.run(["check", &target]).expect(0);
    }
    users_checks_fail_by_name(&postgres, &volsnap, &write_checks);
    snapshots_have_facts(&postgres, &volsnap);
    damage_to_files_is_found(&postgres, &volsnap);
}

fn users_checks_fail_by_name(postgres: &Postgres, volsnap: &Volsnap, write_checks: &dyn Fn(&str)) {
    let target = postgres.target();
    postgres.query("insert into users values (11)");
    let said = Said::of(volsnap, &["check", &target], 3);
    let check = &said.0["checks"][0];
    assert_eq!(
        (&check["ok"], &check["before"], &check["value"]),
        (&false.into(), &"10".into(), &"11".into())
    );
    assert_eq!(said.difference("more-rows")["severity"], "explained", "{}", said.0);
    let shown = volsnap.run(["check", &target]);
    let shown = shown.expect(3).stdout();
    assert!(shown.contains("FAILED  users: it is 11, and was 10; expected unchanged"), "{shown}");
    postgres.query("delete from users where id = 11");

    for (sql, words) in [
        ("select nothing", "does not exist"),
        ("delete from users", "read-only"),
        ("select id from users", "10 rows"),
        ("select pg_sleep(0) where false", "0 rows"),
        ("\\\\! touch /tmp/escaped", "syntax error"),
    ] {
        write_checks(&format!("[[check]]\nname = 'odd'\nsql = \"{sql}\"\nexpect = '= 1'\n"));
        let said = Said::of(volsnap, &["check", &target], 3);
        let why = said.0["checks"][0]["why"].as_str().unwrap();
        assert!(why.contains(words), "{sql}: {why}");
    }
    assert_eq!(postgres.query("select count(*) from pg_ls_dir('/tmp') file where file = 'escaped'"), "0");
    write_checks("[[check]]\nname = 'a'\nsql = 'select 1'\nexpect = 'some'\n");
    volsnap.run(["check", &target]).refused(2, &["volsnap.toml", "line 4", "unchanged"]);
    volsnap.run(["check", &target, "--checks", "none.toml"]).refused(2, &["none.toml"]);
    write_checks("");
    let _ = volsnap.run(["check", &target]).expect(0);
}

/// Of a snapshot of a quiet database the facts are exact.
fn snapshots_have_facts(postgres: &Postgres, volsnap: &Volsnap) {
    let target = postgres.target();
    let _ = volsnap.run(["snapshot", &target, "--facts", "full"]).expect(0);
    let shown = volsnap.run(["show", "latest", "--json"]).json();
    let facts = &shown["facts"];
    assert_eq!((&facts["exact"], &facts["seen"]["level"]), (&true.into(), &"full".into()));
    let databases = facts["seen"]["databases"].as_array().unwrap();
    let memory_db = databases.iter().find(|database| database["name"] == "memory_db").unwrap();
    let tables = memory_db["tables"].as_array().unwrap();
    assert_eq!(tables.iter().find(|table| table["name"] == "kept").unwrap()["rows"], 1000);
    assert!(volsnap.run(["show", "latest"]).expect(0).stdout().contains("exact for the snapshot"));
    let against = Said::of(volsnap, &["check", &target, "--against", "latest", "--facts", "full"], 0);
    assert_eq!(against.0["strict"], true, "{}", against.0);

    let _ = volsnap.run(["snapshot", &target, "--facts", "none"]).expect(0);
    assert!(volsnap.run(["show", "latest", "--json"]).json().get("facts").is_none());
    volsnap.run(["check", &target, "--against", "latest"]).refused(2, &["no facts", "volsnap snapshot"]);
}

/// What no statement does: files that are cut short, gone, or flipped, found by statements all the same.
fn damage_to_files_is_found(postgres: &Postgres, volsnap: &Volsnap) {
    let target = postgres.target();
    let _ = volsnap.run(["check", &target]).expect(0);
    let file = |table: &str| {
        let path = postgres.query(&format!("select pg_relation_filepath('{table}')"));
        postgres.mountpoint().join(path)
    };
    let (sand, kept, images) = (file("sand"), file("kept"), file("images"));
    docker(&["stop", "-t", "60", &postgres.container]);
    let whole = std::fs::read(&sand).unwrap();
    std::fs::write(&sand, "").unwrap();
    let moved = kept.with_extension("away");
    std::fs::rename(&kept, &moved).unwrap();
    let pages = std::fs::read(&images).unwrap();
    let mut flipped = pages.clone();
    flipped[8100] ^= 1;
    std::fs::write(&images, flipped).unwrap();
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    // Nobody wrote: that is proved, and so fewer rows are damage.
    let said = Said::of(volsnap, &["check", &target], 3);
    assert_eq!(said.0["strict"], true, "{}", said.0);
    assert_eq!(said.damaged("fewer-rows")["before"], "1000 rows");
    let unreadable: Vec<_> = said.0["differences"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|difference| difference["kind"] == "unreadable-table")
        .map(|difference| difference["after"].as_str().unwrap())
        .collect();
    assert_eq!(unreadable.len(), 2, "{}", said.0);
    // Counted when the server tells, a moment later.
    let told = (0..50).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let said = Said::of(volsnap, &["check", &target], 3);
        said.0["differences"].as_array().unwrap().iter().any(|one| one["kind"] == "checksum-failures")
    });
    assert!(told, "the failure of a checksum is not told");

    docker(&["stop", "-t", "60", &postgres.container]);
    std::fs::write(&sand, whole).unwrap();
    std::fs::rename(&moved, &kept).unwrap();
    std::fs::write(&images, pages).unwrap();
    // Owner and mode of a file that is written over stay.
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn a_cluster_in_the_place_of_another_is_found_at_once() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let target = postgres.target();
    let _ = volsnap.run(["snapshot", &target]).expect(0);
    // As after a recreation on another volume: the same service, the same words, and nothing of the data.
    docker(&["rm", "-f", &postgres.container]);
    docker(&["volume", "rm", &postgres.volume]);
    docker(&["volume", "create", &postgres.volume]);
    postgres.run(&postgres.container, &["-v", &format!("{}:/var/lib/postgresql/data", postgres.volume)]);
    postgres.await_answer();
    let said = Said::of(&volsnap, &["check", &target], 3);
    let found = said.damaged("another-cluster");
    assert!(found["before"].as_str().unwrap().contains("1000 rows"), "{found}");
    assert_eq!(said.0["differences"].as_array().unwrap().len(), 1, "{}", said.0);
    assert!(said.0["against"]["snapshot"].as_str().unwrap().starts_with(&postgres.volume), "{}", said.0);

    docker(&["stop", "-t", "60", &postgres.container]);
    volsnap.run(["check", &target]).refused(1, &["does not run", "docker start"]);
    volsnap.assert_no_leftovers();
}

/// What a service does all day: rows come, go and change, a queue runs empty, a partition is dropped, an index is
/// made, a table comes and goes.
const WRITER: &str = r#"
n=0
while :; do
    n=$((n + 1))
    psql -Xq -c "
        insert into users (name) select md5(random()::text) from generate_series(1, 5);
        insert into images (user_id, data) select id, case when random() < 0.2 then null else 'bytes'::bytea end
            from users order by random() limit 10;
        update images set data = null where id in (select id from images order by random() limit 1);
        delete from images where id in (select id from images order by random() limit 4);
        delete from users where not exists (select from images where user_id = users.id) and random() < 0.5;
        insert into queue select generate_series(1, 20);" \
        -c "delete from queue" \
        -c "create table if not exists events_$n partition of events for values in ($n); insert into events values ($n)" \
        -c "drop table if exists events_$((n - 3))" \
        -c "create index concurrently if not exists made on images (data); drop index concurrently made" \
        -c "truncate queue"
done"#;

/// A foreign key of which the check takes far longer than there is time: its operator sleeps for volsnap alone.
const SLOW: &str = "
    create function slowly(int, int) returns bool language plpgsql as $$ begin
        if current_setting('application_name') = 'volsnap' then perform pg_sleep(0.1); end if;
        return $1 = $2;
    end $$;
    create operator === (function = slowly, leftarg = int, rightarg = int, commutator = ===);
    create operator class slow for type int using btree as operator 1 <, operator 2 <=, operator 3 ===,
        operator 4 >=, operator 5 >, function 1 btint4cmp(int, int);
    create table parent (id int);
    create unique index parent_id on parent (id slow);
    create table child (id int references parent (id));
    insert into parent select generate_series(1, 100);
    insert into child select generate_series(1, 100);";

#[tokio::test]
async fn a_database_that_takes_all_the_time_does_not_starve_the_others() {
    let postgres = Postgres::start().await;
    postgres.query("create database aa");
    postgres.query("create database zz");
    postgres.script("aa", SLOW);
    postgres
        .script("memory_db", "create table filler as select repeat('x', 700) from generate_series(1, 9000)");
    postgres.script("zz", "create table last as select repeat('x', 700) from generate_series(1, 18000)");

    let facts = postgres.facts(FactsLevel::Quick).await;
    let slow = &database(&facts, "aa").doubtful_keys;
    assert_eq!(slow[0].unread.as_deref(), Some("there was no time left"), "{slow:?}");
    for (name, name_of_table, rows) in [("memory_db", "filler", 9000), ("zz", "last", 18000)] {
        let table = table(database(&facts, name), name_of_table);
        assert_eq!((table.rows, &table.unread), (Some(rows), &None), "{name}");
    }
}

#[tokio::test]
async fn a_database_that_is_written_to_all_the_while_gives_no_false_alarm() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.script(
        "memory_db",
        "create table users (id serial primary key, name text);
         create table images (id bigserial primary key, user_id int not null references users, data bytea);
         create table queue (n int);
         create table events (n int) partition by list (n);
         insert into users (name) select n::text from generate_series(1, 100) n;
         insert into images (user_id, data) select n % 100 + 1, 'bytes' from generate_series(1, 1000) n;",
    );
    docker(&["exec", &postgres.container, "pgbench", "-q", "-i", "-s", "1", "-U", "user", "memory_db"]);
    let first = postgres.facts(FactsLevel::Quick).await;
    // Both go on after a restart.
    let work = format!("(while :; do pgbench -n -c 2 -T 5; done) & {WRITER}");
    let busy = postgres.background(&work);
    let mut last = first.clone();
    let mut lenient = 0;
    let rounds = if is_deep() { 50 } else { 20 };
    for round in 0..rounds {
        let facts = postgres.facts(FactsLevel::Quick).await;
        for before in [&first, &last] {
            let comparison = compare(before, &facts, &ComparisonContext::default());
            assert!(comparison.ok(), "round {round}: {:#?}", comparison.differences);
            lenient += usize::from(!comparison.strict);
            let odd = comparison.differences.iter().find(|one| one.severity == Severity::Damage);
            assert!(odd.is_none(), "{odd:?}");
        }
        // Of what nobody looked at nothing is said: that is no false alarm, and a slow machine has more of it.
        // A partition may be dropped between the moment it is listed and the moment it is read.
        let reasons = ["lock timeout", OUT_OF_TIME, "does not exist"];
        let known = |why: &String| reasons.iter().any(|reason| why.contains(reason));
        assert!(facts.unread().iter().all(known), "{:?}", facts.unread());
        last = facts;
    }
    assert!(lenient > 2 * rounds - 10, "nobody wrote: {lenient}");
    drop(busy);
    for _ in 0..2 {
        // The sessions in the container end with it; each restart is under a load of its own.
        let _busy = postgres.background(&work);
        std::thread::sleep(std::time::Duration::from_millis(500));
        let ran = volsnap.run(["restart", &postgres.target(), "--json"]);
        let said: Value = serde_json::from_str(&ran.stdout()).unwrap();
        assert_eq!((&said["clean"], &said["strict"]), (&true.into(), &false.into()), "{said}");
        let differences = said["differences"].as_array().unwrap();
        assert!(differences.iter().all(|one| one["severity"] != "damage"), "{said}");
        // All was looked at, or what was not is named.
        ran.expect(if said["unread"].as_array().is_none_or(Vec::is_empty) { 0 } else { 6 });
        postgres.await_answer();
    }
    volsnap.assert_no_leftovers();
}
