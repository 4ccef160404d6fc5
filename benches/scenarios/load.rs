//! What a database serves while it is measured: a steady load, and a client that notices every gap.
//!
//! The client makes one small write every 10 ms; the server notes when it gets to each of them and over which
//! connection, so that a freeze, a stop and a lost connection all show, and no clock but the server's has a say. Load
//! and client run in containers of their own (who lives in the database's would be frozen with it), and reach it over
//! its socket in a volume: that of the data is the database's alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::machine::{docker, remove_containers, wait_for};
use crate::postgres::Postgres;
use crate::stage::Stage;
use crate::statistics::Sample;

/// Transactions a second of the load.
pub(crate) const LOAD_RATE: u32 = 200;

/// What a client saw in a while.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The times between two of its writes, in milliseconds.
    pub(crate) gaps: Sample,
    /// The connections it lost.
    pub(crate) lost: f64,
}

/// The containers beside a database.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    postgres: &'a Postgres,
    image: &'a str,
    label: String,
    load: String,
    client: String,
}

impl<'a> Load<'a> {
    pub(crate) fn beside(stage: &'a Stage, postgres: &'a Postgres) -> Self {
        let (load, client) = (stage.name("-load"), stage.name("-client"));
        Self { postgres, image: &stage.image, label: stage.label(), load, client }
    }

    /// Runs a script for ever: it tries again whenever the database is away, as a service would.
    fn run_beside(&self, name: &str, script: &str) -> Result<()> {
        remove_containers(&[name]);
        let script =
            format!("trap 'exit 0' TERM; while :; do {{ {script}; }} >/dev/null 2>&1; sleep 0.05; done");
        let sockets = format!("{}:/var/run/postgresql", self.postgres.sockets);
        docker([
            "run",
            "-d",
            "--name",
            name,
            "--label",
            &self.label,
            "--network",
            "none",
            "-v",
            &sockets,
            "-e",
            "PGUSER=postgres",
            "-e",
            "PGDATABASE=postgres",
            "--entrypoint",
            "sh",
            self.image,
            "-c",
            &script,
        ])?;
        Ok(())
    }

    pub(crate) fn start(&self) -> Result<()> {
        self.run_beside(&self.load, &format!("pgbench -n -c 4 -R {LOAD_RATE} -T 86400"))?;
        let made = || self.postgres.number("SELECT count(*) FROM pgbench_history");
        let before = made()?;
        wait_for("a transaction of pgbench", Duration::from_secs(60), || Ok(made()? > before))
    }

    pub(crate) fn stop(&self) {
        remove_containers(&[&self.load, &self.client]);
    }

    /// Refuses to measure without the load, as everything would be faster than it is.
    pub(crate) fn refuse_idle(&self) -> Result<()> {
        let recent = "SELECT count(*) FROM pgbench_history WHERE mtime > localtimestamp - interval '2 s'";
        let made = self.postgres.number(recent)?;
        ensure!(made >= f64::from(LOAD_RATE), "pgbench made {made} transactions in two seconds");
        Ok(())
    }

    /// Does something, and returns what the client saw of it besides.
    pub(crate) fn watched<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Seen)> {
        self.start_client()?;
        self.refuse_idle()?;
        let begin = self.postgres.sql("SELECT clock_timestamp()")?;
        let done = work()?;
        self.postgres.wait()?;
        // The client may be between two attempts.
        std::thread::sleep(Duration::from_millis(500));
        let seen = self.seen_since(&begin)?;
        remove_containers(&[&self.client]);
        Ok((done, seen))
    }

    fn start_client(&self) -> Result<()> {
        self.postgres.sql(
            "SET client_min_messages = warning;
             DROP TABLE IF EXISTS beats;
             CREATE TABLE beats (at timestamptz NOT NULL DEFAULT clock_timestamp(), pid int NOT NULL DEFAULT pg_backend_pid())",
        )?;
        let script = r#"printf "%s\n" "INSERT INTO beats DEFAULT VALUES \watch 0.01" | psql -X"#;
        self.run_beside(&self.client, script)?;
        let written = || self.postgres.number("SELECT count(*) FROM beats");
        wait_for("writes of the client", Duration::from_secs(60), || Ok(written()? > 20.0))
    }

    /// What has not ended yet counts as well.
    fn seen_since(&self, begin: &str) -> Result<Seen> {
        let gaps = self.postgres.sql(&format!(
            "WITH seen AS (SELECT at FROM beats WHERE at >= '{begin}' UNION ALL SELECT clock_timestamp()),
                  gaps AS (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM seen)
             SELECT round(1000 * extract(epoch FROM gap), 2) FROM gaps WHERE gap IS NOT NULL"
        ))?;
        let mut seen = Seen { gaps: Sample::default(), lost: 0.0 };
        for gap in gaps.lines() {
            seen.gaps.push(gap.parse().with_context(|| format!("a gap: {gap}"))?);
        }
        ensure!(!seen.gaps.is_empty(), "the client wrote nothing since {begin}");
        let connections =
            self.postgres.number(&format!("SELECT count(DISTINCT pid) FROM beats WHERE at >= '{begin}'"))?;
        seen.lost = connections - 1.0;
        Ok(seen)
    }
}

/// Each measurement ends with the load on again for a while: a database that has just been started, or has just
/// written a checkpoint, would have it easier than one in service.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}
