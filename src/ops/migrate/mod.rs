//! `migrate`: a named volume becomes a host directory (or goes back), with the service away for as long as it
//! takes to stop, to copy what changed in the last moment, and to start.
//!
//! The order, and why it is safe:
//!
//! 1. `prepare`: everything that can be checked is checked: the directory, its file system (by trying), the room,
//!    the users, the compose files and that the containers were made from them. The plan is shown.
//! 2. `copy`: passes bring the copy close to the data while the service runs; then a second, independent reading
//!    compares the two. A run that ends here leaves the copy to the next one.
//! 3. The journal says what will be started; only then the users are stopped. The last pass, the second reading
//!    of what changed since the first, and the database's own files say that the copy is the data.
//! 4. `switch`: the journal has the containers whole, as the engine describes them, before the first is replaced,
//!    and each file before it is edited. The copy is put in its place by renames; the files are edited; Compose
//!    makes the containers anew (or the engine does, where there is no Compose) and starts none.
//! 5. They are started, once. That they answer, that they mount the copy, that it is the same database and that
//!    what was true of it still is: that is the proof.
//! 6. One line in the journal makes it so: before it, whoever finishes the run has everything back as it was,
//!    to the byte; after it, nothing is undone. The old data is kept, in either case.
//!
//! | room | what |
//! |---|---|
//! | `place` | the directory: what cannot be one |
//! | `prepare` | the checks and the plan |
//! | `copy` | the copy, and that it is one |
//! | `switch` | files and containers |
//! | [`record`] | what is remembered |

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;

use super::{Context, recover, with_leftovers};
use crate::agent::swap::PREFIX;
use crate::compose::environment::Environment;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Monitor, Phase};
use crate::model::facts::FactsLevel;
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::ops::phase_timer::{PhaseTimer, milliseconds};
use crate::saga::RetryBudget;
use crate::selector::Target;
use crate::undo::Saga;

mod copy;
mod place;
mod plan;
mod prepare;
pub mod record;
mod switch;

pub use plan::{Direction, MigratePlan, PlannedEdit, PlannedUser};
use prepare::Prepared;
use record::Migration;

/// Where the data is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into this directory, relative to the current one.
    Directory(PathBuf),
    /// Back into a volume: the one that is named, or the one it came from.
    Back {
        /// The volume's name.
        volume: Option<String>,
    },
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct MigrateOptions {
    /// Of what.
    pub target: Target,
    /// Where to.
    pub destination: Destination,
    /// Whether an override file is written, in place of an edit of the file that says what is mounted.
    pub override_file: bool,
    /// The owner of everything in the copy, in place of what the data has.
    pub owner: Option<(u32, u32)>,
    /// How closely the data is looked at, before and after.
    pub level: FactsLevel,
    /// How long a database may take to stop; `None` for what its profile says.
    pub stop_timeout: Option<Duration>,
    /// The variables of whoever asks, which compose files may refer to.
    pub environment: Environment,
    /// An image to use as the helper in place of our own.
    pub helper_image: Option<String>,
}

/// Is asked before anything is touched.
#[async_trait]
pub trait Confirm: Send + Sync {
    /// Lets the plan be carried out.
    ///
    /// # Errors
    /// When it must not be.
    async fn confirm(&self, plan: &MigratePlan) -> Result<()>;
}

/// What became of a migration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// The service runs on the copy.
    Migrated(Box<Migrated>),
    /// It did so before.
    Already {
        /// What was asked for, as a person calls it.
        title: String,
        /// Where its data is.
        at: String,
    },
}

/// A migration that was done.
#[derive(Debug, Clone, Serialize)]
pub struct Migrated {
    /// What was planned, and done.
    pub plan: MigratePlan,
    /// Milliseconds from the moment the stop was asked for until everything answered; `None` when nothing ran.
    pub downtime_ms: Option<u64>,
    /// Milliseconds that all of it took.
    pub elapsed_ms: u64,
    /// Files of the copy that were read a second time and compared.
    pub compared_files: u64,
    /// Bytes of them.
    pub compared_bytes: u64,
    /// Whether what is true of the data was compared with nothing written in between; `None` where it was not
    /// compared.
    pub strict: Option<bool>,
    /// What the edited files were before.
    pub backups: Vec<PathBuf>,
    /// The command that removes the old data, which has been kept.
    pub remove: Hint,
    /// The command that goes back.
    pub back: Option<Hint>,
}

/// Migrates, once `confirm` lets the plan be carried out.
///
/// # Errors
/// As the module says: everything is as it was, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn migrate(context: &Context, options: &MigrateOptions, confirm: &dyn Confirm) -> Result<Outcome> {
    recover::recover(context, RetryBudget::COMMAND).await?;
    let run = Run::begin(context, options)?;
    let mut saga = run.context.begin("migrate", run.options.target.to_string(), &run.id, run.started)?;
    let outcome = context.run_to_end(run.migrate(&mut saga, confirm)).await;
    let done = outcome.is_ok();
    run.conclude(saga, outcome, done).await
}

/// What [`dry_run`] finds.
#[derive(Debug, Clone)]
pub enum Planned {
    /// What would be done.
    Plan(Box<MigratePlan>),
    /// Nothing would: it is done already.
    Already {
        /// What was asked for, as a person calls it.
        title: String,
        /// Where its data is.
        at: String,
    },
}

/// Returns what [`migrate`] would do. Starts the helper to look at the data and at the place for the copy, and
/// removes it again, with a directory that was made for it.
///
/// # Errors
/// Everything that would make it fail before anything is touched.
pub async fn dry_run(context: &Context, options: &MigrateOptions) -> Result<Planned> {
    recover::recover(context, RetryBudget::COMMAND).await?;
    let run = Run::begin(context, options)?;
    let mut saga = run.context.begin("migrate", run.options.target.to_string(), &run.id, run.started)?;
    let outcome = context
        .run_to_end(async {
            Ok(match run.prepare(&mut saga).await? {
                Prepared::Ready(prepared) => Planned::Plan(Box::new(prepared.plan)),
                Prepared::Already { title, at } => Planned::Already { title, at },
            })
        })
        .await;
    // What was made for the look is removed, as after a failure.
    run.conclude(saga, outcome, false).await
}

struct Run<'a> {
    context: &'a Context,
    options: &'a MigrateOptions,
    id: SnapshotId,
    started: DateTime<Utc>,
    begun: Instant,
    clock: PhaseTimer,
    /// Where the copy lies that another run can go on from, as soon as there is one.
    kept: OnceLock<MountSource>,
}

impl<'a> Run<'a> {
    fn begin(context: &'a Context, options: &'a MigrateOptions) -> Result<Self> {
        let mut random = [0; 3];
        getrandom::fill(&mut random).context(|| "draw a random id".to_owned())?;
        let started = Utc::now();
        let id = SnapshotId::new(started, random);
        Ok(Self {
            context,
            options,
            id,
            started,
            begun: Instant::now(),
            clock: PhaseTimer::default(),
            kept: OnceLock::new(),
        })
    }

    async fn migrate(&self, saga: &mut Saga, confirm: &dyn Confirm) -> Result<Outcome> {
        let mut prepared = match self.prepare(saga).await? {
            Prepared::Ready(prepared) => *prepared,
            Prepared::Already { title, at } => return Ok(Outcome::Already { title, at }),
        };
        confirm.confirm(&prepared.plan).await?;
        self.copy_live(saga, &mut prepared).await?;
        let before = self.before(&prepared).await?;
        let mut hold = self.hold(saga, &mut prepared).await?;
        let compared = self.copy_held(saga, &mut prepared, &mut hold).await?;
        let switched = self.switch(saga, &mut prepared, &mut hold).await?;
        self.start(saga, &prepared, &mut hold).await?;
        let strict = self.prove(&prepared, before.as_ref(), &hold).await?;
        self.succeed(saga, &mut prepared, &hold).await?;
        let (remove, back) = self.remember(&prepared);
        let compared_bytes = prepared.survey.bytes;
        Ok(Outcome::Migrated(Box::new(Migrated {
            plan: prepared.plan,
            downtime_ms: self.clock.away().map(milliseconds),
            elapsed_ms: milliseconds(self.begun.elapsed()),
            compared_files: compared.files,
            compared_bytes,
            strict,
            backups: switched.backups,
            remove,
            back,
        })))
    }

    /// Remembers what came of what; returns the command that removes the old data, and the one that goes back.
    fn remember(&self, prepared: &prepare::Preparation) -> (Hint, Option<Hint>) {
        let state = &self.context.saga.state;
        match (&prepared.source.location, &prepared.place.location) {
            (MountSource::Volume(volume), MountSource::Directory(directory)) => {
                let migration = Migration {
                    engine: prepared.engine.id.clone(),
                    directory: directory.clone(),
                    volume: volume.clone(),
                    labels: prepared.labels.clone(),
                    at: Utc::now(),
                };
                if let Err(error) = migration.remember(state) {
                    self.monitor().warning(format!(
                        "the way back has to be told the volume, as --volume {volume}: {}",
                        error.chain()
                    ));
                }
                let back = Hint::volsnap(["migrate", &self.options.target.spelling(), "--back"]);
                (Hint::docker(["volume", "rm", volume]), Some(back))
            }
            (MountSource::Directory(directory), _) => {
                Migration::forget(state, directory);
                (Hint::shell(format!("rm -r {}", shell_quote(&directory.to_string_lossy()))), None)
            }
            (MountSource::Volume(volume), _) => (Hint::docker(["volume", "rm", volume]), None),
        }
    }

    async fn conclude<T>(&self, saga: Saga, outcome: Result<T>, succeeded: bool) -> Result<T> {
        let left = saga.finish(succeeded, self.monitor()).await;
        let outcome = match (outcome, self.clock.away()) {
            (Err(error), Some(away)) if left.is_empty() && error.state_text().is_none() => {
                let away = away.as_secs_f64();
                Err(error.state(format!(
                    "everything is as it was before, and what was stopped runs again, after {away:.1} s"
                )))
            }
            (Err(error), None) if error.state_text().is_none() => Err(error.state("nothing was stopped")),
            (outcome, _) => outcome,
        };
        with_leftovers(outcome.map_err(|error| self.say_kept(error)), &left)
    }

    /// Adds where the copy so far lies, if it still does, and the command that goes on from it.
    fn say_kept(&self, error: Error) -> Error {
        let Some(MountSource::Directory(directory)) = self.kept.get() else { return error };
        let is_work = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let work = match std::fs::read_dir(directory) {
            Ok(entries) => {
                entries.flatten().find(|entry| is_work(&entry.file_name())).map(|entry| entry.path())
            }
            // It is its owner's alone.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(directory.clone()),
            Err(_) => None,
        };
        let Some(work) = work else { return error };
        let kept = format!(
            "the copy so far stays in {}, and the same command goes on from it; rm -r {} removes it",
            directory.display(),
            shell_quote(&work.to_string_lossy())
        );
        let state = error.state_text().map_or_else(|| kept.clone(), |state| format!("{state}; {kept}"));
        let error = error.state(state);
        if error.hints().is_empty() { error.hint(self.again()) } else { error }
    }

    fn monitor(&self) -> &dyn Monitor {
        &*self.context.monitor
    }

    fn phase(&self, phase: Phase, detail: impl Into<String>) {
        self.clock.phase(phase);
        self.monitor().phase(phase, detail, None);
    }
}
