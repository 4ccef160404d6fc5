//! `key`: who can open what is kept here.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use volsnap::Error;
use volsnap::crypt::Recipients;
use volsnap::model::hint::Hint;
use volsnap::ops::key;

use super::exit::Exit;
use super::{Global, keys};
use crate::render::Ui;

/// Make keys, and say who can open what is kept here
///
/// An encrypted repository has recipients, which are public: every new snapshot is encrypted to all of them, and each of
/// their identities opens it. No identity is needed to take, list, copy, verify or prune snapshots, only to look into them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an identity, and print its recipient
    ///
    /// Whoever has the identity reads every snapshot; whoever loses it reads none. Keep it off the hosts that take snapshots.
    Generate {
        /// The new file for the identity; only its owner may read it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show whom new snapshots are encrypted to
    List,
    /// Encrypt new snapshots to one more recipient
    Add {
        /// A recipient that begins with age1, or a public key of ssh
        recipient: String,
    },
    /// Encrypt new snapshots to one recipient less; those that are there stay as they are
    Remove {
        /// The recipient
        recipient: String,
        /// Even if one recipient alone is left
        #[arg(long)]
        single_key: bool,
    },
    /// Prove that your identity opens the newest snapshot, by decrypting some of it
    Check,
    /// Believe on this host whom the repository is encrypted to by now
    ///
    /// A host encrypts to no others than those that it knows, since whoever can write to the repository can change them. Look
    /// at `volsnap key list` first.
    Trust,
}

/// Does what was asked for.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    match args.what {
        What::Generate { output } => {
            let recipient = key::generate(&output, global.clock().now())?;
            ui.key_generated(&recipient, &output);
        }
        What::List => {
            let repository = global.repository().await?;
            let recipients = key::recipients_of(&repository)?;
            let trusted = global.trust()?.check(&repository);
            if let Err(error) = &trusted {
                ui.error(error);
            }
            ui.keys(recipients, trusted.is_ok());
            return Ok(Exit::of_look(trusted.is_ok(), true).into());
        }
        What::Add { recipient } => change(global, &recipient, Change::Add, ui).await?,
        What::Remove { recipient, single_key } => {
            change(global, &recipient, Change::Remove { single_key }, ui).await?;
        }
        What::Check => return check(global, ui).await,
        What::Trust => {
            let repository = global.repository().await?;
            refuse_said()?;
            global.trust()?.trust(&repository, global.clock().now())?;
            ui.key_trusted(repository.recipients());
        }
    }
    Ok(ExitCode::SUCCESS)
}

enum Change {
    Add,
    Remove { single_key: bool },
}

async fn change(global: &Global, recipient: &str, how: Change, ui: &Ui) -> Result<(), Error> {
    let named = keys::typed_recipients(&[recipient.to_owned()])?;
    let named: Recipients = named.ok_or_else(|| {
        Error::usage("no recipient was given")
            .hint(Hint::advice("name one: it begins with age1, or is a public key of ssh"))
    })?;
    let (mut repository, now) = (global.repository().await?, global.clock().now());
    refuse_said()?;
    let trust = global.trust()?;
    let changed = match how {
        Change::Add => key::add(&mut repository, &named, &trust, now).await?,
        Change::Remove { single_key } => {
            key::remove(&mut repository, &named, &trust, single_key, now).await?
        }
    };
    ui.keys_changed(key::recipients_of(&repository)?, changed);
    Ok(())
}

/// Opens the newest snapshot.
async fn check(global: &Global, ui: &Ui) -> Result<ExitCode, Error> {
    let identities = keys::needed_identities().await?;
    let repository = global.repository().await?;
    let found = key::check(&repository, &identities).await?;
    ui.key_checked(&found);
    // What comes next is not opened by it, or nothing was there to prove it with.
    let proves_all = found.opened.is_some() && found.opens_new != Some(false);
    Ok(Exit::of_look(true, proves_all).into())
}

/// Refuses to change what the environment says: it would go on saying the same.
fn refuse_said() -> Result<(), Error> {
    match keys::said_recipients()? {
        None => Ok(()),
        Some(_) => Err(Error::usage("VOLSNAP_RECIPIENTS says whom to encrypt to, and would go on saying it")
            .state("nothing was changed")
            .hint(
                Hint::shell("unset VOLSNAP_RECIPIENTS VOLSNAP_RECIPIENTS_FILE")
                    .why("then type this command again"),
            )),
    }
}
