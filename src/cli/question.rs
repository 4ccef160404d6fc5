//! The question before volsnap changes something, and who may go without it.

use std::io::{self, BufRead as _, IsTerminal as _};

use volsnap::Error;
use volsnap::model::hint::Hint;
use volsnap::ops::Consent;

use crate::render::Ui;

/// Asks whether to execute the plan that was shown.
///
/// # Errors
/// When the answer is not yes.
pub(super) async fn ask(ui: &Ui) -> Result<Consent, Error> {
    ui.question("go ahead? [y/N] ");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(Consent::Execute),
        _ => Err(Error::failed("not confirmed")
            .hint(Hint::advice("type it again, and answer y; --yes goes ahead without asking"))
            .state("nothing was touched")),
    }
}

/// Refuses to go on if there is nobody to ask whether to do `what`.
pub(super) fn refuse_without_terminal(what: &str) -> Result<(), Error> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Error::usage(format!("there is no terminal to ask whether to {what}"))
        .state("nothing was touched")
        .hint(Hint::again(["--dry-run"]).why("only prints the plan"))
        .or(Hint::again(["--yes"]).why("goes ahead without asking")))
}
