//! What PostgreSQL advises: statements for its own `psql`, and what happens to indexes under another C library.

use chrono::{DateTime, Utc};

use super::Postgres;
use super::dumps::DUMPS;
use crate::database::Advice;
use crate::database::advice::{Flaw, Platform, Transplant};
use crate::database::dumps::DumpKind;
use crate::model::facts::{Facts, identifier};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;

impl Advice for Postgres {
    fn mend(&self, container: &str, facts: &Facts, flaw: &Flaw<'_>) -> Option<Hint> {
        let user = facts.user.as_deref().unwrap_or("postgres");
        let (database, statement) = statement(flaw);
        Some(Hint::docker(["exec", container, "psql", "-U", user, "-d", database, "-c", &statement]))
    }

    /// Vacuum gives back the end of a table. The write-ahead log records that, in a transaction, unless the log has
    /// only what a crash needs.
    fn may_shrink(&self, facts: &Facts) -> bool {
        facts.settings.get("wal_level").is_some_and(|level| level == "minimal")
    }

    fn dump(&self, container: &str) -> Option<Hint> {
        let name = shell_quote(container);
        Some(Hint::shell(format!("docker exec {name} pg_dumpall --username=USER > dump.sql")))
    }

    fn dumps(&self) -> &'static [DumpKind] {
        DUMPS
    }

    /// The upper half of a system identifier has the seconds at which initdb drew it.
    fn made(&self, identifier: &str) -> Option<DateTime<Utc>> {
        let seconds = identifier.parse::<u64>().ok()? >> 32;
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
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
}
