//! A base backup of a running server: `pg_basebackup`, and `pg_verifybackup` to prove it.
//!
//! Before anything is made, volsnap asks the server whether it allows a backup, over the same connection that the
//! backup will open: a refusal names the setting, and the line that fixes it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use super::{container, files};
use crate::database::native::{MaxRate, NativeAccess, NativeBackup, NativeRefusal};
use crate::model::container::{Container, ExecOutput};
use crate::model::inspection::Inspection;

/// Writes the backup; see there.
const BASEBACKUP: &str = include_str!("basebackup.sh");
/// The first server whose base backups have a manifest that can be verified.
const OLDEST: u32 = 130_000;
/// What a base backup needs: one connection for the files, one for the write-ahead log.
const CONNECTIONS: i64 = 2;

/// A base backup.
#[derive(Debug)]
pub(super) struct BaseBackup;

impl NativeBackup for BaseBackup {
    fn question(&self, container: &Container, data_directory: &Path) -> Vec<String> {
        let mut command = super::probe(container, "online", 0);
        command.push(data_directory.to_string_lossy().into_owned());
        command
    }

    fn access(&self, container: &Container, answer: &ExecOutput) -> Result<NativeAccess, NativeRefusal> {
        let text = String::from_utf8_lossy(&answer.stdout);
        let (said, password) = split_password(&text);
        let facts: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
        if answer.exit_code != 0 {
            let why = String::from_utf8_lossy(&answer.stderr);
            return Err(refusal(format!("the server could not be asked: {}", why.trim()), None));
        }
        let user = fact(&facts, "user")?;
        refuse_settings(&facts, user)?;
        if let Some(why) = facts.get("refused") {
            return Err(connection_refusal(user, why));
        }
        let owner = fact(&facts, "owner")?.split_once(':');
        let owner = owner.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        Ok(NativeAccess {
            user: user.to_owned(),
            port: container::port(container),
            owner: owner.ok_or_else(|| unsaid("owner"))?,
            // System identifier, timeline, position, and no database.
            identifier: fact(&facts, "system")?.split('|').next().unwrap_or_default().to_owned(),
            secret: password_line(password)?.into(),
        })
    }

    /// What `pg_basebackup --max-rate` takes, by its documentation.
    fn rates(&self) -> RangeInclusive<u64> {
        32 << 10..=1 << 30
    }

    fn backup_command(&self, access: &NativeAccess, directory: &Path, rate: MaxRate) -> Vec<String> {
        let directory = directory.to_string_lossy();
        let rate = rate.bytes_per_second().map_or_else(String::new, |bytes| format!("{}k", bytes >> 10));
        ["sh", "-c", BASEBACKUP, "volsnap", &access.user, &access.port, &directory, &rate]
            .map(str::to_owned)
            .to_vec()
    }

    /// It computes every file's checksum, and reads through the write-ahead log.
    fn verify_command(&self, directory: &Path) -> Vec<String> {
        let directory = directory.to_string_lossy();
        ["pg_verifybackup", "--quiet", &directory].map(str::to_owned).to_vec()
    }

    /// "  1234/5678 kB (21%), 0/1 tablespace", again and again.
    fn progress(&self, said: &str) -> Option<u64> {
        said.split(['\r', '\n']).rev().find_map(|line| {
            let (done, rest) = line.trim_start().split_once('/')?;
            rest.contains(" kB (").then(|| done.parse::<u64>().ok())?.map(|kib| kib * 1024)
        })
    }

    fn failure(&self, access: &NativeAccess, stderr: &str) -> NativeRefusal {
        let lines = stderr.split(['\r', '\n']).map(str::trim);
        let said: Vec<&str> =
            lines.filter(|line| !line.is_empty() && self.progress(line).is_none()).collect();
        let why = said[said.len().saturating_sub(8)..].join("; ");
        if why.contains("connection to server") {
            return connection_refusal(&access.user, &why);
        }
        let why = if why.is_empty() { "it said nothing".to_owned() } else { why };
        refusal(why, None)
    }

    fn doubts(&self, access: &NativeAccess, inspection: &Inspection) -> Vec<String> {
        let mut doubts = files::backup_doubts(&inspection.reasons);
        if inspection.identifier.as_ref() != Some(&access.identifier) {
            let found = inspection.identifier.as_deref().unwrap_or("none");
            doubts.push(format!(
                "its system identifier is {found}, and that of the server is {}",
                access.identifier
            ));
        }
        doubts
    }
}

/// Splits the password, which may be anything, from the rest.
fn split_password(text: &str) -> (&str, &str) {
    const NAME: &str = "\npassword=";
    text.find(NAME).map_or((text, ""), |at| (&text[..at], &text[at + NAME.len()..]))
}

fn fact<'a>(facts: &BTreeMap<&str, &'a str>, name: &str) -> Result<&'a str, NativeRefusal> {
    facts.get(name).copied().ok_or_else(|| unsaid(name))
}

fn unsaid(name: &str) -> NativeRefusal {
    refusal(format!("the server was asked, and its {name} was not said"), None)
}

fn number(facts: &BTreeMap<&str, &str>, name: &str) -> Result<i64, NativeRefusal> {
    fact(facts, name)?.parse().map_err(|_| unsaid(name))
}

/// Refuses settings that the server reports and that prevent a backup. A server that reports nothing may still let the
/// role replicate: a role that may do only that cannot find out more.
fn refuse_settings(facts: &BTreeMap<&str, &str>, user: &str) -> Result<(), NativeRefusal> {
    if facts.contains_key("unasked") {
        return Ok(());
    }
    if number(facts, "version")? < i64::from(OLDEST) {
        return Err(refusal("its base backups have no manifest, which begins with PostgreSQL 13", None));
    }
    if fact(facts, "standby")? == "true" {
        return Err(refusal(
            "it is a standby, whose base backup has to wait for its primary",
            Some("take the snapshot of the primary, or use --quiesce stop here".to_owned()),
        ));
    }
    if fact(facts, "wal_level")? == "minimal" {
        return Err(setting(
            "wal_level is minimal, which has too little for a base backup",
            "wal_level = replica",
        ));
    }
    let (senders, used) = (number(facts, "max_wal_senders")?, number(facts, "wal_senders")?);
    if senders - used < CONNECTIONS {
        return Err(setting(
            format!(
                "{used} of its {senders} WAL senders (max_wal_senders) are taken, and a base backup needs {CONNECTIONS}"
            ),
            &format!("max_wal_senders = {}", (used + CONNECTIONS).max(10)),
        ));
    }
    let (slots, used) = (number(facts, "max_slots")?, number(facts, "slots")?);
    if slots - used < 1 {
        return Err(setting(
            format!(
                "{used} of its {slots} replication slots (max_replication_slots) are taken, and a base backup needs 1"
            ),
            &format!("max_replication_slots = {}", (used + 1).max(10)),
        ));
    }
    if number(facts, "tablespaces")? > 0 {
        return Err(refusal(
            "it has tablespaces, and a base backup would have to put them somewhere else",
            Some("use --quiesce stop, or move what is in them into the default one".to_owned()),
        ));
    }
    if fact(facts, "role")? != "true" {
        return Err(refusal(
            format!("its role {user} may not replicate, as a base backup does"),
            Some(format!("ALTER ROLE {} REPLICATION;", quote_identifier(user))),
        ));
    }
    Ok(())
}

/// Says why the server does not let the role replicate.
fn connection_refusal(user: &str, why: &str) -> NativeRefusal {
    let why = why.trim();
    let line = |method| format!("host replication {} samenet {method}", quote_hba(user));
    if why.contains("pg_hba.conf") {
        return refusal(
            format!("its pg_hba.conf lets nobody replicate as {user} from 127.0.0.1: {why}"),
            Some(format!(
                "add the line `{}` to pg_hba.conf, then SELECT pg_reload_conf();",
                line("scram-sha-256")
            )),
        );
    }
    if why.contains("password") {
        return refusal(
            format!("it wants a password of {user} that the container's environment does not have: {why}"),
            Some(format!(
                "set POSTGRES_PASSWORD to the one it has, or add the line `host replication {} 127.0.0.1/32 trust` to pg_hba.conf, then SELECT pg_reload_conf();",
                quote_hba(user)
            )),
        );
    }
    if why.contains("onnection refused") {
        return refusal(
            format!("it does not listen at 127.0.0.1, where a base backup is to reach it: {why}"),
            Some(
                "set listen_addresses = 'localhost' in postgresql.conf (or '*'), then restart it".to_owned(),
            ),
        );
    }
    refusal(format!("it does not let {user} replicate: {why}"), None)
}

/// A setting that takes effect with a restart.
fn setting(problem: impl Into<String>, line: &str) -> NativeRefusal {
    let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
    refusal(
        problem,
        Some(format!(
            "ALTER SYSTEM SET {name} = {value};    (or `{line}` in postgresql.conf), then restart it"
        )),
    )
}

fn refusal(problem: impl Into<String>, mend: Option<String>) -> NativeRefusal {
    NativeRefusal { problem: problem.into(), mend }
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a name for pg_hba.conf: in quotes it is only a name, whatever it is.
fn quote_hba(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(plain) && name != "all" {
        name.to_owned()
    } else {
        quote_identifier(name)
    }
}

/// Returns the line of a password file that uses this password for everything; nothing if it is empty.
fn password_line(password: &str) -> Result<String, NativeRefusal> {
    if password.is_empty() {
        return Ok(String::new());
    }
    if password.contains(['\n', '\r', '\0']) {
        return Err(refusal("its password has a line break, which no password file can hold", None));
    }
    Ok(format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: &str = "owner=999:999\nuser=me\nversion=150018\nwal_level=replica\nmax_wal_senders=10\nwal_senders=0\n\
        max_slots=10\nslots=0\nstandby=false\ntablespaces=0\nrole=true\nsystem=7123|1|0/1|\npassword=a:b\\c=\u{e9}";

    fn answer(said: &str) -> Result<NativeAccess, NativeRefusal> {
        let output = ExecOutput { stdout: said.as_bytes().to_vec(), ..ExecOutput::default() };
        BaseBackup.access(&Container::default(), &output)
    }

    #[test]
    fn what_is_asked_is_what_the_backup_needs() {
        let access = answer(GOOD).unwrap();
        assert_eq!(
            (access.user.as_str(), access.owner, access.identifier.as_str()),
            ("me", (999, 999), "7123")
        );
        assert_eq!(access.secret.reveal(), "*:*:*:*:a\\:b\\\\c=\u{e9}\n".as_bytes());
        let shown = format!("{access:?}")
            + &BaseBackup.backup_command(&access, Path::new("/x"), MaxRate::default()).concat();
        assert!(!shown.contains("a\\:b") && !shown.contains("a:b"), "{shown}");
    }

    #[rstest]
    #[case("wal_level=replica", "wal_level=minimal", "wal_level = replica")]
    #[case("max_wal_senders=10", "max_wal_senders=0", "max_wal_senders = 10")]
    #[case("wal_senders=0", "wal_senders=9", "max_wal_senders = 11")]
    #[case("slots=10", "slots=0", "max_replication_slots = 10")]
    #[case("standby=false", "standby=true", "--quiesce stop")]
    #[case("tablespaces=0", "tablespaces=1", "--quiesce stop")]
    #[case("role=true", "role=false", "ALTER ROLE \"me\" REPLICATION;")]
    #[case(
        "system=7123",
        "refused=no pg_hba.conf entry for replication connection",
        "`host replication me samenet scram-sha-256`"
    )]
    #[case("system=7123", "refused=password authentication failed", "POSTGRES_PASSWORD")]
    #[case("system=7123", "refused=Connection refused", "listen_addresses")]
    fn a_refusal_has_the_line_that_mends_it(#[case] fact: &str, #[case] instead: &str, #[case] mend: &str) {
        assert!(GOOD.contains(fact));
        let refused = answer(&GOOD.replace(fact, instead)).unwrap_err();
        assert!(refused.mend.as_deref().unwrap_or_default().contains(mend), "{refused:?}");
        assert!(!format!("{refused:?}").contains("a:b"));
    }

    #[rstest]
    #[case("version=150018", "version=120022")]
    #[case("password=", "password=x\n")]
    #[case("owner=999:999", "owner=x")]
    fn what_cannot_be_mended_is_refused(#[case] fact: &str, #[case] instead: &str) {
        answer(&GOOD.replace(fact, instead)).unwrap_err();
    }

    #[test]
    fn a_role_that_may_do_nothing_but_replicate_will_do() {
        let said = "owner=70:70\nuser=rep\nunasked=permission denied\nsystem=7123|1|0/1|\npassword=";
        let access = answer(said).unwrap();
        assert_eq!((access.owner, access.secret.reveal()), ((70, 70), &b""[..]));
    }

    #[test]
    fn progress_is_the_last_that_was_said() {
        let said =
            "waiting for checkpoint\n    7/32000 kB (0%), 0/1 tablespace\r 8192/32000 kB (25%), 0/1 table\r";
        assert_eq!(BaseBackup.progress(said), Some(8192 * 1024));
        assert_eq!(BaseBackup.progress("pg_basebackup: error: a/b"), None);
    }

    #[test]
    fn a_failure_is_told_without_the_progress_before_it() {
        let access = answer(GOOD).unwrap();
        let told =
            BaseBackup.failure(&access, " 7/32 kB (0%), 0/1 tablespace\npg_basebackup: error: no room\n");
        assert_eq!(told.problem, "pg_basebackup: error: no room");
    }

    #[test]
    fn names_are_quoted_where_they_are_not_plain() {
        assert_eq!(quote_hba("me"), "me");
        assert_eq!(quote_hba("all"), "\"all\"");
        assert_eq!(quote_hba("a b\""), "\"a b\"\"\"");
    }
}
