//! `migrate`: how long a service is away while its volume becomes a host directory.
//!
//! A Compose project serves the load from a copy of the data. The client's longest gap is taken over a bare down and
//! up, over the move by hand (down, cp -a, chown, edit, up), and over each migration. After each move the project goes
//! back to its volume, which none has touched.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::contestant::Contestant;
use crate::load::{LOAD_RATE, Load, settle};
use crate::machine::{bash, bytes_in, command, docker, mountpoint, note, remove_containers, run, say, sync};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, RowId, Table, Unit, Who};

/// The Compose project, on a copy of the data: those themselves stay as the other scenarios want them.
struct Project<'a> {
    stage: &'a Stage,
    postgres: &'a Postgres,
    name: String,
    directory: PathBuf,
    moved: PathBuf,
}

struct Rows {
    floor: RowId,
    gap: RowId,
    above: RowId,
    own: RowId,
    wall: RowId,
    cpu: RowId,
    memory: RowId,
    written: RowId,
}

/// What is measured in a round.
#[derive(Clone, Copy)]
enum Part<'a> {
    Floor,
    ByHand,
    Migrate(&'a Contestant),
}

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    let project = Project::started(stage, postgres)?;
    let load = Load::beside(stage, postgres);
    load.start()?;
    settle();
    let gigabytes = bytes_in(&mountpoint(&project.volume())?)? / 1e9;
    let mut table = Table::new(
        "migrate",
        format!("{gigabytes:.2} GB of PostgreSQL data under {LOAD_RATE} transactions a second of pgbench"),
    );
    let rows = Rows {
        floor: table.row_beside("a bare compose down and up: the floor", Unit::Milliseconds, "compose"),
        gap: table.row_beside(
            "`migrate`: longest gap of a client",
            Unit::Milliseconds,
            "down, cp -a, chown, edit, up",
        ),
        above: table.row("the same, minus the floor of the round", Unit::Milliseconds),
        own: table.row("downtime by its own account", Unit::Milliseconds),
        wall: table.row("the whole command", Unit::Seconds),
        cpu: table.row("processor time", Unit::Seconds),
        memory: table.row("peak memory, Compose with it", Unit::Mebibytes),
        written: table.row("written to disk", Unit::Bytes),
    };
    table.aim(rows.gap, Aim::TimesOther(0.2));
    table.aim(rows.above, Aim::AtMost(3000.0));
    for round in 0..stage.rounds() {
        say(format!("migrate: round {} of {}", round + 1, stage.rounds()));
        rows.round(&mut table, &project, &load, round)?;
    }
    load.stop();
    project.down()?;
    Ok(table)
}

impl Rows {
    fn round(&self, table: &mut Table, project: &Project<'_>, load: &Load<'_>, round: usize) -> Result<()> {
        let contestants = project.stage.contestants.iter().map(Part::Migrate);
        let mut floor = 0.0;
        let mut gaps = Vec::new();
        for part in in_turn([Part::Floor, Part::ByHand].into_iter().chain(contestants), round) {
            match part {
                Part::Floor => {
                    let ((), seen) = load.watched(|| project.down_and_up())?;
                    floor = seen.gaps.most();
                    table.push(self.floor, Who::Other, floor);
                    note(format!("down, up: away for {floor:.0} ms"));
                    settle();
                }
                Part::ByHand => {
                    let ((), seen) = load.watched(|| project.move_by_hand())?;
                    table.push(self.gap, Who::Other, seen.gaps.most());
                    note(format!("by hand: away for {:.0} ms", seen.gaps.most()));
                    project.go_back()?;
                }
                Part::Migrate(contestant) => gaps.push(self.migrate(table, project, load, contestant)?),
            }
        }
        for (who, gap) in gaps {
            table.push(self.above, who, gap - floor);
        }
        Ok(())
    }

    fn migrate(
        &self,
        table: &mut Table,
        project: &Project<'_>,
        load: &Load<'_>,
        contestant: &Contestant,
    ) -> Result<(Who, f64)> {
        let service = format!("service:{}/db", project.name);
        let (migrated, seen) =
            load.watched(|| contestant.migrate(&project.directory, &service, &project.moved))?;
        project.refuse_unmoved()?;
        let (who, gap) = (contestant.who, seen.gaps.most());
        table.push(self.gap, who, gap);
        table.push(self.own, who, migrated.number("downtime_ms")?);
        table.push(self.wall, who, migrated.wall);
        table.push(self.cpu, who, migrated.cpu);
        table.push(self.memory, who, migrated.memory);
        table.push(self.written, who, migrated.written);
        note(format!("{}: away for {gap:.0} ms, {:.2} s in all", contestant.name(), migrated.wall));
        contestant.forget_runs()?;
        project.go_back()?;
        Ok((who, gap))
    }
}

impl<'a> Project<'a> {
    fn started(stage: &'a Stage, postgres: &'a Postgres) -> Result<Self> {
        say("A Compose project on a copy of the data");
        let project = Self {
            stage,
            postgres,
            name: stage.name("").replace('-', ""),
            directory: stage.work.join("project"),
            moved: stage.work.join("moved"),
        };
        // Who filled the data has the name.
        remove_containers(&[&postgres.container]);
        std::fs::create_dir_all(&project.directory)?;
        project.write()?;
        project.compose(&["up", "--no-start"])?;
        let copy = mountpoint(&project.volume())?;
        bash(r#"cp -a "$1/." "$2/"; sync"#, [&mountpoint(postgres.volume()?)?, &copy])?;
        project.compose(&["up", "-d"])?;
        postgres.wait()?;
        Ok(project)
    }

    fn volume(&self) -> String {
        format!("{}_data", self.name)
    }

    fn write(&self) -> Result<()> {
        let (label, value) = ("volsnap.bench", std::process::id());
        let yaml = format!(
            r#"services:
  db:
    image: {image}
    container_name: {container}
    network_mode: none
    shm_size: 256m
    stop_grace_period: 10m
    restart: unless-stopped
    labels:
      {label}: "{value}"
    environment:
      POSTGRES_HOST_AUTH_METHOD: trust
    volumes:
      - data:/var/lib/postgresql/data   # where the data is
      - sockets:/var/run/postgresql
volumes:
  data:
    labels:
      {label}: "{value}"
  sockets:
    external: true
    name: {sockets}
"#,
            image = self.stage.image,
            container = self.postgres.container,
            sockets = self.postgres.sockets,
        );
        Ok(std::fs::write(self.directory.join("compose.yaml"), yaml)?)
    }

    /// Whichever Compose there is.
    fn compose(&self, arguments: &[&str]) -> Result<()> {
        let plugin = docker(["compose", "version"]).is_ok();
        let mut compose = if plugin { command("docker") } else { command("docker-compose") };
        if plugin {
            compose.arg("compose");
        }
        run(compose.args(["-p", &self.name]).args(arguments).current_dir(&self.directory)).map(drop)
    }

    fn down(&self) -> Result<()> {
        self.compose(&["down"])
    }

    fn down_and_up(&self) -> Result<()> {
        self.down()?;
        self.compose(&["up", "-d"])
    }

    /// What people do: the owner is that of the data, and the file is edited as quickly as can be.
    fn move_by_hand(&self) -> Result<()> {
        std::fs::create_dir_all(&self.moved)?;
        self.down()?;
        let script = r#"cp -a /from/. /to/ && chown -R "$(stat -c %u:%g /from)" /to"#;
        docker([
            "run",
            "--rm",
            "--network",
            "none",
            "--label",
            &self.stage.label(),
            "-v",
            &format!("{}:/from:ro", self.volume()),
            "-v",
            &format!("{}:/to", self.moved.display()),
            "--entrypoint",
            "sh",
            &self.stage.image,
            "-c",
            script,
        ])?;
        let file = self.directory.join("compose.yaml");
        let edited =
            std::fs::read_to_string(&file)?.replace("- data:", &format!("- {}:", self.moved.display()));
        std::fs::write(file, edited)?;
        self.compose(&["up", "-d"])?;
        self.refuse_unmoved()
    }

    /// A move that has moved nothing would be fast.
    fn refuse_unmoved(&self) -> Result<()> {
        let format = "{{range .Mounts}}{{.Source}} {{end}}";
        let mounts = docker(["inspect", "-f", format, &self.postgres.container])?;
        let is_moved = mounts.split_whitespace().any(|mount| Path::new(mount) == self.moved);
        ensure!(is_moved, "the database does not run on {}: {mounts}", self.moved.display());
        Ok(())
    }

    /// On the volume again, with the directory gone and its pages written or forgotten.
    fn go_back(&self) -> Result<()> {
        self.down()?;
        std::fs::remove_dir_all(&self.moved)?;
        for file in std::fs::read_dir(&self.directory)? {
            std::fs::remove_file(file?.path())?;
        }
        self.write()?;
        self.compose(&["up", "-d"])?;
        self.postgres.wait()?;
        sync()?;
        settle();
        Ok(())
    }
}
