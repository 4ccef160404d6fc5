//! `migrate`: a named volume becomes a host directory (or goes back). The service is away for as long as it takes to
//! stop, to copy what changed in the last moment, and to start.
//!
//! The order, and why it is safe:
//!
//! 1. `prepare`: everything that can be checked is checked: the directory, its file system (by trying), the room, the
//!    users, the compose files, and that the containers were made from those. The plan is shown.
//! 2. `copy`: passes bring the copy close to the data while the service runs; then a second, independent reading
//!    compares the two. A run that ends here leaves the copy to the next one.
//! 3. The journal says what will be started; only then are the users stopped. The last pass, the second reading of what
//!    changed since the first, and the database's own files prove that the copy is the data.
//! 4. `switch`: before the first container is replaced, the journal has them all completely, as the engine describes
//!    them; it has each file before that file is edited. Renames put the copy in its place; the files are edited;
//!    Compose makes the containers anew (or the engine does, if there is no Compose) and starts none. Who shares the
//!    network of one is made anew after it.
//! 5. They are started, once. The proof is that they answer, that they mount the copy, that it is the same database and
//!    that what was true of it still is.
//! 6. The journal has what to remember: the way back. Then one line in it makes the migration final: before that line,
//!    whoever finishes the run puts everything back as it was, to the byte; after it nothing is undone, and whoever
//!    finishes the run remembers the way back. The old data is kept in either case.
//!
//! | room | what |
//! |---|---|
//! | `place` | the directory: what cannot be one |
//! | `rehearsal` | what it is refused for, as far as that can be told without an effect |
//! | `files` | what will become of files and containers |
//! | `prepare` | all the checks, and the plan |
//! | `copy` | the copy, and that it is one |
//! | `switch` | files and containers |
//! | [`record`] | what is remembered |

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::Context;
use super::phase_timer::milliseconds;
use super::run::{Aftermath, Consent, Run};
use crate::agent::swap::PREFIX;
use crate::compose::environment::Environment;
use crate::model::error::{Error, Result};
use crate::model::facts::FactsLevel;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::selector::Target;
use crate::undo::{Saga, Undo};

mod copy;
mod files;
mod place;
mod plan;
mod prepare;
pub mod record;
mod rehearsal;
mod switch;

pub use plan::{Direction, MigratePlan, PlannedEdit, PlannedUser};
use prepare::Preparation;
use record::Migration;
pub(super) use rehearsal::Rehearsal;

/// Where the data goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into this directory, relative to the current one.
    Directory(PathBuf),
    /// Back into a volume: the named one, or the one it came from.
    Back {
        /// The volume's name.
        volume: Option<String>,
    },
}

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct MigrateOptions {
    /// What to migrate.
    pub target: Target,
    /// Where to.
    pub destination: Destination,
    /// Whether to write an override file, instead of editing the file that says what is mounted.
    pub override_file: bool,
    /// The owner of everything in the copy, instead of the data's own.
    pub owner: Option<(u32, u32)>,
    /// How closely to look at the data, before and after.
    pub level: FactsLevel,
    /// How long a database may take to stop; `None` for the time that suits it.
    pub stop_timeout: Option<Duration>,
    /// The names of the containers that may be killed if they do not stop in time.
    pub kills: Vec<String>,
    /// The variables of whoever asks; compose files may refer to them.
    pub environment: Environment,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

/// What became of a migration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// The service runs on the copy.
    Migrated(Box<Migrated>),
    /// It did so already.
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
    /// How long all of it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Files of the copy that were read a second time and compared.
    pub compared_files: u64,
    /// Bytes of those files.
    pub compared_bytes: u64,
    /// Whether the facts of the data were compared with nothing written in between; `None` if they were not compared.
    pub strict: Option<bool>,
    /// What the edited files were before.
    pub backups: Vec<PathBuf>,
    /// The command that removes the old data, which is kept.
    pub remove: Hint,
    /// The command that goes back.
    pub back: Option<Hint>,
}

/// Migrates as planned, once `consent` is given to the plan; `None` if it is declined. If the data is there already,
/// nobody is asked.
///
/// # Errors
/// As the module says: everything is as it was, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn migrate(
    context: &Context,
    options: &MigrateOptions,
    consent: impl AsyncFnOnce(&MigratePlan) -> Result<Consent>,
) -> Result<Option<Outcome>> {
    let run = Run::begin(context).await?;
    let migrate_run = MigrateRun { run: &run, options, kept: OnceLock::new(), stays: AtomicBool::new(false) };
    let subject = options.target.to_string();
    run.conduct("migrate", subject, &migrate_run, async |saga| migrate_run.migrate(saga, consent).await).await
}

struct MigrateRun<'a> {
    run: &'a Run,
    options: &'a MigrateOptions,
    /// Where the copy is that another run can go on from, once there is one.
    kept: OnceLock<MountSource>,
    /// Whether the copy stays: the journal says that the run has succeeded.
    stays: AtomicBool,
}

impl MigrateRun<'_> {
    async fn migrate(
        &self,
        saga: &mut Saga,
        consent: impl AsyncFnOnce(&MigratePlan) -> Result<Consent>,
    ) -> Result<Option<Outcome>> {
        let mut prepared = match self.prepare(saga).await? {
            Preparation::Ready(prepared) => *prepared,
            Preparation::Already { title, at } => return Ok(Some(Outcome::Already { title, at })),
        };
        if consent(&prepared.plan).await? == Consent::Decline {
            return Ok(None);
        }
        self.copy_live(saga, &mut prepared).await?;
        let before = self.before(&prepared).await?;
        let mut hold = self.hold(saga, &mut prepared).await?;
        let compared = self.copy_held(saga, &mut prepared, &mut hold).await?;
        let switched = self.switch(saga, &mut prepared, &mut hold).await?;
        self.start(saga, &prepared, &mut hold).await?;
        let strict = self.prove(&prepared, before.as_ref(), &hold).await?;
        self.succeed(saga, &mut prepared, &hold).await?;
        let (remove, back) = self.ways_on(&prepared);
        let compared_bytes = prepared.survey.bytes;
        Ok(Some(Outcome::Migrated(Box::new(Migrated {
            plan: prepared.plan,
            downtime_ms: self.run.timer.away().map(milliseconds),
            elapsed_ms: milliseconds(self.run.begun.elapsed()),
            compared_files: compared.files,
            compared_bytes,
            strict,
            backups: switched.backups,
            remove,
            back,
        }))))
    }

    /// Returns what remembers which directory came from which volume, so that the way back is known.
    fn record(&self, prepared: &prepare::Prepared) -> Result<Option<Undo>> {
        let state = &self.run.context.saga.state;
        match (&prepared.source.location, &prepared.place.location) {
            (MountSource::Volume(volume), MountSource::Directory(directory)) => {
                let migration = Migration {
                    engine: prepared.engine.id.clone(),
                    directory: directory.clone(),
                    volume: volume.clone(),
                    labels: prepared.labels.clone(),
                    at: self.run.context.clock.now(),
                    edits: prepared.switch.written(),
                };
                migration.remember(state).map(Some)
            }
            (MountSource::Directory(directory), _) => Ok(Some(Migration::forget(state, directory))),
            (MountSource::Volume(_), _) => Ok(None),
        }
    }

    /// Returns the command that removes the old data, and the one that goes back.
    fn ways_on(&self, prepared: &prepare::Prepared) -> (Hint, Option<Hint>) {
        match (&prepared.source.location, &prepared.place.location) {
            (MountSource::Volume(volume), place) => {
                let back = Hint::volsnap(["migrate", &self.options.target.spelling(), "--back"]);
                let is_known = matches!(place, MountSource::Directory(_));
                (Hint::docker(["volume", "rm", volume]), is_known.then_some(back))
            }
            (MountSource::Directory(directory), _) => {
                (Hint::shell(format!("rm -r {}", shell_quote(&directory.to_string_lossy()))), None)
            }
        }
    }
}

impl Aftermath for MigrateRun<'_> {
    fn state(&self, all_back: bool) -> Option<String> {
        if self.stays.load(Ordering::Relaxed) {
            return Some("the service runs on the copy, and what it was made of is kept".to_owned());
        }
        match self.run.timer.away() {
            Some(away) => all_back.then(|| {
                let away = away.as_secs_f64();
                format!("everything is as it was before, and what was stopped runs again, after {away:.1} s")
            }),
            None => Some("nothing was stopped".to_owned()),
        }
    }

    /// Adds where the copy so far is, if it still exists, and the command that goes on from it.
    fn explain(&self, error: Error) -> Error {
        let Some(MountSource::Directory(directory)) = self.kept.get() else { return error };
        let is_work = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let work = match std::fs::read_dir(self.run.context.path_here(directory)) {
            Ok(entries) => {
                entries.flatten().find(|entry| is_work(&entry.file_name())).map(|entry| entry.path())
            }
            // Only its owner may look.
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
        if error.hints().is_empty() { error.hint(Self::again()) } else { error }
    }
}
