//! Where volsnap keeps things on this machine.
//!
//! Repository: `--repo`, else `VOLSNAP_REPO`, else `/var/backups/volsnap` for root, else
//! `$XDG_DATA_HOME/volsnap`. Journals: `VOLSNAP_STATE_DIR`, else `$XDG_STATE_HOME/volsnap` where that is set, else
//! `/var/lib/volsnap` for root, else `~/.local/state/volsnap`. What is said of the machine's services: `VOLSNAP_CONFIG`,
//! else `/etc/volsnap.toml`.

use std::ffi::OsString;
use std::path::PathBuf;

use volsnap::Error;
use volsnap::model::hint::Hint;
use volsnap::ops::project_file::MACHINE_FILE;
use volsnap::repository::Places;

/// Returns the default repository.
pub(crate) fn default_repository() -> Result<PathBuf, Error> {
    let places = Places {
        is_root: is_root(),
        xdg_data_home: set("XDG_DATA_HOME").map(PathBuf::from),
        home: set("HOME").map(PathBuf::from),
    };
    places.default_repository().ok_or_else(|| homeless("XDG_DATA_HOME", "--repo DIR"))
}

/// Returns the state directory, which has the journals.
pub(crate) fn state_directory() -> Result<PathBuf, Error> {
    if let Some(directory) = set("VOLSNAP_STATE_DIR") {
        return Ok(directory.into());
    }
    let xdg = set("XDG_STATE_HOME").map(PathBuf::from).filter(|directory| directory.is_absolute());
    if is_root() && xdg.is_none() {
        return Ok("/var/lib/volsnap".into());
    }
    xdg.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")))
        .map(|state| state.join("volsnap"))
        .ok_or_else(|| homeless("XDG_STATE_HOME", "VOLSNAP_STATE_DIR=DIR"))
}

/// Returns the file with what is said of the services of the machine.
pub(crate) fn machine_file() -> PathBuf {
    let named = set("VOLSNAP_CONFIG").map(PathBuf::from);
    // What is relative has no directories above it that could be looked at.
    named.map_or_else(|| MACHINE_FILE.into(), |named| std::path::absolute(&named).unwrap_or(named))
}

/// Returns the user's home directory, where docker keeps its client's settings.
pub(crate) fn home() -> Option<PathBuf> {
    let known = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()?.map(|user| user.dir);
    set("HOME").map(PathBuf::from).or_else(known)
}

fn homeless(variable: &str, instead: &str) -> Error {
    Error::usage(format!("neither {variable} nor HOME is set"))
        .hint(Hint::advice(format!("say where with {instead}")))
}

fn set(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// Returns whether root runs this.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Returns the current directory by the name that the shell has for it, if that is it: Compose calls a project by it,
/// also where it is a symlink.
pub(super) fn current_directory() -> std::io::Result<PathBuf> {
    let real = std::env::current_dir()?;
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|named| named.is_absolute());
    let is_it = |named: &PathBuf| named.canonicalize().is_ok_and(|named| named == real);
    Ok(named.filter(is_it).unwrap_or(real))
}
