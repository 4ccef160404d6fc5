//! What differs between two looks at the same data, how bad that is, and the next command.
//!
//! A comparison is *strict* if the transaction numbers prove that nothing was written in between: then every
//! difference is damage. Otherwise it is lenient: rows come and go, sequences move, schemas migrate, and damage is
//! only what no client causes by writing: a table, a database or a role that is gone, a row whose foreign key leads
//! nowhere, bytes that are empty where they were not, another cluster.
//!
//! The rules are the same for every database. Its own [`Advice`] tells what fixes a [flaw](Flaw), and what its files
//! may do by themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::advice::{Advice, Flaw};
use super::fresh::FreshDatabase;
use crate::model::facts::difference::{Comparison, Difference, DifferenceKind, Severity};
use crate::model::facts::{
    Database, Facts, Files, ForeignKey, Name, Part, Revision, Table, Worth, identifier,
};
use crate::model::hint::Hint;
use crate::model::plural::{counted, grouped, plural};

/// What a comparison needs to know besides the facts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ComparisonContext<'a> {
    /// The database's container, for the commands.
    pub container: Option<&'a str>,
    /// The snapshot of the data as it was before, `SOURCE/ID`.
    pub snapshot: Option<&'a str>,
    /// Why its own files say that the server's last shutdown was not clean; empty if it was, or if unknown.
    pub unclean: &'a [String],
    /// Whether the data is of a server that had not shut down: it recovers, and tables without a log come back empty.
    pub recovers: bool,
    /// Whether nothing was written in between, if something besides the facts says so.
    pub nothing_written: Option<bool>,
}

/// Returns what differs between two looks at the same data.
#[must_use]
pub fn compare(before: &Facts, after: &Facts, context: &ComparisonContext<'_>) -> Comparison {
    let proved = || before.moment.zip(after.moment).is_some_and(|(before, after)| before.is(after));
    let same_cluster = before.engine == after.engine && before.identifier == after.identifier;
    let strict = same_cluster && context.nothing_written.unwrap_or_else(proved);
    let mut comparing = Comparing::of(after, context, strict);
    comparing.shutdown();
    if same_cluster {
        comparing.cluster(before);
        comparing.databases(before);
        comparing.files(before);
    } else {
        comparing.another_cluster(before);
    }
    comparing.finish()
}

/// Returns what is wrong with data that has no earlier look.
#[must_use]
pub fn first_look(facts: &Facts, context: &ComparisonContext<'_>) -> Comparison {
    let mut comparing = Comparing::of(facts, context, false);
    comparing.shutdown();
    if facts.checksum_failures.is_some_and(|failures| failures > 0) {
        comparing.checksum_failures(None);
    }
    for database in &facts.databases {
        let nothing = Database { name: database.name.clone(), ..Database::default() };
        let of = Of { before: &nothing, after: database, migrated: false, first: true };
        comparing.standing(&of);
        comparing.keys(&of);
        comparing.sequences(&of);
        comparing.indexes(&of);
        for table in database.tables.iter().filter(|table| table.damaged) {
            comparing.unreadable_table(&of, table);
        }
    }
    comparing.finish()
}

struct Comparing<'a> {
    after: &'a Facts,
    context: &'a ComparisonContext<'a>,
    strict: bool,
    advice: &'static dyn Advice,
    found: Vec<Difference>,
}

/// One database, then and now.
struct Of<'a> {
    before: &'a Database,
    after: &'a Database,
    /// Whether the tool's own record says that its schema moved to another revision.
    migrated: bool,
    /// Whether there was no earlier look at it.
    first: bool,
}

impl Of<'_> {
    fn object(&self, what: &str, name: &impl std::fmt::Display) -> String {
        format!("{}: {what} {name}", self.after.name)
    }
}

type Change = (Option<String>, Option<String>);

fn change(before: impl Into<String>, after: impl Into<String>) -> Change {
    (Some(before.into()), Some(after.into()))
}

fn gone(before: impl Into<String>) -> Change {
    (Some(before.into()), None)
}

fn came(after: impl Into<String>) -> Change {
    (None, Some(after.into()))
}

impl<'a> Comparing<'a> {
    fn of(after: &'a Facts, context: &'a ComparisonContext<'a>, strict: bool) -> Self {
        Self { after, context, strict, advice: super::advice_of(&after.engine), found: Vec::new() }
    }
}

impl Comparing<'_> {
    fn finish(mut self) -> Comparison {
        // The sort is stable: within one severity they keep the order in which they were found.
        self.found.sort_by_key(|difference| difference.severity);
        Comparison { strict: self.strict, differences: self.found }
    }

    fn push(
        &mut self,
        kind: DifferenceKind,
        severity: Severity,
        object: impl Into<String>,
        (before, after): Change,
        next: Option<Hint>,
    ) {
        let next = next.filter(|_| severity != Severity::Explained);
        self.found.push(Difference { kind, severity, object: object.into(), before, after, next });
    }

    /// Returns how bad something is that a client may have caused by writing.
    fn by_writing(&self) -> Severity {
        if self.strict { Severity::Damage } else { Severity::Explained }
    }

    /// Returns the command that restores what is gone.
    fn restore(&self) -> Option<Hint> {
        Some(match self.context.snapshot {
            Some(snapshot) => Hint::volsnap(["restore", snapshot])
                .why("puts all of it back; keeps what is there now as a safety snapshot"),
            None => {
                Hint::advice("a snapshot from before may have it: name the repository that has one by --repo")
            }
        })
    }

    /// Returns the command that fixes a flaw.
    fn mend(&self, flaw: &Flaw<'_>) -> Option<Hint> {
        self.advice.mend(self.context.container?, self.after, flaw)
    }

    fn logs(&self) -> Option<Hint> {
        Some(Hint::docker(["logs", "--tail", "50", self.context.container?]))
    }

    fn mounts(&self) -> Option<Hint> {
        Some(Hint::mounts(self.context.container?).why("is it on the right volume?"))
    }

    fn shutdown(&mut self) {
        if !self.context.unclean.is_empty() {
            let why = came(self.context.unclean.join("; "));
            let next = self.logs();
            self.push(DifferenceKind::CrashRecovery, Severity::Damage, "the last shutdown", why, next);
        }
    }

    fn another_cluster(&mut self, before: &Facts) {
        let named = |facts: &Facts| match &facts.identifier {
            Some(identifier) => format!("{} cluster {identifier}", facts.engine),
            None => facts.engine.clone(),
        };
        let fresh = FreshDatabase::of(self.after, before.taken, Some(before.summary().rows));
        let rows = |facts: &Facts| {
            let summary = facts.summary();
            format!(
                "{}, {}, {}",
                named(facts),
                several(summary.tables, "table"),
                several(summary.rows, "row")
            )
        };
        let (now, next) = match &fresh {
            Some(fresh) => (format!("{}, {fresh}", named(self.after)), self.restore()),
            None => (rows(self.after), self.mounts()),
        };
        let what = change(rows(before), now);
        self.push(DifferenceKind::AnotherCluster, Severity::Damage, "the cluster", what, next);
    }

    fn cluster(&mut self, before: &Facts) {
        let after = self.after;
        if let Some((then, now)) = before.moment.zip(after.moment)
            && now.next_transaction < then.next_transaction
        {
            let severity =
                if self.context.unclean.is_empty() { Severity::Damage } else { Severity::Explained };
            let next = self.mounts();
            let what = change(then.next_transaction.to_string(), now.next_transaction.to_string());
            self.push(DifferenceKind::WentBack, severity, "the next transaction", what, next);
        }
        if before.engine_version != after.engine_version {
            let what = change(&before.engine_version, &after.engine_version);
            self.push(DifferenceKind::EngineVersion, Severity::Information, "the server", what, None);
        }
        for (name, value) in &after.settings {
            if let Some(then) = before.settings.get(name).filter(|then| *then != value) {
                let what = change(then, value);
                self.push(
                    DifferenceKind::Setting,
                    Severity::Information,
                    format!("setting {name}"),
                    what,
                    None,
                );
            }
        }
        self.checksum_failures(before.checksum_failures);
        self.roles(before);
        for (name, location) in &before.tablespaces {
            let object = format!("tablespace {}", identifier(name));
            match after.tablespaces.get(name) {
                None => {
                    let next = self.restore();
                    self.push(
                        DifferenceKind::MissingTablespace,
                        Severity::Damage,
                        object,
                        gone(location),
                        next,
                    );
                }
                Some(now) if now != location => {
                    let what = change(location, now);
                    self.push(DifferenceKind::TablespaceMoved, Severity::Information, object, what, None);
                }
                Some(_) => {}
            }
        }
    }

    fn checksum_failures(&mut self, before: Option<u64>) {
        let (then, now) = (before.unwrap_or(0), self.after.checksum_failures.unwrap_or(0));
        if now > then {
            let next = self.logs();
            let what = change(then.to_string(), now.to_string());
            self.push(
                DifferenceKind::ChecksumFailures,
                Severity::Damage,
                "pages that do not match their checksums",
                what,
                next,
            );
        }
    }

    fn roles(&mut self, before: &Facts) {
        let after = self.after;
        for (name, attributes) in &before.roles {
            let object = format!("role {}", identifier(name));
            match after.roles.get(name) {
                None => {
                    let next = self.restore();
                    let what = gone(attributes.join(", "));
                    self.push(DifferenceKind::MissingRole, Severity::Damage, object, what, next);
                }
                Some(now) if now != attributes => {
                    let what = change(attributes.join(", "), now.join(", "));
                    self.push(DifferenceKind::RoleChanged, self.by_writing(), object, what, None);
                }
                Some(_) => {}
            }
        }
        for (name, attributes) in after.roles.iter().filter(|(name, _)| !before.roles.contains_key(*name)) {
            let what = came(attributes.join(", "));
            self.push(
                DifferenceKind::NewRole,
                self.by_writing(),
                format!("role {}", identifier(name)),
                what,
                None,
            );
        }
    }

    fn databases(&mut self, before: &Facts) {
        let after = self.after;
        let now: BTreeMap<&str, &Database> =
            after.databases.iter().map(|database| (database.name.as_str(), database)).collect();
        for database in &before.databases {
            let Some(now) = now.get(database.name.as_str()) else {
                let object = format!("database {}", identifier(&database.name));
                let what = gone(several(database.tables.len() as u64, "table"));
                let next = self.restore();
                self.push(DifferenceKind::MissingDatabase, Severity::Damage, object, what, next);
                continue;
            };
            self.database(database, now);
        }
        let then: BTreeSet<_> = before.databases.iter().map(|database| &database.name).collect();
        for database in after.databases.iter().filter(|database| !then.contains(&database.name)) {
            let object = format!("database {}", identifier(&database.name));
            let what = came(several(database.tables.len() as u64, "table"));
            self.push(DifferenceKind::NewDatabase, self.by_writing(), object, what, None);
        }
    }

    fn database(&mut self, before: &Database, after: &Database) {
        let of = Of { before, after, migrated: !self.strict && migrated(before, after), first: false };
        self.text(&of);
        if before.unread.is_some() || after.unread.is_some() {
            if let (None, Some(why), true) = (&before.unread, &after.unread, after.damaged) {
                let object = format!("database {}", identifier(&after.name));
                let next = self.logs();
                self.push(
                    DifferenceKind::UnreadableDatabase,
                    Severity::Damage,
                    object,
                    change("readable", why),
                    next,
                );
            }
            return;
        }
        self.standing(&of);
        self.extensions(&of);
        self.revisions(&of);
        self.tables(&of);
        self.large_objects(&of);
        self.keys(&of);
        self.sequences(&of);
        self.indexes(&of);
    }

    fn text(&mut self, of: &Of<'_>) {
        let object = format!("database {}", identifier(&of.after.name));
        let version = |database: &Database| {
            database.collation_version.as_ref().map_or_else(String::new, |version| format!(" {version}"))
        };
        let text = |database: &Database, version: &str| {
            format!("{}, {}{version}", database.encoding, database.collation)
        };
        let (then, now) = (version(of.before), version(of.after));
        // A version that only one side has proves nothing.
        let known = !then.is_empty() && !now.is_empty();
        let differs = of.before.encoding != of.after.encoding
            || of.before.collation != of.after.collation
            || (known && then != now);
        if differs {
            let what = change(text(of.before, &then), text(of.after, &now));
            let next = self.mend(&Flaw::Collation { database: &of.after.name });
            self.push(DifferenceKind::CollationChanged, Severity::Damage, object, what, next);
        }
    }

    /// Finds what was already wrong before, or is wrong at first sight, without being a difference.
    fn standing(&mut self, of: &Of<'_>) {
        let (recorded, actual) = (&of.after.recorded_collation_version, &of.after.collation_version);
        if let (Some(recorded), Some(actual)) = (recorded, actual)
            && recorded != actual
            && of.before.collation_version.as_ref().is_none_or(|then| then == actual)
        {
            let object = format!(
                "database {}: indexes made with another collation version",
                identifier(&of.after.name)
            );
            let next = self.mend(&Flaw::Collation { database: &of.after.name });
            let what = change(recorded, actual);
            self.push(DifferenceKind::CollationChanged, Severity::Information, object, what, next);
        }
    }

    fn extensions(&mut self, of: &Of<'_>) {
        for (name, version) in &of.before.extensions {
            let object = of.object("extension", &identifier(name));
            match of.after.extensions.get(name) {
                None => {
                    let severity = if of.migrated { Severity::Explained } else { Severity::Damage };
                    let next = self.mend(&Flaw::Extension { database: &of.after.name, extension: name });
                    self.push(DifferenceKind::MissingExtension, severity, object, gone(version), next);
                }
                Some(now) if now != version => {
                    let what = change(version, now);
                    self.push(DifferenceKind::ExtensionVersion, self.by_writing(), object, what, None);
                }
                Some(_) => {}
            }
        }
        for (name, version) in &of.after.extensions {
            if !of.before.extensions.contains_key(name) {
                let object = of.object("extension", &identifier(name));
                self.push(DifferenceKind::NewExtension, self.by_writing(), object, came(version), None);
            }
        }
    }

    fn revisions(&mut self, of: &Of<'_>) {
        let shown = |revision: &Revision| {
            format!("{} ({} applied)", revision.revision.as_deref().unwrap_or("none"), revision.applied)
        };
        for then in &of.before.revisions {
            let object =
                of.object("schema revision of", &format!("{} in {}", then.tool, identifier(&then.schema)));
            let Some(now) = same_tool(then, of.after) else {
                if of.after.is_unfinished(Part::Revisions) {
                    continue;
                }
                let next = self.restore();
                self.push(DifferenceKind::SchemaRevision, Severity::Damage, object, gone(shown(then)), next);
                continue;
            };
            if now == then || !both_read(then, now) {
                continue;
            }
            let severity = if went_on(then, now) { self.by_writing() } else { Severity::Damage };
            let what = change(shown(then), shown(now));
            let next = self.restore();
            self.push(DifferenceKind::SchemaRevision, severity, object, what, next);
        }
    }

    fn tables(&mut self, of: &Of<'_>) {
        let now: BTreeMap<&Name, &Table> = of.after.tables.iter().map(|table| (&table.name, table)).collect();
        let then: BTreeSet<&Name> = of.before.tables.iter().map(|table| &table.name).collect();
        self.emptied_database(of);
        for table in &of.before.tables {
            match now.get(&table.name) {
                None if of.after.is_unfinished(Part::All) => {}
                None => self.missing_table(of, table),
                Some(now) => self.table(of, table, now),
            }
        }
        let news = of.after.tables.iter().filter(|table| !then.contains(&table.name));
        for table in news.filter(|_| !of.before.is_unfinished(Part::All)) {
            let object = of.object("table", &table.name);
            self.push(DifferenceKind::NewTable, self.by_writing(), object, came(rows(table)), None);
        }
    }

    /// Returns whether the server has recovered, which empties the tables without a log.
    fn has_recovered(&self) -> bool {
        self.context.recovers || !self.context.unclean.is_empty()
    }

    /// A client may empty any one table; if all of them are empty at once, their rows are lost.
    fn emptied_database(&mut self, of: &Of<'_>) {
        let total = |database: &Database| -> Option<u64> {
            database.tables.iter().filter(|table| table.has_rows()).map(|table| table.rows).sum()
        };
        let lasts = |table: &&Table| !(table.unlogged && self.has_recovered());
        let had = of.before.tables.iter().filter(lasts);
        let had = had.filter(|table| table.rows.or(table.estimated) > Some(0)).count();
        if had > 1 && total(of.after) == Some(0) && !of.after.is_unfinished(Part::All) {
            let object = format!("database {}", identifier(&of.after.name));
            let next = self.restore();
            let what = change(format!("rows in {}", counted(had as u64, "table")), "no row at all");
            self.push(DifferenceKind::EmptiedDatabase, Severity::Damage, object, what, next);
        }
    }

    fn missing_table(&mut self, of: &Of<'_>, table: &Table) {
        // Dropping old partitions is routine.
        let severity = match (table.partition || of.migrated, self.strict) {
            (true, false) => Severity::Explained,
            _ => Severity::Damage,
        };
        let next = self.restore();
        let object = of.object("table", &table.name);
        self.push(DifferenceKind::MissingTable, severity, object, gone(rows(table)), next);
    }

    fn unreadable_table(&mut self, of: &Of<'_>, table: &Table) {
        let object = of.object("table", &table.name);
        let why = table.unread.clone().unwrap_or_default();
        let next = self.restore();
        let before = (!of.first).then(|| "readable".to_owned());
        self.push(DifferenceKind::UnreadableTable, Severity::Damage, object, (before, Some(why)), next);
    }

    fn table(&mut self, of: &Of<'_>, then: &Table, now: &Table) {
        if now.damaged {
            if then.damaged {
                let object = of.object("table", &now.name);
                let next = self.restore();
                let what = (None, now.unread.clone());
                self.push(DifferenceKind::UnreadableTable, Severity::Damage, object, what, next);
            } else {
                self.unreadable_table(of, now);
            }
            return;
        }
        self.count(of, then, now);
        self.emptied_bytes(of, then, now);
        if then.rows == now.rows
            && let (Some(before), Some(after)) = (&then.digest, &now.digest)
            && before != after
        {
            let object = of.object("content of", &now.name);
            self.push(DifferenceKind::ChangedContent, self.by_writing(), object, change(before, after), None);
        }
    }

    fn count(&mut self, of: &Of<'_>, then: &Table, now: &Table) {
        let object = of.object("table", &now.name);
        let what = change(rows(then), rows(now));
        let fewer = match (then.rows, then.estimated, now.rows) {
            (Some(then), _, Some(now)) => now < then,
            // A table without a page has no row, whatever the estimate was.
            (None, Some(then), Some(0)) => then > 0,
            _ => false,
        };
        if fewer {
            let by_crash = now.unlogged && self.has_recovered();
            let severity = if by_crash { Severity::Explained } else { self.by_writing() };
            let next = self.restore();
            return self.push(DifferenceKind::FewerRows, severity, object, what, next);
        }
        if then.rows.zip(now.rows).is_some_and(|(then, now)| now > then) {
            return self.push(DifferenceKind::MoreRows, self.by_writing(), object, what, None);
        }
        // A table that is too large to count does not shrink without a transaction either, if the database gives
        // nothing back by itself.
        let may_shrink = self.advice.may_shrink(self.after);
        if let (true, false, Some(before), Some(after)) = (self.strict, may_shrink, then.bytes, now.bytes)
            && after < before
        {
            let next = self.restore();
            let what = change(counted(before, "byte"), counted(after, "byte"));
            self.push(DifferenceKind::ShrunkenTable, Severity::Damage, object, what, next);
        }
    }

    fn emptied_bytes(&mut self, of: &Of<'_>, then: &Table, now: &Table) {
        let (Some(rows_then), Some(rows_now)) = (then.rows, now.rows) else { return };
        for (column, &empty_then) in &then.empty {
            let Some(&empty_now) = now.empty.get(column) else { continue };
            let full_then = rows_then.saturating_sub(empty_then);
            let full_now = rows_now.saturating_sub(empty_now);
            if empty_now <= empty_then || full_now >= full_then {
                continue;
            }
            // If hardly any row that had bytes still has them, and at least as many more rows have none, rows that
            // come and go do not explain that.
            let most = full_now <= full_then / 20 && empty_now - empty_then >= full_then - full_now;
            let severity = if most { Severity::Damage } else { self.by_writing() };
            let object = of.object("column", &format!("{}.{}", now.name, identifier(column)));
            let shown =
                |full: u64, rows: u64| format!("{} of {} with bytes", grouped(full), counted(rows, "row"));
            let next = self.restore();
            let what = change(shown(full_then, rows_then), shown(full_now, rows_now));
            self.push(DifferenceKind::EmptiedBytes, severity, object, what, next);
        }
    }

    fn large_objects(&mut self, of: &Of<'_>) {
        let (Some(then), Some(now)) = (of.before.large_objects, of.after.large_objects) else { return };
        if then != now {
            let object = format!("{}: large objects", of.after.name);
            let next = self.restore().filter(|_| now < then);
            self.push(
                DifferenceKind::LargeObjects,
                self.by_writing(),
                object,
                change(then.to_string(), now.to_string()),
                next,
            );
        }
    }

    fn keys(&mut self, of: &Of<'_>) {
        let then: BTreeMap<(&Name, &str), &ForeignKey> =
            of.before.doubtful_keys.iter().map(|key| ((&key.table, key.name.as_str()), key)).collect();
        for key in &of.after.doubtful_keys {
            let then = then.get(&(&key.table, key.name.as_str())).copied();
            self.key(of, then, key);
        }
    }

    fn key(&mut self, of: &Of<'_>, then: Option<&ForeignKey>, now: &ForeignKey) {
        let object = of.object("foreign key", &format!("{} of {}", identifier(&now.name), now.table));
        let looked_at = then.is_some() || !of.before.is_unfinished(Part::ForeignKeys);
        let worth = |key: Option<&ForeignKey>| key.map_or(Worth::Whole, |key| key.worth);
        if worth(then) == Worth::Whole && now.worth != Worth::Whole && !of.first && looked_at {
            let what = change("whole", worth_name(now.worth));
            self.push(DifferenceKind::WeakenedKey, self.by_writing(), object.clone(), what, None);
        }
        let Some(orphans) = now.orphans.filter(|orphans| *orphans > 0) else { return };
        // If a key has no record, all its rows led somewhere; a key that nobody looked at may have had any number of
        // orphans.
        let known = match then {
            None => looked_at.then_some(0),
            Some(then) => then.orphans,
        };
        let severity = match (now.worth, then) {
            _ if known.is_some_and(|then| orphans <= then) => Severity::Information,
            _ if (of.first || known.is_none()) && now.worth != Worth::Whole => Severity::Information,
            // A new key, or one that nothing enforces, may have had them from the start.
            (Worth::Disabled, _) | (Worth::NotValid, None) => self.by_writing(),
            _ => Severity::Damage,
        };
        let shown = |orphans: u64| {
            format!("{} lead{} nowhere", counted(orphans, "row"), if orphans == 1 { "s" } else { "" })
        };
        let before = known.filter(|_| !of.first).map(shown);
        let next = match now.worth {
            Worth::NotValid => self.mend(&Flaw::ForeignKey { database: &of.after.name, key: now }),
            _ => self.restore(),
        };
        self.push(DifferenceKind::Orphans, severity, object, (before, Some(shown(orphans))), next);
    }

    fn sequences(&mut self, of: &Of<'_>) {
        let then: BTreeSet<_> = of.before.sequences_behind.iter().map(|behind| &behind.sequence).collect();
        for behind in &of.after.sequences_behind {
            // One that was not looked at before may have been so all the while.
            let was_so =
                of.first || then.contains(&behind.sequence) || of.before.is_unfinished(Part::Sequences);
            let severity = if was_so { Severity::Information } else { Severity::Damage };
            let object = of.object("sequence", &behind.sequence);
            let what = came(format!(
                "gives {} next, and {}.{} has {}",
                behind.next,
                behind.table,
                identifier(&behind.column),
                behind.reached
            ));
            let next = self.mend(&Flaw::Sequence { database: &of.after.name, behind });
            self.push(DifferenceKind::SequenceBehind, severity, object, what, next);
        }
    }

    fn indexes(&mut self, of: &Of<'_>) {
        for index in &of.after.invalid_indexes {
            let was_so = of.first || of.before.invalid_indexes.contains(index);
            let severity = if was_so { Severity::Information } else { Severity::Damage };
            let next = self.mend(&Flaw::Index { database: &of.after.name, index });
            let object = of.object("index", index);
            self.push(DifferenceKind::InvalidIndex, severity, object, came("not valid"), next);
        }
    }

    fn files(&mut self, before: &Facts) {
        let (Some(then), Some(now)) = (&before.files, &self.after.files) else { return };
        let digests = then.digest.as_ref().zip(now.digest.as_ref());
        if (then.files, then.bytes) == (now.files, now.bytes) && digests.is_none_or(|(then, now)| then == now)
        {
            return;
        }
        let shown = |files: &Files| {
            let digest =
                files.digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
            format!("{}, {}{digest}", counted(files.files, "file"), counted(files.bytes, "byte"))
        };
        // Of anything between, the number of files tells neither that somebody wrote nor that something is lost.
        let lost = self.strict || (then.files > 0 && now.files == 0);
        let severity = if lost { Severity::Damage } else { Severity::Information };
        let next = self.restore().filter(|_| lost);
        self.push(DifferenceKind::Files, severity, "the files", change(shown(then), shown(now)), next);
    }
}

/// Returns how many there are, with the number as it is compared.
fn several(number: u64, one: &str) -> String {
    format!("{number} {}", plural(number, one))
}

fn rows(table: &Table) -> String {
    match (table.rows, table.estimated) {
        (Some(rows), _) => several(rows, "row"),
        (None, Some(rows)) => format!("about {}", several(rows, "row")),
        (None, None) => "not counted".to_owned(),
    }
}

fn worth_name(worth: Worth) -> &'static str {
    match worth {
        Worth::Whole => "whole",
        Worth::NotValid => "not valid",
        Worth::Disabled => "disabled",
    }
}

fn same_tool<'d>(revision: &Revision, database: &'d Database) -> Option<&'d Revision> {
    database.revisions.iter().find(|other| other.tool == revision.tool && other.schema == revision.schema)
}

/// A revision that could not be read has not changed for that.
fn both_read(then: &Revision, now: &Revision) -> bool {
    then.unread.is_none() && now.unread.is_none()
}

/// Returns whether a migration can lead to this revision: some revision exists, and none was taken back. Alembic keeps
/// only the latest.
fn went_on(then: &Revision, now: &Revision) -> bool {
    now.revision.is_some() && (now.applied >= then.applied || then.tool == "alembic")
}

/// Returns whether a schema was migrated between the two looks.
fn migrated(before: &Database, after: &Database) -> bool {
    before.revisions.iter().any(|then| {
        same_tool(then, after).is_some_and(|now| now != then && both_read(then, now) && went_on(then, now))
    })
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
