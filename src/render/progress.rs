//! What a person sees of a procedure while it runs: a bar on a terminal, plain lines elsewhere.
//!
//! A thread of its own draws it from a [queue](Queue): output that is stuck (Ctrl-S, a pipe that nobody reads)
//! blocks that thread and nobody else, least of all a run that holds a service. The queue counts the lines for
//! which it had no room, and the thread says how many once there is room again.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use volsnap::model::event::{Event, Monitor, Notice, Phase};

use super::command::Commands;
use super::queue::{Entry, Queue};
use super::text::{duration, escape};

const BAR: &str =
    "{prefix:>10} {msg} {bar:24} {decimal_bytes:>10} of {decimal_total_bytes}  {decimal_bytes_per_sec}{left}";
const SPINNER: &str = "{prefix:>10} {msg} {spinner}";
const DONE: &str = "{prefix:>10} {msg}";

/// How many lines may wait to be drawn.
const ROOM: usize = 1024;
/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(100);
/// How long a run waits at its end for output that is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something to draw.
enum Drawn {
    /// A phase: a bar, or a line.
    Phase { phase: Phase, detail: String, total_bytes: Option<u64> },
    /// How far the phase is, in bytes.
    Position(u64),
    /// A line.
    Line(String),
    /// A question, whose answer follows on the same line.
    Question(String),
    /// The bar goes; its line stays.
    Finish,
}

/// Draws a procedure.
pub(crate) struct Progress {
    draw: bool,
    quiet: bool,
    commands: Commands,
    queue: Arc<Queue<Drawn>>,
    /// Whether output was stuck at the last wait.
    stuck: AtomicBool,
}

impl Progress {
    /// Returns what draws a bar (or lines), or keeps quiet.
    pub(crate) fn new(draw: bool, quiet: bool, commands: Commands) -> Self {
        let queue = Arc::new(Queue::new(ROOM));
        let mut pen = Pen { draw, bar: None, queue: queue.clone() };
        // Without a thread nothing is drawn, and the run goes on.
        let _ = thread::Builder::new().name("render".to_owned()).spawn(move || pen.work());
        Self { draw, quiet, commands, queue, stuck: AtomicBool::new(false) }
    }

    /// Takes away the bar and waits until everything is drawn, but not for output that is stuck.
    pub(crate) fn finish(&self) {
        self.queue.put_always(Drawn::Finish);
        self.wait();
    }

    /// Prints a line to standard error, above the bar; drops it if output is stuck.
    pub(crate) fn line(&self, text: &str) {
        self.queue.put(Drawn::Line(text.to_owned()));
    }

    /// Prints what ends a run: never drops it, and waits for it.
    pub(crate) fn last_line(&self, text: &str) {
        self.queue.put_always(Drawn::Finish);
        self.queue.put_always(Drawn::Line(text.to_owned()));
        self.wait();
    }

    /// Prints a remark, unless only results are wanted.
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Prints a question, whose answer follows on the same line.
    pub(crate) fn question(&self, text: &str) {
        self.queue.put_always(Drawn::Question(text.to_owned()));
    }

    /// Prints a line that stands out.
    fn stand_out(&self, text: &str) {
        let (bold, plain) = if self.draw { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("{bold}{:>10} {text}{plain}", ">>>"));
    }

    fn notice(&self, label: &str, notice: &Notice) {
        self.line(&format!("{label:>10} {}", escape(&notice.text)));
        for command in self.commands.lines(&notice.hints) {
            self.line(&format!("{:>10} {command}", ""));
        }
    }

    fn wait(&self) {
        // After one wait in vain, the next is short.
        let stuck = self.stuck.load(Ordering::Relaxed);
        let patience = if stuck { PATIENCE / 20 } else { PATIENCE };
        self.stuck.store(!self.queue.drain(patience), Ordering::Relaxed);
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Phase { phase, detail, total_bytes } if !self.quiet => {
                self.queue.put(Drawn::Phase { phase, detail, total_bytes });
            }
            Event::Progress { bytes, .. } if self.draw => {
                self.queue.put_latest(Drawn::Position(bytes), |last| matches!(last, Drawn::Position(_)));
            }
            Event::Held if !self.quiet => self.stand_out("the service is held from now on"),
            Event::Released { downtime, answers } if !self.quiet => {
                let (does, as_far) =
                    if answers { ("answers", "") } else { ("runs", ", as far as can be seen") };
                self.stand_out(&format!("the service {does} again, after {}{as_far}", duration(downtime)));
            }
            Event::Warning(notice) => self.notice("warning", &notice),
            Event::Note(notice) if !self.quiet => self.notice("", &notice),
            Event::Phase { .. }
            | Event::Progress { .. }
            | Event::Held
            | Event::Released { .. }
            | Event::Note(_) => {}
        }
    }

    fn step(&self, step: &'static str) {
        tracing::debug!(step);
    }
}

/// Draws in a thread of its own, the only one that writes to standard error.
struct Pen {
    draw: bool,
    bar: Option<ProgressBar>,
    queue: Arc<Queue<Drawn>>,
}

impl Pen {
    fn work(&mut self) {
        loop {
            match self.queue.take(self.bar.as_ref().map(|_| TICK)) {
                Some(Entry::Item(drawn)) => self.put(drawn),
                Some(Entry::Dropped(count)) => {
                    self.line(&format!("{:>10} {count} lines are not shown: output was stuck", ""));
                }
                None => self.bar.iter().for_each(ProgressBar::tick),
            }
        }
    }

    fn put(&mut self, drawn: Drawn) {
        match drawn {
            Drawn::Phase { phase, detail, total_bytes } => self.begin(phase, &detail, total_bytes),
            Drawn::Position(bytes) => self.bar.iter().for_each(|bar| bar.set_position(bytes)),
            Drawn::Line(text) => self.line(&text),
            Drawn::Question(text) => {
                self.finish();
                let mut err = io::stderr().lock();
                let _ = write!(err, "{text}").and_then(|()| err.flush());
            }
            Drawn::Finish => self.finish(),
        }
    }

    fn begin(&mut self, phase: Phase, detail: &str, total_bytes: Option<u64>) {
        if !self.draw {
            self.line(format!("{:>10} {}", phase.to_string(), escape(detail)).trim_end());
            return;
        }
        self.finish();
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
        restyle(&bar, if total_bytes.is_some() { BAR } else { SPINNER });
        bar.set_prefix(phase.to_string());
        bar.set_message(escape(detail));
        bar.tick();
        self.bar = Some(bar);
    }

    fn line(&self, text: &str) {
        let write = || {
            let _ = writeln!(io::stderr().lock(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            restyle(&bar, DONE);
            bar.finish();
        }
    }
}

/// Says how long it will take; nothing where that is not known, or it is all but done.
fn left(state: &ProgressState, text: &mut dyn fmt::Write) {
    let eta = state.eta();
    if eta.as_secs() > 0 {
        let _ = write!(text, "  {:#} left", HumanDuration(eta));
    }
}

fn restyle(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("left", left));
    }
}

/// Draws the log with the rest.
pub(crate) struct LogWriter {
    progress: Arc<Progress>,
    line: Vec<u8>,
}

impl LogWriter {
    /// Returns a writer for one line of the log.
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        Self { progress, line: Vec::new() }
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.progress.line(String::from_utf8_lossy(&self.line).trim_end());
    }
}
