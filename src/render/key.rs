//! What `key` says: whom snapshots are encrypted to, and what an identity opens. An identity itself is never printed.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use volsnap::crypt::Recipients;
use volsnap::ops::key::KeyCheck;

use super::Ui;
use super::text::{counted, escape, size};

/// A new identity, as `key generate --json` prints it: where it is, and its recipient.
#[derive(Debug, Serialize)]
pub(crate) struct NewKeyObject<'a> {
    recipient: String,
    identity_file: &'a Path,
}

impl<'a> NewKeyObject<'a> {
    /// Returns what is printed of a new identity.
    pub(crate) fn new(recipient: &Recipients, path: &'a Path) -> Self {
        Self { recipient: recipient.to_string(), identity_file: path }
    }
}

/// Whom new snapshots are encrypted to, as `key list`, `add`, `remove` and `trust` print it with `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct RecipientsObject<'a> {
    /// Null if nothing is encrypted.
    recipients: Option<&'a Recipients>,
    trusted: bool,
    changed: bool,
}

impl<'a> RecipientsObject<'a> {
    /// Returns what is printed of the recipients.
    pub(crate) fn new(recipients: Option<&'a Recipients>, trusted: bool, changed: bool) -> Self {
        Self { recipients, trusted, changed }
    }
}

/// What an identity opens, as `key check --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct KeyCheckObject<'a> {
    /// The newest encrypted snapshot, which it has opened; null if there is none.
    opened: Option<&'a str>,
    bytes: u64,
    /// Whether it opens what will be encrypted; null if nothing will be.
    opens_new: Option<bool>,
    encrypted: u64,
    not_opened: u64,
}

impl<'a> From<&'a KeyCheck> for KeyCheckObject<'a> {
    fn from(check: &'a KeyCheck) -> Self {
        let (not_opened, encrypted) = check.not_opened;
        Self {
            opened: check.opened.as_deref(),
            bytes: check.bytes,
            opens_new: check.opens_new,
            encrypted,
            not_opened,
        }
    }
}

impl Ui {
    /// Prints the recipient of a new identity, and what to do with that.
    pub(crate) fn key_generated(&self, recipient: &Recipients, path: &Path) {
        self.json(&NewKeyObject::new(recipient, path));
        self.text(|| generated(recipient, path));
    }

    /// Prints whom new snapshots are encrypted to.
    pub(crate) fn keys(&self, recipients: &Recipients, trusted: bool) {
        self.json(&RecipientsObject::new(Some(recipients), trusted, false));
        self.text(|| listed(recipients, trusted));
    }

    /// Prints whom new snapshots are encrypted to from now on.
    pub(crate) fn keys_changed(&self, recipients: &Recipients, changed: bool) {
        self.json(&RecipientsObject::new(Some(recipients), true, changed));
        self.text(|| {
            let head = if changed { "changed: " } else { "nothing changed: " };
            format!("{head}{}", listed(recipients, true))
        });
    }

    /// Prints whom this host believes.
    pub(crate) fn key_trusted(&self, recipients: Option<&Recipients>) {
        self.json(&RecipientsObject::new(recipients, true, true));
        self.text(|| match recipients {
            Some(recipients) => listed(recipients, true),
            None => "this host believes that nothing in the repository is encrypted\n".to_owned(),
        });
    }

    /// Prints what an identity opens.
    pub(crate) fn key_checked(&self, check: &KeyCheck) {
        self.json(&KeyCheckObject::from(check));
        self.text(|| checked(check));
    }
}

/// Returns what is said of a new identity.
pub(crate) fn generated(recipient: &Recipients, path: &Path) -> String {
    format!(
        "recipient {recipient}\n  the identity is in {}: whoever has it reads every snapshot, and without it nobody does\n  \
         move it to where no host that takes snapshots can reach it, and keep a second copy elsewhere\n",
        escape(&path.display().to_string())
    )
}

/// Returns the recipients.
pub(crate) fn listed(recipients: &Recipients, trusted: bool) -> String {
    let count = recipients.count() as u64;
    let mut out = format!("new snapshots are encrypted to {}\n", counted(count, "recipient"));
    for recipient in recipients.iter() {
        let _ = writeln!(out, "  {}", escape(recipient));
    }
    if !trusted {
        out.push_str("  this host does not trust them, and takes no snapshot\n");
    }
    out
}

/// Returns what an identity opens.
pub(crate) fn checked(check: &KeyCheck) -> String {
    let mut out = match &check.opened {
        Some(name) => format!(
            "the identity opens the newest encrypted snapshot, {name}: {} of it were decrypted\n",
            size(check.bytes)
        ),
        None => "there is no encrypted snapshot yet that the identity could be tried on\n".to_owned(),
    };
    let (not_opened, encrypted) = check.not_opened;
    if not_opened > 0 {
        let _ = writeln!(
            out,
            "  it does not open {not_opened} of the {}",
            counted(encrypted, "encrypted snapshot")
        );
    }
    match check.opens_new {
        Some(true) => out.push_str("  it opens what is encrypted from now on\n"),
        Some(false) => {
            out.push_str("  it does NOT open what is encrypted from now on: it is none of the recipients\n");
        }
        None => {}
    }
    out
}
