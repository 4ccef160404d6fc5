use rstest::rstest;

use super::*;
use crate::model::facts::{FactsLevel, Files, Moment, SequenceBehind, TableKind};

fn name(name: &str) -> Name {
    Name { schema: "public".into(), name: name.into() }
}

fn table(of: &str, rows: u64) -> Table {
    Table { name: name(of), rows: Some(rows), bytes: Some(8192 * (1 + rows / 100)), ..Table::default() }
}

/// A small service's data, at transaction 700.
fn facts() -> Facts {
    let mut facts = Facts::new("postgresql", FactsLevel::Quick, chrono::DateTime::UNIX_EPOCH);
    facts.engine_version = "15.18".into();
    facts.identifier = Some("77".into());
    facts.moment = Some(Moment { next_transaction: 700, settled: true });
    facts.user = Some("user".into());
    facts.settings = BTreeMap::from([("wal_level".into(), "replica".into())]);
    facts.checksum_failures = Some(0);
    facts.roles =
        BTreeMap::from([("user".into(), vec!["superuser".into()]), ("app".into(), vec!["login".into()])]);
    facts.tablespaces = BTreeMap::from([("fast".into(), "/fast".into())]);
    let images = Table { empty: BTreeMap::from([("data".into(), 10)]), ..table("images", 1000) };
    let part = Table { partition: true, ..table("events_2026_01", 5) };
    facts.databases = vec![
        Database {
            name: "memory_db".into(),
            encoding: "UTF8".into(),
            collation: "libc en_US.utf8".into(),
            collation_version: Some("2.36".into()),
            extensions: BTreeMap::from([("plpgsql".into(), "1.0".into()), ("pgcrypto".into(), "1.3".into())]),
            revisions: vec![Revision {
                tool: "flyway".into(),
                schema: "public".into(),
                revision: Some("7".into()),
                applied: 7,
                unread: None,
            }],
            tables: vec![table("users", 50), images, part],
            foreign_keys: 1,
            sequences: 2,
            large_objects: Some(4),
            ..Database::default()
        },
        Database { name: "template1".into(), template: true, ..Database::default() },
    ];
    facts
}

fn later(mut facts: Facts) -> Facts {
    facts.moment = Some(Moment { next_transaction: 720, settled: true });
    facts
}

fn memory_db(facts: &mut Facts) -> &mut Database {
    &mut facts.databases[0]
}

fn of<'f>(facts: &'f mut Facts, table: &str) -> &'f mut Table {
    memory_db(facts).tables.iter_mut().find(|one| one.name.name == table).unwrap()
}

fn key(worth: Worth, orphans: u64) -> ForeignKey {
    ForeignKey { name: "k".into(), table: name("images"), orphans: Some(orphans), worth, unread: None }
}

const CONTEXT: ComparisonContext<'static> = ComparisonContext {
    container: Some("db 1"),
    snapshot: None,
    unclean: &[],
    recovers: false,
    nothing_written: None,
};

/// Returns the only difference of a kind, which must occur exactly once.
#[track_caller]
fn only(comparison: &Comparison, kind: DifferenceKind) -> &Difference {
    let found: Vec<_> = comparison.differences.iter().filter(|one| one.kind == kind).collect();
    assert_eq!(found.len(), 1, "{kind:?} in {:?}", comparison.differences);
    found[0]
}

#[test]
fn the_same_is_the_same() {
    let same = compare(&facts(), &facts(), &CONTEXT);
    assert_eq!(same, Comparison { strict: true, differences: Vec::new() });
    let same = compare(&facts(), &later(facts()), &CONTEXT);
    assert_eq!(same, Comparison { strict: false, differences: Vec::new() });
}

/// Damage that no client causes by writing: found whether or not anybody wrote.
#[rstest]
#[case::missing_table(|facts: &mut Facts| _ = memory_db(facts).tables.remove(0), DifferenceKind::MissingTable)]
#[case::missing_database(|facts: &mut Facts| _ = facts.databases.remove(0), DifferenceKind::MissingDatabase)]
#[case::missing_role(|facts: &mut Facts| _ = facts.roles.remove("app"), DifferenceKind::MissingRole)]
#[case::missing_extension(|facts: &mut Facts| _ = memory_db(facts).extensions.remove("pgcrypto"), DifferenceKind::MissingExtension)]
#[case::missing_tablespace(|facts: &mut Facts| facts.tablespaces.clear(), DifferenceKind::MissingTablespace)]
#[case::another_cluster(|facts: &mut Facts| facts.identifier = Some("78".into()), DifferenceKind::AnotherCluster)]
#[case::went_back(|facts: &mut Facts| facts.moment = Some(Moment { next_transaction: 600, settled: true }), DifferenceKind::WentBack)]
#[case::orphans(|facts: &mut Facts| memory_db(facts).doubtful_keys.push(key(Worth::Whole, 3)), DifferenceKind::Orphans)]
#[case::emptied_bytea(|facts: &mut Facts| _ = of(facts, "images").empty.insert("data".into(), 1000), DifferenceKind::EmptiedBytes)]
#[case::next_to_no_bytea(|facts: &mut Facts| _ = of(facts, "images").empty.insert("data".into(), 951), DifferenceKind::EmptiedBytes)]
#[case::emptied_database(|facts: &mut Facts| memory_db(facts).tables.iter_mut().for_each(|table| table.rows = Some(0)), DifferenceKind::EmptiedDatabase)]
#[case::unreadable_table(|facts: &mut Facts| *of(facts, "users") = Table { damaged: true, unread: Some("could not open file".into()), rows: None, ..table("users", 0) }, DifferenceKind::UnreadableTable)]
#[case::unreadable_database(|facts: &mut Facts| *memory_db(facts) = Database { name: "memory_db".into(), encoding: "UTF8".into(), collation: "libc en_US.utf8".into(), unread: Some("no".into()), damaged: true, ..Database::default() }, DifferenceKind::UnreadableDatabase)]
#[case::sequence_behind(|facts: &mut Facts| memory_db(facts).sequences_behind.push(SequenceBehind { sequence: name("s"), table: name("users"), column: "id".into(), next: "1".into(), reached: "50".into() }), DifferenceKind::SequenceBehind)]
#[case::invalid_index(|facts: &mut Facts| memory_db(facts).invalid_indexes.push(name("i")), DifferenceKind::InvalidIndex)]
#[case::checksum_failures(|facts: &mut Facts| facts.checksum_failures = Some(2), DifferenceKind::ChecksumFailures)]
#[case::collation(|facts: &mut Facts| memory_db(facts).collation_version = Some("2.41".into()), DifferenceKind::CollationChanged)]
#[case::revision_gone(|facts: &mut Facts| memory_db(facts).revisions.clear(), DifferenceKind::SchemaRevision)]
#[case::revision_back(|facts: &mut Facts| memory_db(facts).revisions[0] = Revision { revision: Some("6".into()), applied: 6, ..memory_db(facts).revisions[0].clone() }, DifferenceKind::SchemaRevision)]
fn damage_is_found_whether_or_not_clients_wrote(#[case] plant: fn(&mut Facts), #[case] kind: DifferenceKind) {
    for mut after in [facts(), later(facts())] {
        plant(&mut after);
        let comparison = compare(&facts(), &after, &CONTEXT);
        let difference = only(&comparison, kind);
        assert_eq!(difference.severity, Severity::Damage, "{comparison:?}");
        assert!(difference.next.is_some(), "{difference:?}");
        assert!(!comparison.ok());
    }
}

/// What clients do by writing: damage if nobody wrote, otherwise explained.
#[rstest]
#[case::fewer_rows(|facts: &mut Facts| of(facts, "users").rows = Some(49), DifferenceKind::FewerRows)]
#[case::no_rows(|facts: &mut Facts| of(facts, "users").rows = Some(0), DifferenceKind::FewerRows)]
#[case::more_rows(|facts: &mut Facts| of(facts, "users").rows = Some(51), DifferenceKind::MoreRows)]
#[case::new_table(|facts: &mut Facts| memory_db(facts).tables.push(table("new", 1)), DifferenceKind::NewTable)]
#[case::a_dropped_partition(|facts: &mut Facts| _ = memory_db(facts).tables.pop(), DifferenceKind::MissingTable)]
#[case::some_bytea(|facts: &mut Facts| _ = of(facts, "images").empty.insert("data".into(), 400), DifferenceKind::EmptiedBytes)]
#[case::most_bytea(|facts: &mut Facts| _ = of(facts, "images").empty.insert("data".into(), 950), DifferenceKind::EmptiedBytes)]
#[case::large_objects(|facts: &mut Facts| memory_db(facts).large_objects = Some(3), DifferenceKind::LargeObjects)]
#[case::migration(|facts: &mut Facts| memory_db(facts).revisions[0] = Revision { revision: Some("8".into()), applied: 8, ..memory_db(facts).revisions[0].clone() }, DifferenceKind::SchemaRevision)]
#[case::unguarded_orphans(|facts: &mut Facts| memory_db(facts).doubtful_keys.push(key(Worth::Disabled, 3)), DifferenceKind::Orphans)]
#[case::a_weakened_key(|facts: &mut Facts| memory_db(facts).doubtful_keys.push(key(Worth::NotValid, 0)), DifferenceKind::WeakenedKey)]
#[case::role_changed(|facts: &mut Facts| _ = facts.roles.insert("app".into(), vec![]), DifferenceKind::RoleChanged)]
#[case::new_role(|facts: &mut Facts| _ = facts.roles.insert("new".into(), vec![]), DifferenceKind::NewRole)]
#[case::new_database(|facts: &mut Facts| facts.databases.push(Database { name: "new".into(), ..Database::default() }), DifferenceKind::NewDatabase)]
#[case::extension_version(|facts: &mut Facts| _ = memory_db(facts).extensions.insert("pgcrypto".into(), "1.4".into()), DifferenceKind::ExtensionVersion)]
fn what_writing_does_is_damage_only_when_nobody_wrote(
    #[case] write: fn(&mut Facts),
    #[case] kind: DifferenceKind,
) {
    let mut after = facts();
    write(&mut after);
    let strict = compare(&facts(), &after, &CONTEXT);
    assert_eq!(only(&strict, kind).severity, Severity::Damage, "{strict:?}");
    let lenient = compare(&facts(), &later(after), &CONTEXT);
    assert_eq!(only(&lenient, kind).severity, Severity::Explained, "{lenient:?}");
    assert!(lenient.ok() && !lenient.strict, "{lenient:?}");
}

/// What was not looked at is neither gone nor new, nor worse than it was.
#[rstest]
#[case::revision_out_of_time(|facts: &mut Facts| memory_db(facts).revisions[0] = Revision { revision: None, applied: 0, unread: Some("there was no time left".into()), ..memory_db(facts).revisions[0].clone() })]
#[case::revisions_not_listed(|facts: &mut Facts| { memory_db(facts).revisions.clear(); memory_db(facts).unfinished.insert(Part::Revisions); })]
#[case::tables_not_listed(|facts: &mut Facts| { memory_db(facts).tables.clear(); memory_db(facts).revisions.clear(); memory_db(facts).unfinished.insert(Part::All); })]
#[case::a_table_out_of_time(|facts: &mut Facts| { of(facts, "users").rows = None; of(facts, "users").unread = Some("there was no time left".into()); })]
#[case::no_large_objects(|facts: &mut Facts| memory_db(facts).large_objects = None)]
#[case::a_database_out_of_time(|facts: &mut Facts| *memory_db(facts) = Database { name: "memory_db".into(), encoding: "UTF8".into(), collation: "libc en_US.utf8".into(), unread: Some("there was no time left".into()), ..Database::default() })]
fn what_was_not_looked_at_is_not_missing(#[case] overlook: fn(&mut Facts)) {
    let mut looked = facts();
    overlook(&mut looked);
    for (before, after) in [(facts(), looked.clone()), (looked, facts())] {
        let comparison = compare(&before, &after, &CONTEXT);
        assert!(comparison.ok(), "{comparison:?}");
        assert!(compare(&before, &later(after), &CONTEXT).ok());
    }
}

#[test]
fn what_was_wrong_where_nobody_had_looked_is_told_and_is_no_damage() {
    let mut before = facts();
    memory_db(&mut before).unfinished.extend([Part::Sequences, Part::ForeignKeys]);
    let mut after = facts();
    memory_db(&mut after).doubtful_keys.push(key(Worth::NotValid, 3));
    memory_db(&mut after).sequences_behind.push(SequenceBehind {
        sequence: name("s"),
        table: name("users"),
        column: "id".into(),
        next: "1".into(),
        reached: "50".into(),
    });
    let comparison = compare(&before, &after, &CONTEXT);
    assert!(comparison.ok() && comparison.differences.len() == 2, "{comparison:?}");
    assert!(comparison.differences.iter().all(|one| one.severity == Severity::Information));
}

#[test]
fn a_transaction_under_way_makes_nothing_strict() {
    let mut after = facts();
    of(&mut after, "users").rows = Some(40);
    after.moment = Some(Moment { next_transaction: 700, settled: false });
    assert!(!compare(&facts(), &after, &CONTEXT).strict);
    let known = ComparisonContext { nothing_written: Some(true), ..CONTEXT };
    assert!(!compare(&facts(), &after, &known).ok());
}

#[test]
fn a_migration_explains_tables_and_extensions_that_are_gone_but_not_when_nobody_wrote() {
    let mut after = later(facts());
    memory_db(&mut after).revisions[0] =
        Revision { revision: Some("8".into()), applied: 8, ..memory_db(&mut after).revisions[0].clone() };
    memory_db(&mut after).tables.remove(0);
    memory_db(&mut after).extensions.remove("pgcrypto");
    let lenient = compare(&facts(), &after, &CONTEXT);
    assert!(lenient.ok(), "{lenient:?}");
    let strict = compare(&facts(), &after, &ComparisonContext { nothing_written: Some(true), ..CONTEXT });
    assert_eq!(only(&strict, DifferenceKind::MissingTable).severity, Severity::Damage);
}

#[test]
fn what_was_wrong_before_is_told_and_is_no_difference() {
    let mut before = facts();
    memory_db(&mut before).doubtful_keys.push(key(Worth::NotValid, 3));
    memory_db(&mut before).invalid_indexes.push(name("i"));
    let mut after = before.clone();
    let same = compare(&before, &after, &CONTEXT);
    assert!(same.ok() && same.differences.len() == 2, "{same:?}");
    assert!(same.differences.iter().all(|one| one.severity == Severity::Information));
    memory_db(&mut after).doubtful_keys[0].orphans = Some(4);
    let more = compare(&before, &later(after), &CONTEXT);
    let orphans = only(&more, DifferenceKind::Orphans);
    assert_eq!(orphans.severity, Severity::Damage);
    assert_eq!(
        orphans.next.as_ref().map(ToString::to_string).as_deref(),
        Some(
            "docker exec 'db 1' psql -U user -d memory_db -c 'ALTER TABLE public.images VALIDATE CONSTRAINT k'"
        )
    );
}

#[test]
fn what_was_not_counted_is_not_compared_unless_there_is_nothing_left_of_it() {
    let uncounted = |estimated| Table { rows: None, estimated, bytes: Some(1 << 30), ..table("users", 0) };
    let mut before = facts();
    *of(&mut before, "users") = uncounted(Some(1_000_000));
    let mut after = before.clone();
    *of(&mut after, "users") = uncounted(Some(10));
    assert!(compare(&before, &after, &CONTEXT).ok(), "an estimate moves without a transaction");
    *of(&mut after, "users") = table("users", 0);
    let gone = compare(&before, &after, &CONTEXT);
    assert_eq!(only(&gone, DifferenceKind::FewerRows).before.as_deref(), Some("about 1000000 rows"));
    *of(&mut after, "users") = Table { bytes: Some(1 << 29), ..uncounted(Some(1_000_000)) };
    let truncated = compare(&before, &after, &CONTEXT);
    assert_eq!(only(&truncated, DifferenceKind::ShrunkenTable).severity, Severity::Damage);
    assert!(compare(&before, &later(after.clone()), &CONTEXT).ok());
    // With that setting, vacuum gives back pages without a transaction.
    after.settings.insert("wal_level".into(), "minimal".into());
    assert!(compare(&before, &after, &CONTEXT).ok());
}

#[test]
fn a_table_that_could_not_be_looked_at_for_a_moment_is_not_damaged() {
    let mut after = facts();
    *of(&mut after, "users") = Table { rows: None, unread: Some("lock timeout".into()), ..table("users", 0) };
    of(&mut after, "users").bytes = None;
    assert!(compare(&facts(), &after, &CONTEXT).ok());
    let mut after = facts();
    memory_db(&mut after).unread = Some("there was no time left".into());
    memory_db(&mut after).tables.clear();
    assert!(compare(&facts(), &after, &CONTEXT).ok());
}

#[test]
fn a_crash_is_told_and_empties_what_is_not_logged() {
    let unclean = ["its state is \"in production\"".to_owned()];
    let crashed = ComparisonContext { unclean: &unclean, ..CONTEXT };
    let mut before = facts();
    of(&mut before, "users").unlogged = true;
    let mut after = before.clone();
    of(&mut after, "users").rows = Some(0);
    after.moment = Some(Moment { next_transaction: 699, settled: true });
    let comparison = compare(&before, &after, &crashed);
    assert_eq!(only(&comparison, DifferenceKind::CrashRecovery).severity, Severity::Damage);
    assert_eq!(only(&comparison, DifferenceKind::FewerRows).severity, Severity::Explained);
    assert_eq!(only(&comparison, DifferenceKind::WentBack).severity, Severity::Explained);
}

#[test]
fn the_content_of_full_facts_is_compared_where_the_count_is_the_same() {
    let with = |digest: &str| {
        let mut facts = facts();
        of(&mut facts, "users").digest = Some(digest.into());
        facts
    };
    let comparison = compare(&with("1"), &with("2"), &CONTEXT);
    assert_eq!(only(&comparison, DifferenceKind::ChangedContent).severity, Severity::Damage);
    assert!(compare(&with("1"), &later(with("2")), &CONTEXT).ok());
    assert!(compare(&with("1"), &facts(), &CONTEXT).differences.is_empty());
}

#[test]
fn a_fresh_empty_cluster_is_one_finding_not_hundreds() {
    let mut after = facts();
    after.identifier = Some("78".into());
    after.databases.clear();
    let comparison = compare(&facts(), &after, &CONTEXT);
    let [only] = &comparison.differences[..] else { panic!("{comparison:?}") };
    assert!(only.before.as_ref().unwrap().contains("3 tables"), "{only:?}");
    assert!(only.next.as_ref().unwrap().to_string().contains("docker inspect"), "{only:?}");
}

#[test]
fn the_first_look_says_what_is_wrong_by_itself() {
    assert!(first_look(&facts(), &CONTEXT).differences.is_empty());
    let mut wrong = facts();
    memory_db(&mut wrong).doubtful_keys = vec![key(Worth::NotValid, 3)];
    memory_db(&mut wrong).invalid_indexes.push(name("i"));
    assert!(first_look(&wrong, &CONTEXT).ok());
    assert_eq!(first_look(&wrong, &CONTEXT).differences.len(), 2);
    memory_db(&mut wrong).doubtful_keys = vec![key(Worth::Whole, 3)];
    assert!(!first_look(&wrong, &CONTEXT).ok());
}

#[test]
fn files_that_are_all_gone_are_damage_and_files_that_changed_are_not() {
    let of =
        |files, bytes| Facts::of_files(Files { files, bytes, digest: None }, chrono::DateTime::UNIX_EPOCH);
    assert!(compare(&of(10, 100), &of(10, 100), &CONTEXT).differences.is_empty());
    let changed = compare(&of(10, 100), &of(9, 90), &CONTEXT);
    let files = only(&changed, DifferenceKind::Files);
    // Nobody has said that a client did it, nor that it has to be undone.
    assert!(changed.ok() && files.severity == Severity::Information && files.next.is_none());
    assert!(!compare(&of(10, 100), &of(0, 0), &CONTEXT).ok());
}

#[test]
fn a_command_has_its_names_quoted() {
    let mut after = facts();
    let database = memory_db(&mut after);
    database.name = "it's".into();
    database.invalid_indexes.push(name("a\"b; drop"));
    let mut before = facts();
    memory_db(&mut before).name = "it's".into();
    let comparison = compare(&before, &after, &CONTEXT);
    assert_eq!(
        only(&comparison, DifferenceKind::InvalidIndex).next.as_ref().map(ToString::to_string).as_deref(),
        Some(r#"docker exec 'db 1' psql -U user -d 'it'\''s' -c 'REINDEX INDEX public."a""b; drop"'"#)
    );
}

#[test]
fn a_view_is_missed_but_has_no_rows() {
    let mut before = facts();
    memory_db(&mut before).tables.push(Table { name: name("v"), kind: TableKind::View, ..Table::default() });
    let comparison = compare(&before, &facts(), &CONTEXT);
    assert_eq!(only(&comparison, DifferenceKind::MissingTable).object, "memory_db: table public.v");
    assert_eq!(before.summary(), facts().summary());
}

#[test]
fn of_a_database_that_is_not_known_the_same_is_found_and_nothing_is_advised() {
    let unknown = |mut facts: Facts| {
        facts.engine = "another".into();
        facts
    };
    let mut after = unknown(facts());
    memory_db(&mut after).invalid_indexes.push(name("i"));
    let large = Table { rows: None, estimated: Some(9), ..table("users", 50) };
    let mut before = unknown(facts());
    *of(&mut before, "users") = Table { bytes: Some(1 << 30), ..large.clone() };
    *of(&mut after, "users") = Table { bytes: Some(1 << 20), ..large };
    let comparison = compare(&before, &after, &CONTEXT);
    assert!(comparison.strict);
    let [index] = &comparison.differences[..] else { panic!("{comparison:?}") };
    assert_eq!((index.kind, index.severity), (DifferenceKind::InvalidIndex, Severity::Damage));
    assert_eq!(index.next, None);
}

#[test]
fn what_a_recovery_empties_is_no_damage_and_what_it_must_keep_is() {
    let (mut before, mut after) = (facts(), facts());
    let context = ComparisonContext { recovers: true, nothing_written: Some(true), ..CONTEXT };
    for table in &mut memory_db(&mut before).tables {
        table.unlogged = true;
    }
    for table in &mut memory_db(&mut after).tables {
        (table.unlogged, table.rows) = (true, table.rows.map(|_| 0));
    }
    let emptied = |comparison: &Comparison| {
        let is_it = |one: &&Difference| {
            matches!(one.kind, DifferenceKind::FewerRows | DifferenceKind::EmptiedDatabase)
        };
        let found: Vec<_> = comparison.differences.iter().filter(is_it).map(|one| one.severity).collect();
        assert!(!found.is_empty());
        found.contains(&Severity::Damage)
    };
    assert!(!emptied(&compare(&before, &after, &context)));
    assert!(emptied(&compare(&before, &after, &ComparisonContext { recovers: false, ..context })));
}
