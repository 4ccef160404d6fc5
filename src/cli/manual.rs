//! `completions` and `man`: what a shell and a manual want to know of the command line.

use std::io;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use volsnap::Error;
use volsnap::model::hint::Hint;

use super::Cli;

/// Print the completions of a shell
///
/// For example: volsnap completions bash > /etc/bash_completion.d/volsnap
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Print a manual page
///
/// For example: volsnap man > volsnap.1; volsnap man snapshot > volsnap-snapshot.1
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The command that the page is of, such as `snapshot` or `install recover` [default: volsnap itself]
    command: Vec<String>,
}

/// Prints completions.
pub(super) fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), "volsnap", &mut text);
    print(&text)
}

/// Prints a manual page.
pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Error> {
    let (mut command, mut name) = (shown(), "volsnap".to_owned());
    command.build();
    for word in &args.command {
        let Some(inner) = command.find_subcommand(word).filter(|inner| !inner.is_hide_set()) else {
            return Err(Error::usage(format!("there is no command {word:?}"))
                .hint(Hint::volsnap(["--help"]).why("says what there is")));
        };
        name = format!("{name}-{}", inner.get_name());
        command = inner.clone();
    }
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command).title(name);
    page.render(&mut text).map_err(|error| Error::failed("write the manual page").with_source(error))?;
    Ok(print(&text))
}

/// Returns the command without those that are not for people.
fn shown() -> Command {
    let command = Cli::command();
    let hidden: Vec<_> = command
        .get_subcommands()
        .filter(|one| one.is_hide_set())
        .map(|one| one.get_name().to_owned())
        .collect();
    let mut kept = Command::new("volsnap").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_about() {
        kept = kept.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        kept = kept.long_about(about.clone());
    }
    if let Some(help) = command.get_after_long_help() {
        kept = kept.after_long_help(help.clone());
    }
    let visible = command.get_subcommands().filter(|one| !hidden.iter().any(|name| name == one.get_name()));
    kept.args(command.get_arguments().cloned()).subcommands(visible.cloned())
}

/// Prints to standard output; a closed one is nobody's failure.
fn print(text: &[u8]) -> ExitCode {
    let _ = io::Write::write_all(&mut io::stdout().lock(), text);
    ExitCode::SUCCESS
}
