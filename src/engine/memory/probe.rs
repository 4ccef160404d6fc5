//! Commands that run beside a server, and its answers.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::control::Control;
use super::postgres::{Rows, Server};
use super::program::{Behaviour, Program};
use super::{MemoryDocker, conflict, failure};
use crate::engine::{DockerErrorKind, Result};
use crate::model::container::{Container, ExecOutput};

/// How often to ask a server that does not answer yet.
const POLL: Duration = Duration::from_millis(50);
/// The exit code of a shell that does not find a program.
const NOT_FOUND: i64 = 127;

impl MemoryDocker {
    pub(super) async fn run_exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        let doing = format!("run {} in container {id}", command.first().map_or("", String::as_str));
        let container = self.with(&doing, id, |record| Ok(record.container.clone()))?;
        if !container.state.running {
            return Err(conflict(&doing, format!("container {id} is not running")));
        }
        if container.state.paused {
            return Err(conflict(
                &doing,
                format!("container {id} is paused, unpause the container before exec"),
            ));
        }
        timeout(limit, self.run_beside(&container, command))
            .await
            .map_err(|_| failure(DockerErrorKind::TimedOut, &doing, format!("no answer within {limit:?}")))
    }

    async fn run_beside(&self, container: &Container, command: &[String]) -> ExecOutput {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["sh", "-c", script, "volsnap", action, _, seconds, ref more @ ..]
                if script.starts_with("# Asks the server") =>
            {
                let seconds = Duration::from_secs(seconds.parse().unwrap_or_default());
                self.probe(container, action, seconds, more).await
            }
            ["sh", "-c", script, "volsnap", _] if script.contains("pg_tblspc") => said(""),
            ["sh", "-c", script, "volsnap"] if script.contains("pg_amcheck") => said(""),
            // A copy has all of its configuration in its data.
            ["cat", path] if path.ends_with("volsnap-elsewhere") => said(""),
            ["cat", "/proc/1/status", ..] => self.vitals(&container.id),
            ["stat", "-c", "%u:%g", "/proc/1"] => said("999:999\n"),
            ["sh", "-c", script] if script.contains("GNU_LIBC_VERSION") => said("glibc 2.36\n"),
            // Healthchecks that are wrong, or ask for more than whether somebody answers.
            ["pg_isready", "-h", "wronghost"] => failed(2, "wronghost:5432 - no response"),
            ["never-ends"] => std::future::pending().await,
            // One that can be run in the first run of its container alone.
            ["hangs-later"] if container.state.finished_at.starts_with("0001-") => said(""),
            ["hangs-later"] => std::future::pending().await,
            ["has-row", row] => self.has_row(&container.id, row),
            _ if command == container.healthcheck => match self.answering(&container.id) {
                Some(_) => said(""),
                None => failed(1, "no response"),
            },
            _ => failed(NOT_FOUND, "not found"),
        }
    }

    /// Fails unless a table of the server in a container has this row.
    fn has_row(&self, id: &str, row: &str) -> ExecOutput {
        let rows = self.answering(id).and_then(|server| Rows::read(&server.directory).ok());
        let has = rows.is_some_and(|rows| rows.tables.values().flatten().any(|one| one == row));
        if has { said("") } else { failed(1, &format!("no row {row}")) }
    }

    /// Prints what the kernel says of a program's first process: whether it hears SIGTERM.
    fn vitals(&self, id: &str) -> ExecOutput {
        let program = self.state().find(id).map(|record| record.program.clone());
        let mask = match program {
            Some(Program::Other(Behaviour { stops_within: Some(_), .. })) => "4000",
            Some(Program::Other(_)) => "0",
            _ => return failed(NOT_FOUND, "not found"),
        };
        said(&format!("Name:\tapp\nSigBlk:\t0\nSigCgt:\t{mask}\n"))
    }

    /// Returns the server of a container, if it answers.
    pub(super) fn answering(&self, id: &str) -> Option<Server> {
        let state = self.state();
        let record = state.find(id)?;
        let server = record.server.as_ref().filter(|server| server.ready_at <= Instant::now())?;
        let is_up = record.container.state.running && !record.container.state.paused && !record.stopping;
        (is_up && server.has_its_files()).then(|| server.clone())
    }

    async fn probe(
        &self,
        container: &Container,
        action: &str,
        seconds: Duration,
        more: &[&str],
    ) -> ExecOutput {
        if action == "ready" {
            return self.await_answer(container, seconds).await;
        }
        let Some(server) = self.answering(&container.id) else {
            return failed(2, "psql: error: connection to server failed");
        };
        let answer = match (action, more) {
            ("data-directory", _) => {
                let at =
                    crate::database::server_of(container).and_then(|server| server.data_directory(container));
                Ok(format!("{}\n", at.unwrap_or_default().display()))
            }
            // All of it is in the data directory.
            ("configuration", _) => Ok(String::new()),
            ("facts", [level, ..]) => self.facts(container, &server, level),
            ("query", [_, query]) => query_of(&server, query),
            ("online", _) => online(container, &server),
            ("checkpoint", _) => self.checkpoint(&server).map(|()| String::new()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        answer.map_or_else(|error| failed(1, &format!("ERROR:  {error}")), |text| said(&text))
    }

    async fn await_answer(&self, container: &Container, limit: Duration) -> ExecOutput {
        let deadline = Instant::now() + limit;
        loop {
            if self.answering(&container.id).is_some() {
                return said("");
            }
            let is_over = !self.state().find(&container.id).is_some_and(|record| {
                record.container.state.running
                    && record.container.state.started_at == container.state.started_at
            });
            if is_over {
                return failed(137, "");
            }
            if Instant::now() >= deadline {
                return failed(1, "no response");
            }
            sleep(POLL).await;
        }
    }

    /// Prints what is true of the data, like the statements of the real server.
    fn facts(&self, container: &Container, server: &Server, level: &str) -> io::Result<String> {
        let rows = Rows::read(&server.directory)?;
        let identifier = Control::read(&server.directory)?.parsed()?.system_identifier.to_string();
        let (user, database) = user_and_database(container);
        let mut text = String::new();
        let mut line = |value: serde_json::Value| {
            // A string takes whatever is written to it.
            let _ = writeln!(text, "{value}");
        };
        line(json!({
            "fact": "cluster", "version": "15.18", "identifier": identifier, "user": user, "database": database,
            "taken": self.now(), "started": container.state.started_at,
            "settings": {"data_checksums": "on", "in_recovery": "false", "wal_level": "replica"},
            "checksum_failures": 0
        }));
        line(json!({"fact": "role", "name": user, "attributes": ["superuser", "login"]}));
        line(json!({
            "fact": "database", "name": database, "encoding": "UTF8", "collation": "C", "character_type": "C",
            "provider": "libc", "locale": null, "collation_version": null, "recorded_collation_version": null,
            "unread": null, "template": false, "bytes": 8192
        }));
        let octal: String = database.bytes().map(|byte| format!("\\0{byte:03o}")).collect();
        let _ = writeln!(text, "@{octal}");
        let mut line = |value: serde_json::Value| {
            let _ = writeln!(text, "{value}");
        };
        let next = rows.next_transaction.to_string();
        line(json!({"fact": "in", "name": database, "oldest": next, "next": next}));
        for (name, content) in &rows.tables {
            let digest = blake3::hash(content.join("\n").as_bytes()).to_hex().to_string();
            let digest = (level == "full").then_some(digest);
            line(json!({
                "fact": "table", "schema": "public", "name": name, "kind": "r", "bytes": 8192,
                "rows": content.len(), "digest": digest
            }));
        }
        line(json!({"fact": "sequences", "checked": 0, "unchecked": 0}));
        line(json!({"fact": "done", "large_objects": 0}));
        text.push_str("end\n");
        Ok(text)
    }
}

fn user_and_database(container: &Container) -> (String, String) {
    let value = |name: &str| container.env.iter().find_map(|pair| pair.strip_prefix(name).map(str::to_owned));
    let user = value("POSTGRES_USER=").unwrap_or_else(|| "postgres".to_owned());
    let database = value("POSTGRES_DB=").unwrap_or_else(|| user.clone());
    (user, database)
}

/// Answers the only kind of query known here: `select count(*) from TABLE`.
fn query_of(server: &Server, query: &str) -> io::Result<String> {
    let rows = Rows::read(&server.directory)?;
    let table = query.trim().strip_prefix("select count(*) from ").map(str::trim);
    match table.and_then(|table| rows.tables.get(table)) {
        Some(content) => Ok(format!("{}\n", content.len())),
        None => Err(io::Error::other("relation does not exist")),
    }
}

/// Prints everything that a base backup needs to know.
fn online(container: &Container, server: &Server) -> io::Result<String> {
    let metadata = server.directory.metadata()?;
    let identifier = Control::read(&server.directory)?.parsed()?.system_identifier;
    let (user, _) = user_and_database(container);
    Ok(format!(
        "owner={}:{}\nuser={user}\nversion=150018\nwal_level=replica\nmax_wal_senders=10\nwal_senders=0\n\
         max_slots=10\nslots=0\nstandby=false\ntablespaces=0\nrole=true\nsystem={identifier}|1|0/2000028|\npassword=",
        metadata.uid(),
        metadata.gid()
    ))
}

fn said(text: &str) -> ExecOutput {
    ExecOutput { stdout: text.as_bytes().to_vec(), ..ExecOutput::default() }
}

fn failed(exit_code: i64, why: &str) -> ExecOutput {
    ExecOutput { exit_code, stderr: format!("{why}\n").into_bytes(), ..ExecOutput::default() }
}
