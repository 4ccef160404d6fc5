//! What is seen of a procedure while it runs: a bar on a terminal, plain lines elsewhere.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use volsnap::model::event::{Event, Monitor, Phase};

use super::text::{duration, escape};

const BAR: &str =
    "{prefix:>10} {msg} {bar:24} {bytes:>10} of {total_bytes}  {binary_bytes_per_sec}  {eta} left";
const SPINNER: &str = "{prefix:>10} {msg} {spinner}";
const DONE: &str = "{prefix:>10} {msg}";

/// Draws a procedure.
pub(crate) struct Progress {
    draw: bool,
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Returns what draws a bar (or prints lines), or keeps quiet.
    pub(crate) fn new(draw: bool, quiet: bool) -> Self {
        Self { draw, quiet, bar: Mutex::new(None) }
    }

    /// Takes away the bar; the line of what it showed stays.
    pub(crate) fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            restyle(&bar, DONE);
            bar.finish();
        }
    }

    /// Prints a line to standard error, above the bar.
    pub(crate) fn line(&self, text: &str) {
        let write = || {
            let _ = writeln!(io::stderr().lock(), "{text}");
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Prints what need not be read where only results are wanted.
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Prints a line that is not overlooked among the others.
    fn stand_out(&self, text: &str) {
        let (bold, plain) = if self.draw { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("{bold}{:>10} {text}{plain}", ">>>"));
    }

    fn begin(&self, phase: Phase, detail: &str, total_bytes: Option<u64>) {
        if self.quiet {
            return;
        }
        if !self.draw {
            self.line(format!("{:>10} {}", phase.to_string(), escape(detail)).trim_end());
            return;
        }
        self.finish();
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
        restyle(&bar, if total_bytes.is_some() { BAR } else { SPINNER });
        bar.set_prefix(phase.to_string());
        bar.set_message(escape(detail));
        bar.enable_steady_tick(Duration::from_millis(100));
        *self.bar() = Some(bar);
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn restyle(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Phase { phase, detail, total_bytes } => self.begin(phase, &detail, total_bytes),
            Event::Progress { bytes, .. } => {
                if let Some(bar) = &*self.bar() {
                    bar.set_position(bytes);
                }
            }
            Event::Held if !self.quiet => self.stand_out("the service is held from now on"),
            Event::Released { downtime } if !self.quiet => {
                self.stand_out(&format!("the service answers again, after {}", duration(downtime)));
            }
            Event::Warning(text) => self.line(&format!("{:>10} {}", "warning", escape(&text))),
            Event::Note(text) if !self.quiet => self.line(&format!("{:>10} {}", "", escape(&text))),
            Event::Held | Event::Released { .. } | Event::Note(_) => {}
        }
    }

    fn step(&self, step: &'static str) {
        tracing::debug!(step);
    }
}

/// Writes the log above the bar.
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
