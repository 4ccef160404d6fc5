//! Where volsnap keeps things on this machine.
//!
//! Repository: `--repo`, else `VOLSNAP_REPO`, else `/var/backups/volsnap` for root, else
//! `$XDG_DATA_HOME/volsnap`. Journals: `VOLSNAP_STATE_DIR`, else `$XDG_STATE_HOME/volsnap` where that is set, else
//! `/var/lib/volsnap` for root, else `~/.local/state/volsnap`. What is said of the machine's services: `VOLSNAP_CONFIG`,
//! else `/etc/volsnap.toml`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

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

/// What stands for this machine's name in the name of a place.
const HOST: &str = "{host}";
/// The digits of a container's id, which engines give a container for a name.
const CONTAINER_ID: usize = 12;

/// Returns a place, with the name of this machine where it says `{host}`: so each of many machines has its own folder
/// under one name.
///
/// # Errors
/// When this machine has no name that stays the same.
pub(crate) fn place(typed: &Path) -> Result<PathBuf, Error> {
    let Some(text) = typed.to_str().filter(|text| text.contains(HOST)) else { return Ok(typed.to_owned()) };
    let own = || nix::unistd::gethostname().unwrap_or_default();
    let name = set("VOLSNAP_HOSTNAME").unwrap_or_else(own);
    let name = fit_host_name(&name.to_string_lossy()).map_err(|why| {
        Error::usage(format!("use {text} as a repository: {why}")).hint(Hint::advice(
            "export VOLSNAP_HOSTNAME=NAME, with a name that this machine keeps; or write the name where {host} is",
        ))
    })?;
    Ok(text.replace(HOST, &name).into())
}

/// Returns a machine's name as it stands in the name of a place, or why it cannot.
fn fit_host_name(name: &str) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_id = name.len() == CONTAINER_ID && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.is_empty() || name.starts_with("localhost") {
        return Err(format!("the name of this machine, {name:?}, is no name of its own"));
    }
    if is_id {
        return Err(format!(
            "the name of this machine, {name:?}, is a container's, and the next one has another"
        ));
    }
    if !name.bytes().all(is_plain) || name.starts_with(['.', '-']) {
        return Err(format!(
            "the name of this machine, {name:?}, has more than letters, digits, dots and dashes"
        ));
    }
    Ok(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_a_machine_keeps_stands_for_it() {
        assert_eq!(fit_host_name("WEB-1.example.org").unwrap(), "web-1.example.org");
        for (name, why) in [
            ("", "no name of its own"),
            ("localhost.localdomain", "no name of its own"),
            ("3f2a91c07de4", "a container's"),
            ("../etc", "letters"),
            ("a/b", "letters"),
            ("höst", "letters"),
        ] {
            let said = fit_host_name(name).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(place(Path::new("/mnt/nas/volsnap")).unwrap(), Path::new("/mnt/nas/volsnap"));
    }
}
