//! A PostgreSQL with as much data as is asked for, half of which does not compress.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::machine::{
    bash, command, docker, mountpoint, note, remove_containers, remove_volume, run, say, timed, warm_up,
};
use crate::stage::Stage;

/// What fills it fast, and past the log.
const FILL_SETTINGS: [&str; 16] = [
    "-c",
    "fsync=off",
    "-c",
    "full_page_writes=off",
    "-c",
    "wal_level=minimal",
    "-c",
    "max_wal_senders=0",
    "-c",
    "max_wal_size=128MB",
    "-c",
    "min_wal_size=32MB",
    "-c",
    "autovacuum=off",
    "-c",
    "maintenance_work_mem=256MB",
];

/// Where it keeps its data.
#[derive(Debug, Clone)]
enum Place {
    Volume(String),
    /// On a file system of its own kind.
    Directory(PathBuf),
}

#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) container: String,
    image: String,
    label: String,
    place: Place,
    /// Where its data lies on the host.
    pub(crate) data: PathBuf,
    /// A volume that has its socket, for who lives beside it.
    pub(crate) sockets: String,
}

impl Postgres {
    /// Fills a volume, or a directory on a file system of its own kind; a volume of an earlier run is used as it is.
    /// The database is stopped.
    pub(crate) fn filled(stage: &Stage) -> Result<Self> {
        let size = stage.options.size;
        let place = match stage.options.on.as_deref() {
            Some(kind) => Place::Directory(make_filesystem(stage, kind)?),
            None => Place::Volume(format!("volsnap-bench-postgres-{size}")),
        };
        let mut postgres = Self {
            container: stage.name(""),
            image: stage.image.clone(),
            label: stage.label(),
            place,
            data: PathBuf::new(),
            sockets: stage.name("-sockets"),
        };
        docker(["volume", "create", "--label", &postgres.label, &postgres.sockets])?;
        match postgres.place.clone() {
            Place::Directory(directory) => postgres.data = directory,
            Place::Volume(volume) => {
                docker(["volume", "create", "--label", "volsnap.bench=data", &volume])?;
                postgres.data = mountpoint(&volume)?;
            }
        }
        // The name of the mark is nothing that PostgreSQL minds, nor volsnap: it lies beside the data.
        let mark = postgres.mark();
        if mark.exists() {
            say(format!("Using the data of an earlier run in {}", postgres.data.display()));
            return Ok(postgres);
        }
        postgres.empty()?;
        postgres.fill(size)?;
        std::fs::write(mark, "")?;
        Ok(postgres)
    }

    fn mark(&self) -> PathBuf {
        self.data.with_file_name("volsnap-bench-filled")
    }

    fn empty(&self) -> Result<()> {
        bash(r#"find "$1" -mindepth 1 -delete"#, [&self.data]).map(drop)
    }

    /// Removes the data, unless the next run is to have it.
    pub(crate) fn remove(&self, keep: bool) {
        remove_containers(&[&self.container]);
        if let (Place::Volume(volume), false) = (&self.place, keep) {
            remove_volume(volume);
        }
    }

    /// The volume, where it has one.
    pub(crate) fn volume(&self) -> Result<&str> {
        match &self.place {
            Place::Volume(volume) => Ok(volume),
            Place::Directory(directory) => bail!("{} is no volume", directory.display()),
        }
    }

    /// What volsnap is told to take a snapshot of.
    pub(crate) fn target(&self) -> String {
        format!("container:{}", self.container)
    }

    /// Starts it with settings, in a new container, and waits until it answers.
    pub(crate) fn start(&self, settings: &[&str]) -> Result<()> {
        remove_containers(&[&self.container]);
        let source = match &self.place {
            Place::Volume(volume) => volume.clone(),
            Place::Directory(directory) => directory.display().to_string(),
        };
        let mut start = command("docker");
        start.args(["run", "-d", "--name", &self.container, "--label", &self.label, "--network", "none"]);
        start.args(["--shm-size", "256m", "-e", "POSTGRES_HOST_AUTH_METHOD=trust"]);
        start.args(["-v", &format!("{source}:/var/lib/postgresql/data")]);
        start.args(["-v", &format!("{}:/var/run/postgresql", self.sockets), &self.image, "postgres"]);
        run(start.args(settings))?;
        self.wait()
    }

    pub(crate) fn stop(&self) -> Result<()> {
        docker(["stop", "-t", "600", &self.container]).map(drop)
    }

    /// Starts the container again, and waits until it answers.
    pub(crate) fn start_again(&self) -> Result<()> {
        docker(["start", &self.container])?;
        self.wait()
    }

    /// Waits until it answers: one exec that waits inside, since starting one takes a tenth of a second.
    pub(crate) fn wait(&self) -> Result<()> {
        let script =
            "until psql -h 127.0.0.1 -U postgres -XAtqc 'SELECT 1' >/dev/null 2>&1; do sleep 0.02; done";
        let mut exec = command("timeout");
        run(exec.args(["120", "docker", "exec", &self.container, "bash", "-c", script]))
            .with_context(|| format!("{} does not answer; see: docker logs {0}", self.container))?;
        Ok(())
    }

    fn psql(&self, statement: &str) -> Command {
        let mut psql = command("docker");
        psql.args(["exec", &self.container, "psql", "-h", "127.0.0.1", "-U", "postgres"]);
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        psql
    }

    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        run(&mut self.psql(statement))
    }

    pub(crate) fn number(&self, statement: &str) -> Result<f64> {
        let answer = self.sql(statement)?;
        answer.parse().with_context(|| format!("{statement}: {answer}"))
    }

    /// Half random bytes; a quarter rows of pgbench, a quarter documents of words and numbers. Each table is made in
    /// the transaction that fills it: with `wal_level=minimal` nothing of it goes to the log, which would otherwise
    /// be a large part of the data.
    fn fill(&self, gigabytes: f64) -> Result<()> {
        say(format!("Filling {} with {gigabytes} GB of PostgreSQL data", self.data.display()));
        let took = timed(|| {
            self.start(&FILL_SETTINGS)?;
            self.sql("CREATE EXTENSION pgcrypto")?;
            // A blob is 256 KiB, and TOAST adds some 2 %; a document is some 330 bytes with its index entry; a unit
            // of pgbench is 15 MB.
            let blobs = (gigabytes * 1e6 / 2.0 / 268.0).ceil();
            let documents = (gigabytes * 1e9 / 4.0 / 330.0).ceil();
            let scale = (gigabytes * 1e3 / 4.0 / 15.0).ceil();
            let mut random = self.psql(&BLOBS.replace("COUNT", &blobs.to_string())).spawn()?;
            self.sql(&DOCUMENTS.replace("COUNT", &documents.to_string()))?;
            if !random.wait()?.success() {
                bail!("random bytes: see docker logs {}", self.container);
            }
            let mut pgbench = command("docker");
            pgbench.args(["exec", &self.container, "pgbench", "-h", "127.0.0.1", "-U", "postgres"]);
            run(pgbench.args(["-q", "-i", "-I", "dtgp", "-s", &scale.to_string(), "postgres"]))?;
            self.sql("CHECKPOINT")?;
            self.stop()
        })?;
        note(format!("filled in {took:.0} s"));
        Ok(())
    }

    /// Writes the tables once more, past the log as they were at first. The database is stopped afterwards.
    pub(crate) fn double(&self) -> Result<()> {
        self.start(&FILL_SETTINGS)?;
        for table in ["blobs", "documents", "pgbench_accounts"] {
            self.sql(&format!("CREATE TABLE more_{table} AS TABLE {table}"))?;
        }
        self.sql("CHECKPOINT")?;
        self.stop()
    }

    /// Leaves the data as the other scenarios want it.
    pub(crate) fn undo_doubling(&self) -> Result<()> {
        self.sql(
            "SET client_min_messages = warning;
             DROP TABLE IF EXISTS beats, more_blobs, more_documents, more_pgbench_accounts",
        )?;
        self.sql("CHECKPOINT").map(drop)
    }

    /// Reads all the data, where nothing changes it meanwhile.
    pub(crate) fn warm_up(&self) -> Result<()> {
        warm_up(&self.data)
    }

    /// The usual procedure: `docker stop`, `docker run … tar czf`, `docker start`. Returns for how long the database
    /// was away, in seconds.
    pub(crate) fn usual_procedure(&self, backup: &Path) -> Result<f64> {
        std::fs::create_dir_all(backup)?;
        let mut tar = command("docker");
        tar.args(["run", "--rm", "--network", "none", "--label", &self.label]);
        tar.args(["-v", &format!("{}:/data:ro", self.data.display())]);
        tar.args(["-v", &format!("{}:/backup", backup.display()), "--entrypoint", "tar", &self.image]);
        tar.args(["czf", "/backup/x.tar.gz", "-C", "/data", "."]);
        let away = timed(|| {
            self.stop()?;
            run(&mut tar)?;
            self.start_again()
        })?;
        std::fs::remove_dir_all(backup)?;
        Ok(away)
    }

    /// Transactions a second of a pgbench that makes as many as it can.
    pub(crate) fn pgbench(&self, duration: Duration) -> Result<f64> {
        let mut pgbench = command("docker");
        pgbench.args(["exec", &self.container, "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-n"]);
        pgbench.args(["-c", "4", "-j", "2", "-T", &duration.as_secs().to_string(), "postgres"]);
        let report = run(&mut pgbench)?;
        let rate =
            report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.with_context(|| format!("pgbench reports no rate: {report}"))
    }
}

/// A file system of another kind, with room for the data, twice as much of it, and what changes while it is staged.
fn make_filesystem(stage: &Stage, kind: &str) -> Result<PathBuf> {
    let (image, at) = (stage.work.join("fs.image"), stage.filesystem());
    std::fs::create_dir_all(&at)?;
    let data = at.join("data");
    if data.exists() {
        return Ok(data);
    }
    run(command("truncate").arg("-s").arg(format!("{:.0}G", stage.options.size * 4.0 + 4.0)).arg(&image))?;
    run(command(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
    run(command("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
    std::fs::create_dir(&data)?;
    Ok(data)
}

const BLOBS: &str = "
    CREATE TABLE blobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL);
    ALTER TABLE blobs ALTER data SET STORAGE EXTERNAL;
    INSERT INTO blobs (data)
    SELECT (SELECT string_agg(gen_random_bytes(1024), ''::bytea) FROM generate_series(1, 256) AS i WHERE n > 0)
    FROM generate_series(1, COUNT) AS n";

const DOCUMENTS: &str = r#"
    CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL);
    INSERT INTO documents SELECT n, format('{"user": %s, "session": "%s", "at": "%s", "path": "/accounts/%s/orders/%s", "agent": "Mozilla/5.0 (X11; Linux x86_64)", "status": %s, "message": "order %s was shipped to customer %s and the invoice was sent"}',
        n % 9973, substr(md5(n::text), 1, 16), timestamp '2024-01-01' + n * interval '1.7 seconds', n % 7919, n, 200 + n % 7, n, n % 10007)
    FROM generate_series(1, COUNT) AS n"#;
