//! The only place that prints. Results go to standard output, everything else to standard error;
//! with `--json`, standard output gets one JSON value and nothing else: the result, or the failure if there is none.
//! Bars appear only on a terminal.
//!
//! Names come from the outside world: whatever is printed for a person is [escaped](text::escape).
//! A closed standard output or error is nobody's failure: what cannot be printed is dropped. Output that is
//! stuck holds up no procedure: a [thread](progress) of its own writes standard error, and standard output is
//! written only once a run is over.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::EnvFilter;
use volsnap::Error;
use volsnap::archive::FileRecord;
use volsnap::model::event::Monitor;
use volsnap::model::retention::alarm::Alarm;
use volsnap::ops::check::{CheckPlan, CheckReport};
use volsnap::ops::copy::CopyReport;
use volsnap::ops::doctor::Finding;
use volsnap::ops::drill::DrillReport;
use volsnap::ops::marks::Removed;
use volsnap::ops::migrate::{MigratePlan, Outcome};
use volsnap::ops::plan::Plan;
use volsnap::ops::prune::{PrunePlan, PruneReport};
use volsnap::ops::recover::Unfinished;
use volsnap::ops::restart::{RestartPlan, RestartReport};
use volsnap::ops::restore::{RestorePlan, Restored};
use volsnap::ops::stages::KeptStage;
use volsnap::ops::verify::Report;
use volsnap::repository::{Listing, Repository, Snapshot};
use volsnap::saga::RunInfo;

mod command;
mod doctor;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod key;
mod layout;
mod migrate;
mod progress;
mod prune;
mod queue;
mod report;
mod repository;
#[cfg(test)]
mod samples;
#[cfg(test)]
#[path = "../../tests/shared/schema.rs"]
mod schema;
mod text;

pub(crate) use command::Commands;
use progress::Progress;
use text::escape;

/// How to print.
#[derive(Debug, Clone)]
pub(crate) struct UiOptions {
    /// One JSON value on standard output.
    pub(crate) json: bool,
    /// Only results and failures.
    pub(crate) quiet: bool,
    /// How much is logged.
    pub(crate) verbose: u8,
    /// Whether bars may be drawn.
    pub(crate) progress: bool,
    /// How to call the commands that are printed as the next ones.
    pub(crate) commands: Commands,
}

/// Prints.
pub(crate) struct Ui {
    json: bool,
    quiet: bool,
    /// Whether standard output has its value.
    printed: AtomicBool,
    commands: Commands,
    progress: Arc<Progress>,
    /// Where results go.
    out: Mutex<Box<dyn Write + Send>>,
}

impl Ui {
    /// Returns what prints by these options, and sends the log through it.
    pub(crate) fn new(options: &UiOptions) -> Self {
        let ui = Self::on(options, Box::new(io::stdout()), Box::new(io::stderr()));
        log_through(&ui.progress, options);
        panic_through(&ui.progress);
        ui
    }

    /// Returns what prints by these options: results to `out`, everything else to `err`.
    fn on(options: &UiOptions, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        let draw = options.progress && !options.quiet && options.verbose == 0 && io::stderr().is_terminal();
        let commands = options.commands.clone();
        let progress = Arc::new(Progress::new(draw, options.quiet, commands.clone(), err));
        let (json, quiet, printed) = (options.json, options.quiet, AtomicBool::new(false));
        Self { json, quiet, printed, commands, progress, out: Mutex::new(out) }
    }

    /// Returns what prints all of it to `paper`, and draws nothing.
    #[cfg(test)]
    pub(crate) fn to(options: &UiOptions, paper: impl Write + Send + Clone + 'static) -> Self {
        let options = UiOptions { progress: false, ..options.clone() };
        Self::on(&options, Box::new(paper.clone()), Box::new(paper))
    }

    /// Returns the monitor that draws what a procedure does.
    pub(crate) fn monitor(&self) -> Arc<dyn Monitor> {
        self.progress.clone()
    }

    /// Takes away the bar before a result is printed, and waits for what is not drawn yet.
    pub(crate) fn finish_progress(&self) {
        self.progress.finish();
    }

    /// Prints a failure: what volsnap was doing, why it failed, the state now, the next command.
    pub(crate) fn error(&self, error: &Error) {
        let width = self.progress.width();
        self.progress.last_line(&human::error(error, &self.commands, width));
    }

    /// Prints a failure as a value, if JSON was asked for and there is none yet.
    pub(crate) fn json_error(&self, error: &Error) {
        if !self.printed.load(Ordering::Relaxed) {
            self.json(&json::FailureObject::new(error, &self.commands));
        }
    }

    /// Prints a remark, unless only results are wanted.
    pub(crate) fn remark(&self, text: &str) {
        self.progress.remark(&escape(text));
    }

    /// Prints what was installed: the object, or what is said of it.
    pub(crate) fn installed(&self, object: &impl Serialize, said: &str) {
        self.json(object);
        self.text(|| said.to_owned());
    }

    /// Prints what a repository is like that was made, or was there.
    pub(crate) fn initialised(&self, repository: &Repository, is_new: bool) {
        self.json(&json::RepositoryObject::new(repository, is_new));
        self.text(|| repository::repository(repository, is_new));
    }

    /// Prints a remark.
    pub(crate) fn note(&self, text: &str) {
        self.progress.line(&escape(text));
    }

    /// Prints one value, or the array of several, if JSON was asked for.
    pub(crate) fn json_results(&self, mut results: Vec<serde_json::Value>, several: bool) {
        if !self.json {
            return;
        }
        let value = match results.pop() {
            Some(only) if !several && results.is_empty() => only,
            last => {
                results.extend(last);
                serde_json::Value::Array(results)
            }
        };
        self.printed.store(true, Ordering::Relaxed);
        self.print(&format!("{value:#}"));
    }

    /// Prints an object, if JSON was asked for.
    fn json(&self, object: &impl Serialize) {
        self.json_results(vec![json::value(object)], false);
    }

    /// Prints an array of objects, if JSON was asked for.
    fn json_array<T: Serialize>(&self, objects: impl Iterator<Item = T>) {
        self.json_results(objects.map(|object| json::value(&object)).collect(), true);
    }

    /// Returns how to call the commands that are printed as the next ones.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Prints a plan.
    pub(crate) fn plan(&self, plan: &Plan) {
        self.text(|| human::plan(plan));
    }

    /// Prints the result of a snapshot. Where a drill follows and one line is wanted, it is that of the drill.
    pub(crate) fn snapshot(&self, snapshot: &Snapshot, is_drilled: bool) {
        if !(self.quiet && is_drilled) {
            self.outcome(|| human::snapshot(snapshot, &self.commands));
        }
    }

    /// Prints the plan of a restore: the result of a dry run.
    pub(crate) fn restore_plan(&self, plan: &RestorePlan) {
        self.json(&json::RestorePlanObject::from(plan));
        self.text(|| human::restore_plan(plan));
    }

    /// Shows the plan of a restore that is about to run.
    pub(crate) fn show_restore_plan(&self, plan: &RestorePlan) {
        self.progress.remark(human::restore_plan(plan).trim_end());
    }

    /// Prints the plan of a migration: the result of a dry run.
    pub(crate) fn migrate_plan(&self, plan: &MigratePlan) {
        self.json(&json::MigratePlanObject::new(plan, &self.commands));
        self.text(|| migrate::plan(plan));
    }

    /// Shows the plan of a migration that is about to run.
    pub(crate) fn show_migrate_plan(&self, plan: &MigratePlan) {
        self.progress.remark(migrate::plan(plan).trim_end());
    }

    /// Prints the result of a migration.
    pub(crate) fn migrated(&self, outcome: &Outcome) {
        self.json(&json::MigrationObject::new(outcome, &self.commands));
        self.outcome(|| migrate::outcome(outcome, &self.commands));
    }

    /// Prints a question, whose answer follows on the same line.
    pub(crate) fn question(&self, text: &str) {
        self.progress.question(text);
    }

    /// Prints the result of a restore.
    pub(crate) fn restored(&self, restored: &Restored) {
        self.json(&json::RestoredObject::new(restored, &self.commands));
        self.outcome(|| human::restored(restored, &self.commands));
    }

    /// Prints what a check would look at: the result of a dry run.
    pub(crate) fn check_plan(&self, plan: &CheckPlan) {
        self.json(plan);
        self.text(|| report::check_plan(plan));
    }

    /// Prints the result of a check.
    pub(crate) fn checked(&self, report: &CheckReport) {
        self.json(&json::CheckObject::new(report, &self.commands));
        self.outcome(|| report::check(report, &self.commands));
    }

    /// Prints the plan of a restart.
    pub(crate) fn restart_plan(&self, plan: &RestartPlan) {
        self.json(&json::RestartPlanObject::from(plan));
        self.text(|| report::restart_plan(plan));
    }

    /// Shows the plan of a restart before a question; it is not the command's own output.
    pub(crate) fn show_restart_plan(&self, plan: &RestartPlan) {
        self.progress.remark(report::restart_plan(plan).trim_end());
    }

    /// Prints the result of a restart.
    pub(crate) fn restarted(&self, report: &RestartReport) {
        self.json(&json::RestartObject::new(report, &self.commands));
        self.outcome(|| report::restart(report, &self.commands));
    }

    /// Prints the result of a verification. Where a drill follows and one line is wanted, that of the drill says more,
    /// unless something is damaged.
    pub(crate) fn verified(&self, snapshot: &Snapshot, report: &Report, is_drilled: bool) {
        if !(self.quiet && is_drilled && report.ok) {
            self.outcome(|| human::verified(snapshot, report, &self.commands));
        }
    }

    /// Prints which snapshots a dry run would read.
    pub(crate) fn would_verify(&self, ids: impl Iterator<Item = String>, drill: bool) {
        let ids: Vec<String> = ids.collect();
        self.json_array(ids.iter().map(|id| json::WouldVerifyObject { id, drill }));
        let what = if drill { "would read back and boot" } else { "would read back" };
        self.text(|| ids.iter().map(|id| format!("{what} {}\n", escape(id))).collect());
    }

    /// Prints the result of a drill. Where one line is wanted, it is that of the damage that was found before.
    pub(crate) fn drilled(&self, snapshot: &Snapshot, report: &DrillReport, was_damaged: bool) {
        if !(self.quiet && was_damaged) {
            self.outcome(|| human::drilled(snapshot, report, &self.commands));
        }
    }

    /// Prints the list of snapshots.
    pub(crate) fn list(&self, listing: &Listing, source: Option<&str>, repository: &Repository) {
        self.json_array(listing.snapshots.iter().map(json::ListedObject::new));
        self.text(|| human::list(listing, source, repository));
        // The array has snapshots only; standard error tells the rest.
        let apart = human::set_apart(listing);
        if self.json && !apart.is_empty() {
            self.progress.line(apart.trim());
        }
    }

    /// Prints the list of kept stages.
    pub(crate) fn stages(&self, stages: &[KeptStage]) {
        self.json_array(stages.iter().map(|stage| json::StageObject::new(stage, &self.commands)));
        self.text(|| human::stages(stages, &self.commands));
    }

    /// Says that there is nothing to work on.
    pub(crate) fn none(&self, repository: &Repository) {
        self.progress.line(&human::none(None, repository));
    }

    /// Prints one snapshot.
    pub(crate) fn show(&self, snapshot: &Snapshot) {
        self.json(&json::ShownObject::new(snapshot));
        self.text(|| human::show(snapshot, &self.commands));
    }

    /// Prints the files of a snapshot, one a line.
    pub(crate) fn files(&self, files: impl Iterator<Item = Result<FileRecord, Error>>) -> Result<(), Error> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::BufWriter::new(&mut **out);
        for file in files {
            let file = file?;
            let line = if self.json { json::value(&file).to_string() } else { human::file(&file) };
            self.printed.store(true, Ordering::Relaxed);
            if writeln!(out, "{line}").is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Prints what a doctor found.
    pub(crate) fn findings(&self, findings: &[Finding]) {
        self.json_array(findings.iter().map(|finding| json::FindingObject::new(finding, &self.commands)));
        let terminal = console::Term::stdout();
        let width =
            terminal.size_checked().filter(|_| terminal.is_term()).map(|(_, columns)| usize::from(columns));
        self.text(|| doctor::findings(findings, &self.commands, width));
    }

    /// Prints the unfinished runs.
    pub(crate) fn unfinished(&self, runs: &[Unfinished]) {
        self.json_array(runs.iter().map(json::UnfinishedObject::from));
        self.text(|| human::unfinished(runs));
    }

    /// Prints which runs were finished.
    pub(crate) fn recovered(&self, runs: &[RunInfo], at_work: &[Unfinished]) {
        self.json_array(runs.iter().map(json::RunObject::from));
        if !(self.quiet && runs.is_empty()) {
            self.outcome(|| human::recovered(runs, at_work));
        }
    }

    /// Prints the plan of a prune, or what it has done.
    pub(crate) fn pruned(&self, plan: &PrunePlan, report: Option<&PruneReport>, grace: Option<Duration>) {
        self.json(&json::PruneObject::new(plan, report, grace, &self.commands));
        match report {
            None => self.text(|| prune::plan(plan, grace, &self.commands)),
            // Who wants one line wants what is wrong in full, and nothing of nothing.
            Some(report) if !plan.is_whole() || !report.failed.is_empty() => {
                self.text(|| prune::pruned(plan, report, &self.commands));
            }
            Some(report) if self.quiet && *report == PruneReport::default() => {}
            Some(report) => self.outcome(|| prune::pruned(plan, report, &self.commands)),
        }
    }

    /// Prints what was said of a snapshot.
    pub(crate) fn marked(&self, object: &json::MarkedObject, said: &str) {
        self.json(object);
        self.text(|| escape(said));
    }

    /// Prints what became of a snapshot that somebody wants gone.
    pub(crate) fn removed(&self, snapshot: &Snapshot, removed: &Removed) {
        self.json(&json::MarkedObject::removed(snapshot, removed));
        self.outcome(|| prune::removed(snapshot, removed, &self.commands));
    }

    /// Says that a snapshot is back.
    pub(crate) fn undeleted(&self, snapshot: &Snapshot) {
        self.json(&json::MarkedObject::new(snapshot, "undeleted"));
        self.outcome(|| prune::undeleted(snapshot, &self.commands));
    }

    /// Says what somebody has looked at.
    pub(crate) fn acknowledged(&self, source: &str, acknowledged: &[(String, Vec<Alarm>)]) {
        self.json_array(acknowledged.iter().map(json::AcknowledgedObject::from));
        self.text(|| prune::acknowledged(source, acknowledged));
    }

    /// Prints the result of a copy.
    pub(crate) fn copied(&self, report: &CopyReport, to: &Path, dry_run: bool) {
        self.json(&json::CopyObject::new(report, dry_run));
        if !report.failed.is_empty() {
            self.text(|| prune::copied(report, to, dry_run));
        } else if !(self.quiet && report.copied.is_empty()) {
            self.outcome(|| prune::copied(report, to, dry_run));
        }
    }

    /// Prints that a new snapshot was copied, or why it was not. The snapshot itself is the command's own output.
    pub(crate) fn copied_new(&self, report: &CopyReport, to: &Path) {
        let said = prune::copied(report, to, false);
        match report.failed.is_empty() {
            true => self.progress.remark(said.trim_end()),
            false => self.progress.line(said.trim_end()),
        }
    }

    fn text(&self, text: impl FnOnce() -> String) {
        if !self.json {
            self.print(&text());
        }
    }

    fn print(&self, text: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "{}", text.trim_end());
    }

    /// Prints what was done: its first line alone, which says it all, if only that is wanted.
    fn outcome(&self, text: impl FnOnce() -> String) {
        self.text(|| {
            let text = text();
            if self.quiet { text.lines().next().unwrap_or_default().to_owned() } else { text }
        });
    }
}

/// Prints a command line that is not understood as a value.
pub(crate) fn print_usage_error(said: &str) {
    let _ = writeln!(io::stdout(), "{:#}", json::value(&json::FailureObject::of_usage(said)));
}

fn log_through(progress: &Arc<Progress>, options: &UiOptions) {
    // Only our own messages: the engine's client logs whole responses, with every container's secrets.
    let level = match options.verbose {
        0 => "volsnap=error",
        1 => "volsnap=info",
        2 => "volsnap=debug",
        _ => "volsnap=trace",
    };
    let writer = progress.clone();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(move || progress::LogWriter::new(writer.clone()))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// Draws panics with the rest: after a panic the run goes on, and puts everything back.
fn panic_through(progress: &Arc<Progress>) {
    let progress = progress.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let trace = std::backtrace::Backtrace::capture();
        let trace = match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        let said = panic.to_string();
        let said: Vec<_> = said.lines().map(escape).collect();
        progress.line(&format!("{}{trace}", said.join("\n")));
    }));
}
