//! `verify --drill`: boot a snapshot, and so prove it.
//!
//! 1. The drill finds the image that the data ran in on the engine, by its content, before it makes anything.
//! 2. It unpacks the snapshot into a volume of its own, and digests and proves it exactly as a restore does. The
//!    journal has what removes the volume before the volume is made.
//! 3. It boots the image on the volume: no network, no capability, no secret, nothing of the service's but the data;
//!    memory and time are bounded. A link to a tablespace can lead only into the copy.
//! 4. The time until it answers is the recovery time. Its facts are compared with those of the snapshot and its
//!    indexes with their tables, and the user's checks run.
//! 5. The database is stopped, and its files prove that it stopped cleanly.
//! 6. Everything is removed, even after a failure or kill -9 ([`saga`](crate::saga)), and the outcome is written beside
//!    the snapshot.
//!
//! What the drill finds wrong with the snapshot is a result; an error means that the drill could not be done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::preconditions::somebody_at_work;
use super::project_file::find_checks;
use super::restore::{self, Archive, Destination, Force, RestoreOptions, Unpacked};
use super::run::{Aftermath, Run};
use super::{Context, apart, facts};
use crate::agent::client::helper_name;
use crate::database::compare::{ComparisonContext, compare, first_look};
use crate::database::sandbox::StructureCheck;
use crate::database::{self, CopyConfiguration, SandboxSource, Server, Structure};
use crate::engine::{ContainerSpec, Grace, MountSpec, TmpfsSpec};
use crate::model::container::{Container, Image};
use crate::model::error::{Context as _, Error, ErrorKind, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::{Checked, Checks};
use crate::model::facts::difference::{Difference, Severity};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::model::manifest::{DrillTimes, Proof, Verification, VerificationKind};
use crate::model::plural::counted;
use crate::model::unknown::UnknownFields;
use crate::ops::phase_timer::milliseconds;
use crate::repository::Snapshot;
use crate::saga::When;
use crate::service::ready::await_ready;
use crate::undo::Saga;
use crate::undo::Undo;

/// How long the copy may take to stop. Nobody uses it, so waiting longer is not worth it.
const STOP_LIMIT: Duration = Duration::from_mins(5);
/// How long the copy may take to say which configuration it has.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How many lines of the server's log are searched for why it did not come up.
const LOG_LINES: u32 = 200;
/// How many processes the container may have.
const PIDS: u32 = 1024;
/// How much it may write beside the data: its socket, and a file of settings.
const SCRATCH_BYTES: u64 = 16 << 20;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// Where the repository is.
    pub repository: PathBuf,
    /// An image to boot instead of the one that the data ran in.
    pub image: Option<String>,
    /// How closely to look at the data.
    pub facts: FactsLevel,
    /// The user's checks.
    pub checks: Option<Checks>,
    /// Memory of the container, in bytes.
    pub memory_bytes: u64,
    /// How long unpacking, booting and looking may take together.
    pub limit: Duration,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

impl DrillOptions {
    /// Returns the default options.
    #[must_use]
    pub fn new(repository: &Path) -> Self {
        Self {
            repository: repository.to_owned(),
            image: None,
            facts: FactsLevel::Quick,
            checks: None,
            memory_bytes: 2 << 30,
            limit: Duration::from_hours(1),
            helper_image: None,
        }
    }
}

/// What a drill found.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// What differs from the facts that the snapshot has.
    pub differences: Vec<Difference>,
    /// The results of the user's checks.
    pub checks: Vec<Checked>,
    /// What was not looked at, and why.
    pub unread: Vec<String>,
    /// What else was looked at.
    pub notes: Vec<String>,
    /// The image that was booted.
    pub image: Option<String>,
    /// Whether its data was compared with what the snapshot says of it.
    pub compared: bool,
    /// Regular files unpacked.
    pub files: u64,
    /// Bytes of their contents.
    pub raw_bytes: u64,
    /// How long each part took.
    #[serde(flatten)]
    pub times: DrillTimes,
}

impl DrillReport {
    fn new(id: &SnapshotId) -> Self {
        Self {
            id: id.clone(),
            ok: false,
            problems: Vec::new(),
            differences: Vec::new(),
            checks: Vec::new(),
            unread: Vec::new(),
            notes: Vec::new(),
            image: None,
            compared: false,
            files: 0,
            raw_bytes: 0,
            times: DrillTimes::default(),
        }
    }

    /// Returns what it shows; `None` if something is wrong.
    #[must_use]
    pub fn shows(&self) -> Option<Proof> {
        let proof = match (&self.image, self.compared) {
            (None, _) => Proof::Unpacked,
            (Some(_), false) => Proof::Booted,
            (Some(_), true) => Proof::Proved,
        };
        self.ok.then_some(proof)
    }

    /// Returns whether the drill looked at everything that a drill looks at.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.compared && self.unread.is_empty()
    }

    fn is_ok(&self) -> bool {
        self.problems.is_empty()
            && self.differences.iter().all(|difference| difference.severity != Severity::Damage)
            && self.checks.iter().all(|check| check.ok)
    }
}

/// Boots a snapshot and writes the outcome beside it.
///
/// # Errors
/// When the drill could not be done: no image, no engine, a signal. What is wrong with the snapshot is in the
/// report. Nothing is left behind, unless the error is of kind
/// [`ErrorKind::NotPutBack`].
pub async fn drill(
    context: &Context,
    snapshot: &mut Snapshot,
    options: &DrillOptions,
) -> Result<DrillReport> {
    let run = Run::begin(context).await?;
    let volume = format!("volsnap-drill-{}", run.id.as_str().to_lowercase());
    // Before anything is read: nobody deletes it under us.
    let announced = snapshot.announce(&run.id, "drill", Vec::new()).await?;
    let drill_run = DrillRun { run: &run, snapshot, options, volume };
    let subject = drill_run.snapshot.name();
    let work = async |saga: &mut Saga| drill_run.drill(saga).await.map(Some);
    let report = run.conduct("verify --drill", subject, &drill_run, work).await;
    if let Some(announced) = announced {
        announced.release().await;
    }
    let report = report?.ok_or_else(|| Error::failed("the drill came to nothing"))?;
    record(context, snapshot, &report, run.begun).await;
    Ok(report)
}

async fn record(context: &Context, snapshot: &mut Snapshot, report: &DrillReport, begun: Instant) {
    let damage = report.differences.iter().filter(|difference| difference.severity == Severity::Damage);
    let failed = report.checks.iter().filter(|check| !check.ok);
    let verification = Verification {
        at: context.clock.now(),
        kind: VerificationKind::Drill,
        ok: report.ok,
        problems: (report.problems.len() + damage.count() + failed.count()) as u64,
        ms: milliseconds(begun.elapsed()),
        proof: report.shows(),
        drill: Some(report.times),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        unknown: UnknownFields::default(),
    };
    if let Err(error) = snapshot.record_verification(verification).await {
        let error = Error::from(error);
        let why = Error::failed("the outcome of the drill could not be written down").with_source(error);
        context.monitor.warning(&why);
    }
}

/// One drill.
struct DrillRun<'a> {
    run: &'a Run,
    snapshot: &'a Snapshot,
    options: &'a DrillOptions,
    /// The volume that the drill makes.
    volume: String,
}

/// What to boot, and how.
struct Boot {
    /// The database's name.
    database: &'static str,
    server: &'static dyn Server,
    sandbox: &'static dyn SandboxSource,
    image: Image,
    /// Where the container mounts the volume.
    mounted_at: PathBuf,
    /// The data directory, in the container.
    data_directory: PathBuf,
}

impl DrillRun<'_> {
    async fn drill(&self, saga: &mut Saga) -> Result<DrillReport> {
        let deadline = self.run.begun + self.options.limit;
        let boot = self.boot_of().await?;
        let mut report = DrillReport::new(&self.snapshot.manifest.id);
        let drilling = self.unpack_and_boot(saga, boot, &mut report, deadline);
        match timeout_at(deadline, drilling).await {
            Ok(outcome) => outcome?,
            Err(_) => report.problems.push(format!(
                "not done after {} s, which is what it was given",
                self.options.limit.as_secs()
            )),
        }
        report.ok = report.is_ok();
        Ok(report)
    }

    async fn unpack_and_boot(
        &self,
        saga: &mut Saga,
        boot: Option<Boot>,
        report: &mut DrillReport,
        deadline: Instant,
    ) -> Result<()> {
        let unpacked = match self.unpack(saga).await {
            Ok(unpacked) => unpacked,
            Err(error) if is_about_the_snapshot(&error) => {
                report.problems.push(error.chain());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        (report.files, report.raw_bytes) = (unpacked.files, unpacked.bytes);
        report.times.extract_ms = milliseconds(self.run.begun.elapsed());
        report.times.recovery_ms = report.times.extract_ms;
        let Some(boot) = boot else {
            report
                .notes
                .push("it holds no database that is known: every file was unpacked and digested".to_owned());
            return Ok(());
        };
        report.image = Some(boot.image.tags.first().unwrap_or(&boot.image.id).clone());
        let Some(container) = self.boot(saga, &boot, &unpacked, report, deadline).await? else {
            // It may be the reason.
            report.notes.extend(apart::of_drill(&self.snapshot.manifest, None));
            return Ok(());
        };
        let comparing = Instant::now();
        self.look(&boot, &container, report).await;
        report.times.compare_ms = milliseconds(comparing.elapsed());
        self.stop(&boot, &container, report).await
    }

    /// Finds the image to boot; `None` if the data is of no database that we know.
    async fn boot_of(&self) -> Result<Option<Boot>> {
        let manifest = &self.snapshot.manifest;
        let Some(inspection) = &manifest.evidence.database else { return Ok(None) };
        let known = database::named(&inspection.engine);
        let halves = known.and_then(|known| Some((known.name(), known.server()?, known.sandbox()?)));
        let Some((database, server, sandbox)) = halves else { return Ok(None) };
        let image = self.image().await?;
        let mounted_at = manifest.mounted_at().unwrap_or_else(|| PathBuf::from("/.volsnap/data"));
        let data_directory = mounted_at.join(&inspection.data_directory);
        Ok(Some(Boot { database, server, sandbox, image, mounted_at, data_directory }))
    }

    /// Returns the image that the data ran in, by its content: a name may have moved on.
    async fn image(&self) -> Result<Image> {
        let docker = &*self.run.context.docker;
        let look = |reference: String| async move {
            docker.image(&reference).await.context(|| format!("look for the image {reference}"))
        };
        if let Some(image) = &self.options.image {
            return look(image.clone()).await?.ok_or_else(|| {
                Error::usage(format!("the image {image} is not on the engine"))
                    .hint(Hint::docker(["pull", image]))
            });
        }
        let environment = &self.snapshot.manifest.environment;
        let known = environment.image_id.iter().chain(&environment.image_digests);
        for reference in known {
            if let Some(image) = look(reference.clone()).await? {
                return Ok(image);
            }
        }
        let id = self.snapshot.manifest.id.as_str();
        let again = Hint::volsnap(["verify", "--drill", id, "--image", "IMAGE"])
            .why("one of the same version, on the same system");
        let error = match (&environment.image, environment.image_digests.first()) {
            (Some(image), Some(digest)) => {
                Error::failed(format!("the image that the data ran in ({image}) is not on the engine"))
                    .hint(Hint::docker(["pull", digest]))
            }
            (Some(image), None) => Error::failed(format!(
                "the image that the data ran in ({image}) is not on the engine, and no registry has it"
            ))
            .hint(again),
            (None, _) => Error::failed("the snapshot does not say which image its data ran in").hint(again),
        };
        Err(error)
    }

    /// Unpacks the snapshot into the drill's own volume.
    async fn unpack(&self, saga: &mut Saga) -> Result<Unpacked> {
        let volume = Undo::RemoveVolume { name: self.volume.clone(), run: self.run.id.to_string() };
        saga.register(When::Always, volume).context(|| "write the journal".to_owned())?;
        let options = RestoreOptions {
            kills: Vec::new(),
            repository: self.options.repository.clone(),
            archive: Archive::Snapshot(Box::new(self.snapshot.clone())),
            destination: Destination::NewVolume(self.volume.clone()),
            owner: None,
            force: Force::default(),
            safety: false,
            keep_slots: false,
            stop_timeout: None,
            helper_image: self.options.helper_image.clone(),
        };
        restore::unpack(self.run, &options, saga).await
    }

    /// Boots the copy; returns `None` if it does not come up, and adds that to the problems.
    async fn boot(
        &self,
        saga: &mut Saga,
        boot: &Boot,
        unpacked: &Unpacked,
        report: &mut DrillReport,
        deadline: Instant,
    ) -> Result<Option<Container>> {
        let begun = Instant::now();
        let docker = &*self.run.context.docker;
        self.run.monitor().phase(
            Phase::Boot,
            boot.image.tags.first().unwrap_or(&boot.image.id).clone(),
            None,
        );
        let name = helper_name(&self.volume);
        let removal = Undo::RemoveExpectedHelper { name: name.clone(), run: self.run.id.to_string() };
        saga.register(When::Always, removal).context(|| "write the journal".to_owned())?;
        self.run.monitor().step("create-copy");
        let spec = self.spec(boot, &name, unpacked.owner);
        let id = docker.create_container(&spec).await.context(|| format!("create the container {name}"))?;
        self.run.monitor().step("start-copy");
        let started = docker.start(&id).await;
        let container = docker.container(&id).await.context(|| format!("look at container {name}"))?;
        let Some(container) = container else {
            return Err(
                Error::failed(format!("container {name} was removed by somebody")).hint(somebody_at_work())
            );
        };
        let booted = match started {
            Ok(()) => await_ready(docker, &container, deadline, self.run.monitor())
                .await
                .map_err(|error| crate::model::error::chain(&error)),
            Err(error) => Err(error.message),
        };
        report.times.boot_ms = milliseconds(begun.elapsed());
        report.times.recovery_ms = milliseconds(self.run.begun.elapsed());
        if let Err(error) = booted {
            let log = docker.logs(&id, LOG_LINES).await.unwrap_or_default();
            let why = boot.sandbox.stderr_tail(&log).unwrap_or(error);
            report.problems.push(format!("{} does not come up on it: {why}", boot.database));
            return Ok(None);
        }
        Ok(Some(container))
    }

    fn spec(&self, boot: &Boot, name: &str, owner: Option<(u32, u32)>) -> ContainerSpec {
        let manifest = &self.snapshot.manifest;
        let seen = manifest.facts.as_ref().map(|facts| &facts.seen);
        let seen_by = seen.and_then(|seen| seen.user.as_deref());
        let user = seen_by.or(manifest.environment.superuser.as_deref());
        let database = seen.and_then(|seen| seen.database.as_deref());
        let sandbox = boot.sandbox.sandbox(&boot.data_directory, user, database);
        ContainerSpec {
            name: name.to_owned(),
            image: boot.image.id.clone(),
            command: sandbox.command,
            labels: [(LABEL_RUN.to_owned(), self.run.id.to_string())].into(),
            mounts: vec![MountSpec {
                source: MountSource::Volume(self.volume.clone()),
                destination: boot.mounted_at.clone(),
                read_only: false,
            }],
            user: owner,
            env: sandbox.env,
            tmpfs: sandbox
                .scratch
                .into_iter()
                .map(|destination| TmpfsSpec { destination, bytes: SCRATCH_BYTES })
                .collect(),
            memory_bytes: Some(self.options.memory_bytes),
            pids: Some(PIDS),
            kept: true,
            detached: true,
            ..ContainerSpec::default()
        }
    }

    /// Looks at the data after the boot.
    async fn look(&self, boot: &Boot, container: &Container, report: &mut DrillReport) {
        self.run.monitor().phase(Phase::Facts, self.snapshot.name(), None);
        self.run.monitor().step("compare");
        let docker = &*self.run.context.docker;
        facts::warn_of_later_facts(self.snapshot, self.run.monitor());
        let recorded = self.snapshot.manifest.facts.as_ref();
        let mut facts = match facts::take(docker, container, self.options.facts).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return report.notes.push("its data was not looked at".to_owned()),
            Err(error) => return report.problems.push(error.chain()),
        };
        if let Some(checks) = &self.options.checks {
            let before = recorded.map(|recorded| &recorded.seen);
            report.checks = facts::run_checks(docker, container, checks, before, &mut facts).await;
        }
        self.compare(&facts, report);
        let configuration = self.configuration(boot, container).await;
        report.notes.extend(apart::of_drill(&self.snapshot.manifest, configuration.as_ref()));
        self.structure(boot, container, report).await;
    }

    fn compare(&self, facts: &Facts, report: &mut DrillReport) {
        let name = self.snapshot.name();
        let recorded = self.snapshot.manifest.facts.as_ref();
        let context = ComparisonContext {
            snapshot: Some(&name),
            recovers: !self.snapshot.manifest.consistency.is_at_rest(),
            nothing_written: recorded.filter(|recorded| recorded.exact).map(|_| true),
            ..ComparisonContext::default()
        };
        let comparison = match recorded {
            Some(recorded) => compare(&recorded.seen, facts, &context),
            None => {
                report.notes.push("the snapshot has no facts to compare with".to_owned());
                first_look(facts, &context)
            }
        };
        report.compared = recorded.is_some();
        if report.compared {
            report.notes.push(if comparison.strict {
                "compared with the facts of the snapshot: nothing was written in between".to_owned()
            } else {
                "compared with the facts of the snapshot: clients wrote between them and the snapshot"
                    .to_owned()
            });
        }
        let summary = facts.summary();
        report.notes.push(format!(
            "{} in {}",
            counted(summary.tables, "table"),
            counted(summary.databases, "database")
        ));
        report.unread = facts.unread();
        report.differences = comparison.differences;
    }

    /// Asks the copy which files of its configuration it has; `None` if it does not say.
    async fn configuration(&self, boot: &Boot, container: &Container) -> Option<CopyConfiguration> {
        let command = boot.sandbox.copy_configuration_command()?;
        let output = self.run.context.docker.exec(&container.id, &command, ASK_LIMIT).await.ok()?;
        let is_said = output.exit_code == 0;
        is_said.then(|| CopyConfiguration::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Has the database's own tool check that what it keeps in several places fits together.
    async fn structure(&self, boot: &Boot, container: &Container, report: &mut DrillReport) {
        let Some(check) = boot.sandbox.structure_check(container) else { return };
        self.run.monitor().step("structure");
        let StructureCheck { tool, subject, command, limit } = check;
        let looked = match self.run.context.docker.exec(&container.id, &command, limit).await {
            Ok(output) => boot.sandbox.structure(&output),
            Err(error) => Structure::Unknown(error.to_string()),
        };
        match looked {
            Structure::Sound => report.notes.push(format!("{tool} found nothing")),
            Structure::Damaged(lines) => {
                report.problems.extend(lines.into_iter().map(|line| format!("{tool}: {line}")));
            }
            Structure::Unknown(why) => report.unread.push(format!("{subject}, by {tool}: {why}")),
        }
    }

    /// Stops the copy: the last thing it shows is that it can be stopped cleanly.
    async fn stop(&self, boot: &Boot, container: &Container, report: &mut DrillReport) -> Result<()> {
        self.run.monitor().step("stop-copy");
        let docker = &*self.run.context.docker;
        let signal = Some(boot.server.stop_signal());
        let stopped = docker.stop(&container.id, signal, Grace::Unlimited, STOP_LIMIT).await;
        stopped.context(|| format!("stop container {}", container.name))?;
        let now = docker.container(&container.id).await;
        let now = now.context(|| format!("look at container {}", container.name))?;
        match now.map(|now| now.state.exit_code) {
            Some(0) => {}
            Some(code) => report.problems.push(format!("it did not stop cleanly: exit code {code}")),
            None => report.problems.push("it was removed by somebody".to_owned()),
        }
        Ok(())
    }
}

impl Aftermath for DrillRun<'_> {
    fn state(&self, _all_back: bool) -> Option<String> {
        Some("nothing that runs was touched, and the copy is removed".to_owned())
    }
}

/// Returns the user's checks that go with a snapshot: those in the named file, else those beside the compose file of
/// the service that the snapshot was taken of.
///
/// # Errors
/// When the file cannot be read or understood, or a named file does not exist.
pub fn checks_of(named: Option<&Path>, snapshot: &Snapshot, directory: &Path) -> Result<Option<Checks>> {
    let labels = snapshot.manifest.environment.labels.clone();
    let container = Container { labels, ..Container::default() };
    Ok(find_checks(named, &container, directory)?.map(|(_, checks)| checks))
}

/// Returns whether a failure to unpack is about the snapshot, not about what unpacks it.
fn is_about_the_snapshot(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged
}
