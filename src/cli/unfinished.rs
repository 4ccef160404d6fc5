//! What everybody who looks must know first: a service that a run holds, or that a dead one has not brought back.
//!
//! It is said on standard error before anything else. A service that a dead run has left down makes the command end with
//! 4, once its own output is complete; one that a living run holds is no failure, since that run brings it back.

use volsnap::ops::recover::{Survey, look};

use super::Global;
use super::exit::Exit;
use crate::render::Ui;

/// Looks at the state directory and says what is away; nothing if it cannot be read.
pub(super) fn say_first(global: &Global, ui: &Ui) -> Exit {
    match global.state_directory().and_then(|state| look(&state)) {
        Ok(survey) => say(global, ui, &survey),
        Err(error) => {
            tracing::info!(%error, "unfinished runs are not looked for");
            Exit::Done
        }
    }
}

/// Says what is away, and what in the state directory cannot be told.
pub(super) fn say(global: &Global, ui: &Ui, survey: &Survey) -> Exit {
    // Where no engine can be chosen, a command names the one that it is for.
    let here = global.engine().map(|chosen| chosen.address).unwrap_or_default();
    let (monitor, mut exit) = (ui.monitor(), Exit::Done);
    for run in &survey.runs {
        if let Some(notice) = run.notice(&here) {
            monitor.warning(notice);
        }
        if run.has_left_down() {
            exit = Exit::NotPutBack;
        }
    }
    for strange in &survey.strange {
        monitor.warning(strange.notice());
    }
    ui.finish_progress();
    exit
}
