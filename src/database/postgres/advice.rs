//! What PostgreSQL advises: statements for its own `psql`, and what happens to indexes under another C library.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::Postgres;
use super::container::superuser;
use super::dumps::{DIRECTORIES, DUMPS};
use crate::database::Advice;
use crate::database::advice::{Flaw, Platform, Transplant};
use crate::database::dumps::{DumpDirectory, DumpKind};
use crate::model::container::Container;
use crate::model::facts::{Facts, identifier};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;
use crate::model::replication::{Consumer, SlotKind, StoredSlot};

/// The database that every cluster has.
const ANY_DATABASE: &str = "postgres";

impl Advice for Postgres {
    fn mend(&self, container: &str, facts: &Facts, flaw: &Flaw<'_>) -> Option<Hint> {
        let user = facts.user.as_deref().unwrap_or("postgres");
        let (database, statement) = statement(flaw);
        Some(Hint::docker(["exec", container, "psql", "-U", user, "-d", database, "-c", &statement]))
    }

    fn make_slot(
        &self,
        container: Option<&Container>,
        database: Option<&str>,
        slot: &StoredSlot,
    ) -> Option<Hint> {
        let database = database.unwrap_or(ANY_DATABASE);
        let name = literal(&slot.name);
        let statement = match (slot.kind, &slot.plugin) {
            (SlotKind::Physical, _) => format!("SELECT pg_create_physical_replication_slot({name}, true)"),
            (SlotKind::Logical, Some(plugin)) => {
                format!("SELECT pg_create_logical_replication_slot({name}, {})", literal(plugin))
            }
            _ => return None,
        };
        Some(match container {
            Some(container) => psql(container, database, &statement),
            None => Hint::advice(format!("in database {database}, once it runs: {statement}")),
        })
    }

    /// A standby that was ahead would take the log of the restored database on the same timeline without noticing.
    fn after_a_restore(&self, consumer: &Consumer) -> Option<String> {
        let who = consumer.title();
        Some(match consumer.kind {
            SlotKind::Logical => format!(
                "{who} follows the database: after the restore it has what the database no longer has, and must be \
                 synchronised again"
            ),
            _ if consumer.archives => format!(
                "{who} follows the database: keep what it has received, which the restored database does not have, and \
                 have it write to another place from then on"
            ),
            SlotKind::Physical | SlotKind::Unknown => format!(
                "{who} follows the database: after the restore it is ahead of it, and must not go on. Stop it first; if \
                 it is a standby, empty its data directory then and make it anew with pg_basebackup"
            ),
        })
    }

    fn remove_slot(&self, container: &Container, slot: &str) -> Option<Hint> {
        let statement = format!("SELECT pg_drop_replication_slot({})", literal(slot));
        Some(psql(container, ANY_DATABASE, &statement))
    }

    /// Vacuum gives back the end of a table. The write-ahead log records that, in a transaction, unless the log has
    /// only what a crash needs.
    fn may_shrink(&self, facts: &Facts) -> bool {
        facts.settings.get("wal_level").is_some_and(|level| level == "minimal")
    }

    fn dump(&self, container: &Container) -> Option<Hint> {
        let (name, user) = (shell_quote(&container.name), shell_quote(&superuser(container)));
        // Its name is new each time: a dump that fails must not take the place of one that is whole.
        let file = "dump-\"$(date +%s)\".sql";
        Some(Hint::shell(format!("docker exec {name} pg_dumpall --username={user} >{file}")))
    }

    fn dump_directories(&self) -> &'static [DumpDirectory] {
        DIRECTORIES
    }

    fn dumps(&self) -> &'static [DumpKind] {
        DUMPS
    }

    /// The upper half of a system identifier has the seconds at which initdb drew it.
    fn made(&self, identifier: &str) -> Option<DateTime<Utc>> {
        let seconds = identifier.parse::<u64>().ok()? >> 32;
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
    }

    fn options_on(&self, data_directory: &Path) -> Vec<String> {
        vec!["-e".to_owned(), format!("PGDATA={}", data_directory.display())]
    }

    fn show(&self, container: &str, superuser: &str) -> Option<Hint> {
        Some(Hint::docker(["exec", container, "psql", "-U", superuser, "-d", "postgres", "-l"]))
    }

    /// The C library sorts text, and an index of text has the order of the library that it was made with.
    fn transplant(&self, from: &Platform<'_>, to: &Platform<'_>) -> Transplant {
        match (from.libc, to.libc) {
            (Some(before), Some(after)) if sorts_otherwise(before, after) => Transplant::Breaks(format!(
                "the archive was made with {before}, and the target runs {after}: they sort text differently, so \
                 indexes of text would be wrong without anybody noticing (REINDEX them after a restore)"
            )),
            (Some(_), Some(_)) => Transplant::Fits,
            _ if has_musl(from.image) == has_musl(to.image) => Transplant::MayBreak(format!(
                "the archive was made with image {}, and the target runs {} of other content: \
                 if its C library is another, REINDEX what is indexed by text",
                from.image, to.image
            )),
            _ => Transplant::Breaks(format!(
                "the archive was made with image {}, and the target runs {}: their C libraries \
                 sort text differently, so indexes of text would be wrong without anybody noticing",
                from.image, to.image
            )),
        }
    }
}

/// Returns the command that runs a statement as the container's superuser.
fn psql(container: &Container, database: &str, statement: &str) -> Hint {
    let user = superuser(container);
    Hint::docker(["exec", &container.name, "psql", "-U", &user, "-d", database, "-c", statement])
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns the statement that fixes a flaw, and its database.
fn statement<'f>(flaw: &Flaw<'f>) -> (&'f str, String) {
    match *flaw {
        Flaw::Collation { database } => (database, format!("REINDEX DATABASE {}", identifier(database))),
        Flaw::Extension { database, extension } => {
            (database, format!("CREATE EXTENSION {}", identifier(extension)))
        }
        Flaw::ForeignKey { database, key } => {
            let name = identifier(&key.name);
            (database, format!("ALTER TABLE {} VALIDATE CONSTRAINT {name}", key.table))
        }
        Flaw::Sequence { database, behind } => {
            let sequence = behind.sequence.to_string().replace('\'', "''");
            let column = identifier(&behind.column);
            (database, format!("SELECT setval('{sequence}', (SELECT max({column}) FROM {}))", behind.table))
        }
        Flaw::Index { database, index } => (database, format!("REINDEX INDEX {index}")),
    }
}

/// Returns whether two C libraries may sort text differently: any two versions of glibc (such as before and after
/// 2.28), or glibc and musl, which sorts by bytes in every version.
fn sorts_otherwise(one: &str, other: &str) -> bool {
    let is_musl = |libc: &str| libc.starts_with("musl ");
    one != other && !(is_musl(one) && is_musl(other))
}

/// Returns whether an image's name says that it is Alpine, whose C library is musl.
fn has_musl(image: &str) -> bool {
    image.contains("alpine")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::facts::{FactsLevel, Name, SequenceBehind};

    #[test]
    fn what_mends_a_flaw_is_a_statement_as_whoever_has_looked() {
        let mut facts = Facts::new("postgresql", FactsLevel::Quick, chrono::DateTime::UNIX_EPOCH);
        let index = Name { schema: "public".into(), name: "Odd".into() };
        let flaw = Flaw::Index { database: "shop", index: &index };
        let mended = Postgres.mend("db", &facts, &flaw).unwrap().to_string();
        assert_eq!(mended, r#"docker exec db psql -U postgres -d shop -c 'REINDEX INDEX public."Odd"'"#);
        facts.user = Some("app".into());
        assert!(Postgres.mend("db", &facts, &flaw).unwrap().to_string().contains("-U app"));
    }

    #[test]
    fn a_name_with_quotes_stays_one() {
        let behind = SequenceBehind {
            sequence: Name { schema: "public".into(), name: "it's".into() },
            column: "I d".into(),
            ..SequenceBehind::default()
        };
        let (database, statement) = statement(&Flaw::Sequence { database: "shop", behind: &behind });
        assert_eq!(database, "shop");
        assert!(
            statement.starts_with(r#"SELECT setval('public."it''s"', (SELECT max("I d") FROM"#),
            "{statement}"
        );
    }

    #[rstest]
    #[case(("pg:15", Some("glibc 2.27")), ("pg:15", Some("glibc 2.36")), "they sort text differently")]
    #[case(("pg:15", Some("musl 1.2.4")), ("pg:15", Some("glibc 2.36")), "they sort text differently")]
    #[case(("pg:15", None), ("pg:15-alpine", Some("musl 1.2.4")), "their C libraries")]
    fn another_order_of_text_breaks_indexes(
        #[case] from: (&str, Option<&str>),
        #[case] to: (&str, Option<&str>),
        #[case] said: &str,
    ) {
        let platform = |(image, libc)| Platform { image, libc };
        for (from, to) in [(from, to), (to, from)] {
            let outcome = Postgres.transplant(&platform(from), &platform(to));
            assert!(matches!(&outcome, Transplant::Breaks(why) if why.contains(said)), "{outcome:?}");
        }
    }

    #[rstest]
    #[case("glibc 2.36", "glibc 2.36")]
    #[case("musl 1.2.3", "musl 1.2.4")]
    fn the_same_order_of_text_fits(#[case] from: &str, #[case] to: &str) {
        let platform = |libc| Platform { image: "pg:15", libc: Some(libc) };
        assert_eq!(Postgres.transplant(&platform(from), &platform(to)), Transplant::Fits);
    }

    #[test]
    fn of_two_images_that_do_not_tell_it_is_only_said() {
        let platform = |image| Platform { image, libc: None };
        let outcome = Postgres.transplant(&platform("pg:15"), &platform("mirror/pg:15"));
        assert!(matches!(outcome, Transplant::MayBreak(_)), "{outcome:?}");
    }

    #[test]
    fn a_standby_is_made_anew_and_a_subscriber_synchronised() {
        let after = |kind| {
            let consumer = Consumer { kind, connected: true, ..Consumer::default() };
            Postgres.after_a_restore(&consumer).unwrap()
        };
        assert!(after(SlotKind::Physical).contains("pg_basebackup"));
        assert!(after(SlotKind::Logical).contains("synchronised again"));
        let archive = Consumer { kind: SlotKind::Physical, archives: true, ..Consumer::default() };
        let said = Postgres.after_a_restore(&archive).unwrap();
        assert!(said.contains("keep what it has received") && !said.contains("empty"), "{said}");
    }
}
