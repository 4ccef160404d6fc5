//! What a person sees of a procedure while it runs: a bar on a terminal, plain lines elsewhere.
//!
//! A thread of its own draws it from a [queue](Queue): output that is stuck (Ctrl-S, a pipe that nobody reads)
//! blocks that thread and nobody else, least of all a run that holds a service. The queue counts the lines for
//! which it had no room, and the thread says how many once there is room again.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use volsnap::model::event::{Event, Monitor, Notice, Phase};

use super::command::Commands;
use super::layout::{self, Line};
use super::queue::{Entry, Queue};
use super::text::{counted, duration, escape};

/// How many lines may wait to be drawn.
const ROOM: usize = 1024;
/// The width of a terminal that does not tell it.
const WIDTH: usize = 80;
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
    /// A line that comes after that of the phase, which may go on.
    Mark { text: String, goes_on: bool },
    /// A question, whose answer follows on the same line.
    Question(String),
    /// The bar goes; its line stays.
    Finish,
}

/// Draws a procedure.
pub(crate) struct Progress {
    draw: bool,
    is_terminal: bool,
    quiet: bool,
    commands: Commands,
    queue: Arc<Queue<Drawn>>,
    /// Whether output was stuck at the last wait.
    stuck: AtomicBool,
}

impl Progress {
    /// Returns what draws a bar (or lines), or keeps quiet. Lines go to `paper`, which is standard error where bars are
    /// drawn.
    pub(crate) fn new(draw: bool, quiet: bool, commands: Commands, paper: Box<dyn Write + Send>) -> Self {
        let queue = Arc::new(Queue::new(ROOM));
        let mut pen = Pen { draw, bar: None, queue: queue.clone(), paper };
        // Without a thread nothing is drawn, and the run goes on.
        let _ = thread::Builder::new().name("render".to_owned()).spawn(move || pen.work());
        let is_terminal = io::stderr().is_terminal();
        Self { draw, is_terminal, quiet, commands, queue, stuck: AtomicBool::new(false) }
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

    /// Prints a line that stands out, below that of its phase.
    fn stand_out(&self, text: &str, goes_on: bool) {
        let (bold, plain) = if self.draw { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let text = format!("{bold}{:>10} {text}{plain}", ">>>");
        self.queue.put(Drawn::Mark { text, goes_on });
    }

    /// Returns the width of the terminal, if there is one.
    pub(crate) fn width(&self) -> Option<usize> {
        self.is_terminal.then(width)
    }

    fn notice(&self, label: &str, notice: &Notice) {
        let text = escape(&notice.text);
        let text = self.width().map_or(text.clone(), |width| layout::folded(&text, layout::NAME, width));
        self.line(&format!("{label:>10} {text}"));
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
            Event::Held if !self.quiet => self.stand_out("the service is held from now on", true),
            Event::Released { downtime, answers } if !self.quiet => {
                let (does, as_far) =
                    if answers { ("answers", "") } else { ("runs", ", as far as can be seen") };
                let text = format!("the service {does} again, after {}{as_far}", duration(downtime));
                self.stand_out(&text, false);
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
    bar: Option<Bar>,
    queue: Arc<Queue<Drawn>>,
    paper: Box<dyn Write + Send>,
}

impl Pen {
    fn work(&mut self) {
        loop {
            match self.queue.take(self.bar.as_ref().map(|_| TICK)) {
                Some(Entry::Item(drawn)) => self.put(drawn),
                Some(Entry::Dropped(count)) => {
                    let lines = counted(count, "line");
                    self.line(&format!("{:>10} output was stuck, so {lines} cannot be shown", ""));
                }
                None => self.bar.iter_mut().for_each(Bar::tick),
            }
        }
    }

    fn put(&mut self, drawn: Drawn) {
        match drawn {
            Drawn::Phase { phase, detail, total_bytes } => self.begin(phase, &detail, total_bytes),
            Drawn::Position(bytes) => self.bar.iter().for_each(|bar| bar.drawn.set_position(bytes)),
            Drawn::Line(text) => self.line(&text),
            Drawn::Mark { text, goes_on } => self.mark(&text, goes_on),
            Drawn::Question(text) => {
                self.finish();
                let _ = write!(self.paper, "{text}").and_then(|()| self.paper.flush());
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
        self.bar = Some(Bar::new(phase.to_string(), escape(detail), total_bytes));
    }

    /// Draws a line below that of the phase. If the phase goes on, it moves below that line, and leaves nothing there.
    fn mark(&mut self, text: &str, goes_on: bool) {
        let again = self.bar.as_ref().filter(|_| goes_on).map(|bar| (bar.phase.clone(), bar.message.clone()));
        self.finish();
        self.line(text);
        self.bar = again.map(|(phase, message)| Bar { stays: false, ..Bar::new(phase, message, None) });
    }

    fn line(&mut self, text: &str) {
        let mut write = || {
            let _ = writeln!(self.paper, "{text}");
        };
        match &self.bar {
            Some(bar) => bar.drawn.suspend(write),
            None => write(),
        }
    }

    fn finish(&mut self) {
        self.bar.take().into_iter().for_each(Bar::end);
    }
}

/// The line of a phase on a terminal.
struct Bar {
    drawn: ProgressBar,
    line: Line,
    phase: String,
    /// What it is about, whole.
    message: String,
    /// The width that it was fitted to.
    width: usize,
    /// Whether the line is there once the phase is over.
    stays: bool,
}

impl Bar {
    fn new(phase: String, message: String, total_bytes: Option<u64>) -> Self {
        let drawn = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
        drawn.set_prefix(phase.clone());
        let line = if total_bytes.is_some() { Line::Bar } else { Line::Spinner };
        let mut bar = Self { drawn, line, phase, message, width: 0, stays: true };
        bar.tick();
        bar
    }

    /// Moves it, and fits it to a terminal whose width has changed.
    fn tick(&mut self) {
        let width = width();
        if width != self.width {
            self.fit(width);
        }
        self.drawn.tick();
    }

    fn fit(&mut self, width: usize) {
        self.width = width;
        let (template, message) = layout::fit(self.line, &self.message, width);
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.drawn.set_style(style.with_key("left", left));
        }
        self.drawn.set_message(message);
    }

    fn end(mut self) {
        if !self.stays {
            return self.drawn.finish_and_clear();
        }
        self.line = Line::Done;
        self.fit(width());
        self.drawn.finish();
    }
}

/// Returns the width of the terminal.
fn width() -> usize {
    console::Term::stderr().size_checked().map_or(WIDTH, |(_, columns)| columns.into())
}

/// Says how long it will take; nothing where that is not known, or it is all but done.
fn left(state: &ProgressState, text: &mut dyn fmt::Write) {
    let eta = state.eta();
    if eta.as_secs() > 0 {
        let _ = write!(text, "  {:#} left", HumanDuration(eta));
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
