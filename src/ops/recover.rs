//! Finishes what a dead run left: whoever finds a journal without an owner puts back what it lists.
//!
//! Who only looks changes nothing. Whatever in the state directory is no journal to be believed is named and left alone;
//! it keeps nobody from finishing the others. A run that could not be finished blocks those alone that act on what it was
//! about: its volume or directory, or one of its containers.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Context, with_leftovers};
use crate::disk::ownership::WritableByOthers;
use crate::engine::context::{DEFAULT_ADDRESS, is_default};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain, find};
use crate::model::event::{Notice, Phase};
use crate::model::hint::Hint;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::Source;
use crate::saga::guard::finish_orphan;
use crate::saga::journal::{Entry, Opened};
use crate::saga::outside;
use crate::saga::{Compensation as _, Rank, RetryBudget, RunInfo, SagaError};
use crate::undo::{Journal, Leftovers};

/// An unfinished run.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Which run it is.
    pub run: RunInfo,
    /// Whether somebody is at work on it: the command itself, its guard, or another `recover`.
    pub held: bool,
    /// The command's process, if that is known to be alive and the one that is at work. One in a container has the number
    /// that it has here.
    pub process: Option<u32>,
    /// Who else is at work on it, if that is known: its guard, or another `recover`.
    pub finisher: Option<u32>,
    /// What must still be put back, in words.
    pub open: Vec<String>,
    /// The containers that it holds stopped or frozen, or has not brought back, by name.
    pub holds: Vec<String>,
    /// What it is about.
    pub about: About,
}

/// What an unfinished run is about.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Containers, as [`Compensation::concerns`](crate::saga::Compensation::concerns) has them.
    containers: Vec<String>,
    locations: Vec<MountSource>,
    /// Whether there is something of which that is not known.
    anything: bool,
}

/// Something in the state directory that should be a journal and is none, or none to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strange {
    /// The file.
    pub path: PathBuf,
    /// Why it is left alone.
    pub why: String,
    /// What others must not be able to write any more, if that is why.
    pub writable: Option<PathBuf>,
}

/// What the state directory has of runs that are not finished.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The runs.
    pub runs: Vec<Unfinished>,
    /// What cannot be told.
    pub strange: Vec<Strange>,
}

/// Returns the unfinished runs whose journals are below a state directory, and what else is there. Changes nothing.
///
/// # Errors
/// When the directory cannot be read.
pub fn look(state: &Path) -> Result<Survey> {
    let mut survey = Survey::default();
    for path in Journal::all(state).context(|| "look for unfinished runs".to_owned())? {
        match Journal::look(&path) {
            Ok(None) => {}
            Ok(Some((journal, held))) => survey.runs.push(Unfinished::of(&journal, &path, held)),
            Err(error) => survey.strange.push(Strange::of(path, &error)),
        }
    }
    Ok(survey)
}

/// Returns the unfinished runs alone.
///
/// # Errors
/// As for [`look`].
pub fn unfinished(state: &Path) -> Result<Vec<Unfinished>> {
    Ok(look(state)?.runs)
}

impl Unfinished {
    fn of(journal: &Journal, path: &Path, held: bool) -> Self {
        let due = || journal.open_entries().rev().filter(|entry| entry.when.is_due(journal.has_succeeded()));
        let open = match held {
            true => Vec::new(),
            false => due().map(Entry::describe).chain(newer_text(journal)).collect(),
        };
        let mut holds: Vec<String> = due()
            .filter(|entry| entry.rank() == Rank::Service)
            .flat_map(|entry| entry.concerns().unwrap_or_default())
            .filter_map(|one| one.strip_prefix("name:").map(str::to_owned))
            .collect();
        holds.sort();
        holds.dedup();
        let pid = journal.info().pid;
        let (process, finisher) = match held {
            true if works_on(pid, path) => (Some(pid), None),
            true => match outside::holder_of(path) {
                Some((here, there)) if there == pid => (Some(here), None),
                other => (None, other.map(|(here, _)| here)),
            },
            false => (None, None),
        };
        Self { run: journal.info().clone(), held, process, finisher, open, holds, about: About::of(journal) }
    }

    /// Returns whether it died and has not brought back what it held.
    #[must_use]
    pub fn has_left_down(&self) -> bool {
        !self.held && !self.holds.is_empty()
    }

    /// Returns what everybody who looks must know first: which service is away for this run, and what brings it back;
    /// `None` if none is. `address` is that of the engine of whoever looks.
    #[must_use]
    pub fn notice(&self, address: &str) -> Option<Notice> {
        if self.holds.is_empty() {
            return None;
        }
        let (run, names) = (&self.run, self.holds.join(", "));
        let which = format!("{} of {} (run {})", run.verb, run.subject, run.run);
        let begun = run.started.format("%Y-%m-%d %H:%M:%S UTC");
        Some(match (self.held, self.process) {
            (false, _) => Notice::from(format!("{which} died, and has not brought back: {names}"))
                .hint(self.recover_from(address)),
            (true, Some(process)) => {
                let text =
                    format!("{which}, process {process}, begun {begun}, is at work and holds: {names}");
                let end = Hint::shell(format!("kill -TERM {process}"));
                Notice::from(text).hint(end.why("ends it, if you cannot wait: it puts everything back first"))
            }
            (true, None) => {
                let (who, look) = match self.finisher {
                    Some(other) => (
                        format!("is being finished by process {other}, since its own, {}, is gone", run.pid),
                        Hint::shell(format!("ps -fp {other}")).why("who that is"),
                    ),
                    // One in a container may have another number here, or none.
                    None => (
                        format!(
                            "is at work, or is being finished, by a process that is not seen from here (the run's own \
                             calls itself {})",
                            run.pid
                        ),
                        Hint::docker(["ps", "--filter", &format!("label={LABEL_RUN}={}", run.run)])
                            .why("what works for it"),
                    ),
                };
                Notice::from(format!("{which}, begun {begun}, {who}, and holds: {names}")).hint(look)
            }
        })
    }

    /// Returns the command that finishes it, for whoever is on the engine at this address.
    #[must_use]
    pub fn recover_from(&self, address: &str) -> Hint {
        let host = self.run.host.as_deref();
        if is_at(host, address) {
            Hint::volsnap(["recover"])
        } else {
            Hint::volsnap(["--host", host.unwrap_or(DEFAULT_ADDRESS), "recover"])
        }
    }

    /// Returns whether it is about this source, or about a container that uses it.
    fn concerns(&self, source: &Source) -> bool {
        let uses = |id: &str, name: &str| {
            self.about.containers.iter().any(|one| one == id || one.strip_prefix("name:") == Some(name))
        };
        self.about.anything
            || self.about.locations.contains(&source.location)
            || source.users.iter().any(|user| uses(&user.container.id, &user.container.name))
    }
}

impl About {
    fn of(journal: &Journal) -> Self {
        let mut about = Self::default();
        for entry in journal.open_entries() {
            match entry.concerns() {
                Some(containers) => about.containers.extend(containers.iter().cloned()),
                None => about.anything = true,
            }
            about.locations.extend(entry.undo().and_then(crate::undo::Undo::location));
        }
        about
    }
}

/// Returns whether a process has this journal open: its number alone may belong to another by now, or to one in a
/// container.
fn works_on(process: u32, journal: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let (Some(ours), Ok(open)) = (identity(journal), std::fs::read_dir(format!("/proc/{process}/fd"))) else {
        return false;
    };
    open.flatten().any(|one| identity(&one.path()) == Some(ours))
}

/// Returns how a container that does not run is started: by hand, unless a run has stopped it.
pub(super) fn start_of(context: &Context, name: &str) -> Hint {
    let runs = unfinished(&context.saga.state).unwrap_or_default();
    match runs.iter().find(|run| run.holds.iter().any(|held| held == name)) {
        None => Hint::docker(["start", name]),
        Some(run) if run.held => {
            Hint::volsnap(["recover", "--list"]).why("says which run holds it, and will bring it back")
        }
        Some(run) => on_engine(&run.run),
    }
}

/// Finishes every run that nobody is at work on, on the context's engine. Returns the runs that it finished. If
/// something that no live service depends on cannot be put back, it only warns: the journal stays, and [`look`] has
/// it.
///
/// # Errors
/// [`ErrorKind::NotPutBack`] when something could not be put back, such as what only a later volsnap knows; the journal
/// stays.
pub async fn recover(context: &Context, budget: RetryBudget) -> Result<Vec<RunInfo>> {
    let (finished, error) = attempt(context, budget, &left()).await?;
    error.map_or(Ok(finished), |error| Err(not_once_more(error)))
}

/// Returns what to type after a recovery that has left something.
fn left() -> Hint {
    Hint::volsnap(["recover", "--list"]).why("says what is left; recover tries again")
}

/// Has the advice of a recovery that failed not be the very command: the same obstacle would be in its way.
fn not_once_more(error: Error) -> Error {
    let is_it = |hint: &Hint| matches!(hint, Hint::Volsnap { args, .. } if args == &["recover"]);
    let hints = error.hints().iter().map(|hint| if is_it(hint) { left() } else { hint.clone() });
    let hints: Vec<_> = hints.collect();
    error.with_hints(hints)
}

/// Like [`recover`]; what could not be put back is no error of this one. `again` is what to type if something waits.
///
/// # Errors
/// When the state directory cannot be read.
pub(super) async fn attempt(
    context: &Context,
    budget: RetryBudget,
    again: &Hint,
) -> Result<(Vec<RunInfo>, Option<Error>)> {
    let (mut finished, mut all_left, mut first_error) = (Vec::new(), Leftovers::default(), None);
    for path in Journal::all(&context.saga.state).context(|| "look for unfinished runs".to_owned())? {
        let journal = match Journal::open(&path) {
            Ok(Opened::Orphan(journal)) => journal,
            Ok(Opened::Held | Opened::Gone) => continue,
            // The others are finished all the same.
            Err(error) => {
                context.monitor.warning(Strange::of(path, &error).notice());
                continue;
            }
        };
        let run = journal.info().clone();
        if !is_at(run.host.as_deref(), &context.address) {
            let notice = Notice::from(format!("run {} was on another engine", run.run));
            context.monitor.warning(notice.hint(on_engine(&run)));
            continue;
        }
        let newer = newer_error(&journal, &path);
        let mut left = finish_one(context, journal, &run, budget).await;
        if left.is_empty() {
            finished.push(run);
        }
        if left.newer > 0 {
            first_error = first_error.or(newer);
            left.newer = 0;
        }
        let (waiting, failed): (Vec<_>, Vec<_>) =
            left.failed.into_iter().partition(|failed| failed.undo.rank() == Rank::Later);
        for failed in waiting {
            let what = failed.undo.describe();
            let notice = Notice::from(format!("could not {what}: {}", chain(&failed.error)));
            context.monitor.warning(notice.hint(again.clone()));
        }
        all_left.failed.extend(failed);
        all_left.blocked.extend(left.blocked);
    }
    let outcome = match first_error {
        Some(error) => Err(error),
        None if all_left.is_empty() => Ok(()),
        None => Err(Error::failed("could not finish what a dead run left")),
    };
    Ok((finished, with_leftovers(outcome, &all_left).err()))
}

/// Says what [`attempt`] would finish, and changes nothing. Returns the error of a run that needs that finished.
///
/// # Errors
/// When the state directory cannot be read.
pub(super) fn tell(context: &Context) -> Result<Option<Error>> {
    let Survey { runs, strange } = look(&context.saga.state)?;
    let notices = runs.iter().filter_map(|run| run.notice(&context.address));
    notices.for_each(|notice| context.monitor.warning(notice));
    strange.iter().for_each(|strange| context.monitor.warning(strange.notice()));
    let is_dead = runs.iter().any(|run| !run.held && is_at(run.run.host.as_deref(), &context.address));
    Ok(is_dead.then(|| {
        Error::failed("a dead run is not finished, and until then nothing can be planned")
            .with_kind(ErrorKind::NotPutBack)
            .state("nothing was touched")
            .hint(Hint::volsnap(["recover"]).why("finishes it; the command without --dry-run does so first"))
    }))
}

impl Strange {
    fn of(path: PathBuf, error: &SagaError) -> Self {
        // The file itself is named already.
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        Self { path, why, writable: writable_by_others(error) }
    }

    /// Returns what to say of it.
    #[must_use]
    pub fn notice(&self) -> Notice {
        let path = self.path.to_string_lossy();
        let notice = Notice::from(format!(
            "{path} is in the place of a run's journal and is left alone: {}",
            self.why
        ))
        .hint(Hint::shell(format!("ls -ld {}", shell_quote(&path))).why("whose is it?"));
        match &self.writable {
            Some(writable) => notice.hint(not_for_others(writable)),
            None => notice,
        }
    }
}

/// Returns what others must not be able to write any more, if that is why something is not believed.
pub(super) fn writable_by_others(error: &(dyn std::error::Error + 'static)) -> Option<PathBuf> {
    find::<WritableByOthers>(error).map(|writable| writable.path.clone())
}

/// Returns what takes a file or a directory from others, so that it is believed.
pub(super) fn not_for_others(path: &Path) -> Hint {
    let command = format!("chmod go-w {}", shell_quote(&path.to_string_lossy()));
    Hint::shell(command).why("takes it from the others, if nobody of them is to write there")
}

/// Returns the dead run on this engine that is about the source, if there is one.
pub(super) fn concerning(context: &Context, source: &Source) -> Option<Unfinished> {
    let runs = unfinished(&context.saga.state).ok()?;
    let is_dead_here = |run: &Unfinished| !run.held && is_at(run.run.host.as_deref(), &context.address);
    runs.into_iter().find(|run| is_dead_here(run) && run.concerns(source))
}

async fn finish_one(context: &Context, journal: Journal, run: &RunInfo, budget: RetryBudget) -> Leftovers {
    context.monitor.phase(
        Phase::Recover,
        format!("{} of {}, run {}, which died", run.verb, run.subject, run.run),
        None,
    );
    finish_orphan(journal, &context.world_of_undos(), budget, &*context.monitor).await
}

/// Returns the text for a journal that has what only another volsnap can finish.
fn newer_text(journal: &Journal) -> Option<String> {
    let lines = journal.newer_lines();
    let writer = journal.version().unwrap_or("another version");
    (lines > 0).then(|| {
        format!(
            "{lines} of its lines were written by volsnap {writer} and mean nothing to this one, {}",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// Returns the error for a journal that cannot be finished completely, and so stays.
fn newer_error(journal: &Journal, path: &Path) -> Option<Error> {
    let text = newer_text(journal)?;
    Some(
        Error::failed(format!("the journal {} cannot be finished: {text}", path.display()))
            .with_kind(ErrorKind::NotPutBack)
            .state("what that run has stopped was started, but for what waits for the rest; the rest is as it was left")
            .hint(Hint::volsnap(["recover"]).why("with the volsnap that wrote it"))
            .or(Hint::shell(format!("rm {}", shell_quote(&path.to_string_lossy())))
                .why("once the rest is put back by hand")),
    )
}

/// Returns whether a run was on the engine at this address. Older versions wrote none for the one where nobody names
/// one.
#[must_use]
pub fn is_at(host: Option<&str>, address: &str) -> bool {
    host.map_or_else(|| is_default(address), |host| host.trim_end_matches('/') == address)
}

/// Returns the command that finishes a run on the engine that it was on.
fn on_engine(run: &RunInfo) -> Hint {
    let host = run.host.as_deref().unwrap_or(DEFAULT_ADDRESS);
    Hint::volsnap(["--host", host, "recover"]).why("finishes it")
}
