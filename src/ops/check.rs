//! `check`: is the data what it was, and what the user wants it to be? It only reads: it stops nothing, and changes
//! nothing but what volsnap remembers.
//!
//! Live data is compared with the newest facts there are: those of the last snapshot, of the last check or restart that
//! found nothing wrong, or of what was restored since. volsnap does not remember what it found wrong, so the next check
//! finds it again.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Context;
use super::facts::{Remembered, of_snapshot, run_checks, take, warn_of_later_facts};
use super::helper::start_helper;
use super::project_file::find_checks;
use super::recover::start_of;
use super::run::{Run, Untouched};
use crate::agent::calls::Survey;
use crate::database::compare::{ComparisonContext, compare, first_look};
use crate::engine::helper::Access;
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::Checked;
use crate::model::facts::difference::{Comparison, Difference};
use crate::model::facts::{Facts, FactsLevel, FactsSummary, Files};
use crate::model::hint::Hint;
use crate::model::plural::counted;
use crate::model::source::Source;
use crate::repository::{Repository, Snapshot};
use crate::selector::Target;
use crate::undo::Saga;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// What to check.
    pub target: Target,
    /// Where the repository is, or may be.
    pub repository: PathBuf,
    /// The snapshot to compare with, instead of the newest facts.
    pub against: Option<Snapshot>,
    /// How closely to look at the data.
    pub level: FactsLevel,
    /// The file with the user's checks, instead of the one beside the compose file.
    pub checks: Option<PathBuf>,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

/// The outcome of a check.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Whether no damage was found and every check of the user's holds.
    pub ok: bool,
    /// What was checked, as a person calls it.
    pub title: String,
    /// The database's container.
    pub container: Option<String>,
    /// What it was compared with; `None` for the first look.
    pub against: Option<Against>,
    /// Whether nothing was written in between, so everything must be the same.
    pub strict: bool,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The user's checks.
    pub checks: Vec<Checked>,
    /// How closely the data was looked at.
    pub level: FactsLevel,
    /// What there was before, in numbers.
    pub before: Option<FactsSummary>,
    /// What there is.
    pub now: FactsSummary,
    /// What was not looked at, and why.
    pub unread: Vec<String>,
    /// How long looking took, in milliseconds.
    pub ms: u64,
}

/// What a check would look at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckPlan {
    /// What would be checked, as a person calls it.
    pub title: String,
    /// The database's container, which would be asked; `None` if a helper would count files.
    pub container: Option<String>,
    /// What it would be compared with; `None` for a first look.
    pub against: Option<Against>,
    /// The names of the user's checks that would be asked.
    pub checks: Vec<String>,
}

/// What something is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Against {
    /// The snapshot, `SOURCE/ID`, even if it was restored since; `None` for the last check or restart that found
    /// nothing wrong.
    pub snapshot: Option<String>,
    /// When those facts were taken.
    pub taken: DateTime<Utc>,
}

/// Checks live data.
///
/// # Errors
/// When the data cannot be looked at. What is found is no error.
pub async fn check(context: &Context, options: &CheckOptions) -> Result<CheckReport> {
    let run = Run::new(context)?;
    let begin = run.to_end(begin(context, options)).await?;
    let Begin { engine, source, latest, baseline } = begin;
    let before = baseline.as_ref().map(|(facts, _)| facts);
    let seen = match source.database() {
        Some(container) => run.to_end(database(context, container, options, before)).await?,
        None => {
            refuse_database(&source, before)?;
            let facts = files(&run, &engine, &source, options).await?;
            (facts, run.to_end(own_checks(context, &source)).await?)
        }
    };
    let snapshot = options.against.as_ref().or(latest.as_ref()).map(Snapshot::name);
    let (mut report, facts) = report(&source, baseline, seen, snapshot.as_deref());
    report.unread.extend(unasked(context, options.checks.as_deref(), &source)?);
    if report.ok {
        context.remember(&engine.id, &source, Some(facts), None);
    }
    Ok(report)
}

/// Returns what a check would look at, as far as that is known without looking; refuses what a check would refuse by
/// then.
///
/// # Errors
/// When it cannot be checked.
pub async fn plan(context: &Context, options: &CheckOptions) -> Result<CheckPlan> {
    let Begin { source, baseline, .. } = begin(context, options).await?;
    let checks = match source.database() {
        Some(container) => {
            refuse_stopped(context, container)?;
            let checks = find_checks(options.checks.as_deref(), container, &context.directory)?;
            checks.map(|(_, checks)| checks.check).unwrap_or_default()
        }
        None => {
            refuse_database(&source, baseline.as_ref().map(|(facts, _)| facts))?;
            Vec::new()
        }
    };
    Ok(CheckPlan {
        title: source.title.clone(),
        container: source.database().map(|container| container.name.clone()),
        against: baseline.map(|(facts, snapshot)| Against { snapshot, taken: facts.taken }),
        checks: checks.into_iter().map(|check| check.name).collect(),
    })
}

/// What is known before anything is looked at.
struct Begin {
    engine: EngineInfo,
    source: Source,
    latest: Option<Snapshot>,
    /// The facts to compare with, and the snapshot that has them.
    baseline: Option<(Facts, Option<String>)>,
}

async fn begin(context: &Context, options: &CheckOptions) -> Result<Begin> {
    context.monitor.phase(Phase::Facts, options.target.to_string(), None);
    let engine = context.docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
    let source = context.resolve_for(&["check"], &options.target).await?;
    source.warnings.iter().for_each(|warning| context.monitor.warning(warning));
    let latest = latest(&options.repository, &source).await;
    if let Some(snapshot) = options.against.as_ref().or(latest.as_ref()) {
        warn_of_later_facts(snapshot, &*context.monitor);
    }
    let baseline = match &options.against {
        Some(snapshot) => {
            let facts = of_snapshot(snapshot)?.ok_or_else(|| {
                Error::usage(format!("snapshot {} has no facts to compare with", snapshot.name()))
                    .hint(Hint::volsnap(["snapshot", &options.target.spelling()]).why("takes them"))
            })?;
            Some((facts, Some(snapshot.name())))
        }
        None => newest(context.remembered(&engine.id, &source), latest.as_ref())?,
    };
    Ok(Begin { engine, source, latest, baseline })
}

/// Refuses to compare files with the facts of a running database: no database is there to ask.
fn refuse_database(source: &Source, before: Option<&Facts>) -> Result<()> {
    match before.filter(|before| before.files.is_none()) {
        Some(before) => Err(Error::failed(format!(
            "{} is the data of a {}, and no container runs it that could be asked",
            source.title, before.engine
        ))
        .hint(Hint::docker(["ps", "--all"]).why("which one is it? it has to be there, and to run"))),
        None => Ok(()),
    }
}

fn report(
    source: &Source,
    baseline: Option<(Facts, Option<String>)>,
    (facts, checks): (Facts, Vec<Checked>),
    snapshot: Option<&str>,
) -> (CheckReport, Facts) {
    let container = source.database().map(|container| container.name.clone());
    let context =
        ComparisonContext { container: container.as_deref(), snapshot, ..ComparisonContext::default() };
    let Comparison { strict, differences } = match &baseline {
        Some((before, _)) => compare(before, &facts, &context),
        None => first_look(&facts, &context),
    };
    let comparison = Comparison { strict, differences };
    let report = CheckReport {
        ok: comparison.ok() && checks.iter().all(|check| check.ok),
        title: source.title.clone(),
        container,
        before: baseline.as_ref().map(|(before, _)| before.summary()),
        against: baseline.map(|(before, snapshot)| Against { snapshot, taken: before.taken }),
        strict,
        differences: comparison.differences,
        checks,
        level: facts.level,
        now: facts.summary(),
        unread: facts.unread().into_iter().chain(unread_of_files(&facts)).collect(),
        ms: facts.ms,
    };
    (report, facts)
}

/// Returns what remains unknown of data that is no database: its files are counted, but not read.
fn unread_of_files(facts: &Facts) -> Option<String> {
    let files = facts.files.as_ref().filter(|files| files.digest.is_none())?;
    let counted = counted(files.files, "file");
    Some(format!("what is in the {counted}: only their number and size were looked at"))
}

/// Returns what to say of the user's checks of data that is of no database that could be asked.
pub(super) fn unasked(context: &Context, named: Option<&Path>, source: &Source) -> Result<Option<String>> {
    if source.database().is_some() {
        return Ok(None);
    }
    let user = source.users.first().map(|user| user.container.clone()).unwrap_or_default();
    let checks = find_checks(named, &user, &context.directory)?;
    let checks = checks.filter(|(_, checks)| !checks.check.is_empty());
    Ok(checks.map(|(path, _)| {
        format!("your checks in {}: there is no database that volsnap can ask", path.display())
    }))
}

/// Returns the newest facts there are, with the snapshot that has them.
fn newest(
    remembered: Option<Remembered>,
    latest: Option<&Snapshot>,
) -> Result<Option<(Facts, Option<String>)>> {
    let is_newest = |snapshot: &&Snapshot| {
        remembered.as_ref().is_none_or(|remembered| snapshot.manifest.times.held >= remembered.at)
    };
    let saved = match latest.filter(is_newest) {
        Some(snapshot) => of_snapshot(snapshot)?.map(|facts| (facts, Some(snapshot.name()))),
        None => None,
    };
    let known = || remembered.and_then(|known| Some((known.facts?, known.snapshot)));
    Ok(saved.or_else(known))
}

/// Returns the newest snapshot of a source, if there is a repository that can be read; never one of replaced data that
/// a restore kept.
pub(super) async fn latest(repository: &Path, source: &Source) -> Option<Snapshot> {
    let listing = Repository::open(repository).await.ok()?.snapshots(Some(&source.key)).await.ok()?;
    listing.snapshots.into_iter().rfind(|snapshot| !snapshot.manifest.is_safety())
}

fn refuse_stopped(context: &Context, container: &Container) -> Result<()> {
    if container.state.running {
        return Ok(());
    }
    let what = format!("container {} does not run, so its database cannot be asked", container.name);
    Err(Error::failed(what).hint(start_of(context, &container.name)))
}

/// Looks at a running database.
async fn database(
    context: &Context,
    container: &Container,
    options: &CheckOptions,
    before: Option<&Facts>,
) -> Result<(Facts, Vec<Checked>)> {
    refuse_stopped(context, container)?;
    let checks = find_checks(options.checks.as_deref(), container, &context.directory)?;
    context.monitor.step("facts");
    let level = options.level.max(FactsLevel::Quick);
    let mut facts = take(&*context.docker, container, level)
        .await
        .map_err(|error| error.hint(Hint::logs(&container.name)))?
        .ok_or_else(|| {
            Error::failed(format!("container {} runs no database we can ask", container.name))
                .hint(Hint::logs(&container.name))
        })?;
    let mut checked = match checks {
        Some((_, checks)) => run_checks(&*context.docker, container, &checks, before, &mut facts).await,
        None => Vec::new(),
    };
    checked.extend(context.own_check(container).await?);
    Ok((facts, checked))
}

/// Runs the checks that somebody has written for the containers that run on the data.
async fn own_checks(context: &Context, source: &Source) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    for user in source.running_users() {
        checked.extend(context.own_check(&user.container).await?);
    }
    Ok(checked)
}

/// Looks at files through a helper.
async fn files(run: &Run, engine: &EngineInfo, source: &Source, options: &CheckOptions) -> Result<Facts> {
    let looking = async |saga: &mut Saga| {
        run.watch_alone(saga).await?;
        let image = (engine, options.helper_image.as_deref());
        let (id, access) = (run.id.as_str(), (Access::Read, None));
        let mut helper = start_helper(&run.context, saga, id, source, access, image, &[]).await?;
        let kept = format!("{}*", crate::agent::swap::PREFIX);
        let survey = Survey { exclude: vec![kept], ..Survey::default() };
        helper.agent.call(survey).await.context(|| format!("survey {}", source.title)).map(Some)
    };
    let survey = run.conduct("check", options.target.to_string(), &Untouched, looking).await?;
    let survey = survey.ok_or_else(|| Error::failed(format!("survey {}", source.title)))?;
    let files = Files { files: survey.files, bytes: survey.bytes, digest: None };
    Ok(Facts::of_files(files, run.started))
}
