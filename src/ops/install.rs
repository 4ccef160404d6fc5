//! Installs what recovers at boot: a systemd unit that runs `volsnap recover` once the engine is there.
//!
//! A machine that goes down in the middle of a run takes command and guard with it, and an engine does not start at boot
//! what was stopped before. So somebody has to run `recover` then. The unit is written whole or not at all; to install
//! what is installed changes nothing. A file of the same name that is not ours, or a link, is neither replaced nor
//! removed.

use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::quote::{printable, shell_quote};

/// The unit's name.
pub const RECOVER_UNIT: &str = "volsnap-recover.service";
/// How every unit of ours begins.
const MARK: &str = "# Written by `volsnap install recover`";
const UNITS: &str = "etc/systemd/system";
const WANTED_BY: &str = "multi-user.target.wants";
/// Where a systemd that runs this machine has its things.
const BOOTED: &str = "run/systemd/system";

/// What the unit is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverUnit {
    /// The program.
    pub executable: PathBuf,
    /// The state directory, whose journals it finishes.
    pub state: PathBuf,
    /// The engine's address, as it was given; `None` for the default.
    pub host: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installed {
    /// It is written, and the next boot runs it.
    Installed,
    /// It was there already, the very same.
    Unchanged,
    /// It is gone.
    Removed,
    /// It was not there.
    Absent,
}

impl RecoverUnit {
    /// Returns the text of the unit.
    ///
    /// # Errors
    /// When a name cannot be written into a unit.
    pub fn text(&self) -> Result<String> {
        let state = word(&format!("VOLSNAP_STATE_DIR={}", utf8(&self.state)?))?;
        let mut command = vec![executable(utf8(&self.executable)?)?];
        if let Some(host) = &self.host {
            command.extend(["--host".to_owned(), argument(host)?]);
        }
        command.push("recover".to_owned());
        let after = match &self.host {
            Some(host) if !host.starts_with("unix:") => "network-online.target",
            _ => "docker.service",
        };
        Ok(format!(
            "{MARK}; `volsnap install recover --uninstall` removes it.\n\
             [Unit]\n\
             Description=Start what a dead run of volsnap has left stopped\n\
             Wants={after}\n\
             After={after} docker.socket local-fs.target\n\
             StartLimitIntervalSec=1h\n\
             StartLimitBurst=10\n\
             \n\
             [Service]\n\
             Type=oneshot\n\
             Environment={state}\n\
             ExecStart={}\n\
             # The engine may need longer than systemd thinks.\n\
             Restart=on-failure\n\
             RestartSec=30s\n\
             # 6: done, and something in the state directory is no journal.\n\
             SuccessExitStatus=6\n\
             # Its guard stays until everything is back.\n\
             KillMode=mixed\n\
             OOMPolicy=continue\n\
             TimeoutStartSec=1h\n\
             TimeoutStopSec=15min\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            command.join(" ")
        ))
    }

    /// Writes the unit below `root`, and has systemd run it at every boot.
    ///
    /// # Errors
    /// When a file of somebody else has its place, or it cannot be written; then all is as it was.
    pub fn install(&self, root: &Path) -> Result<Installed> {
        let (text, path, link) = (self.text()?, unit(root), wanted(root));
        let before = ours(&path)?;
        let linked = refuse_other_link(&link)?;
        if linked && before.as_deref() == Some(&*text) {
            return Ok(Installed::Unchanged);
        }
        write(&path, &text).context(|| format!("write {}", path.display()))?;
        if !linked {
            enable(&link).context(|| format!("make {}", link.display()))?;
        }
        Ok(Installed::Installed)
    }
}

/// Removes the unit below `root`.
///
/// # Errors
/// When a file of somebody else has its name, or it cannot be removed.
pub fn uninstall(root: &Path) -> Result<Installed> {
    let (path, link) = (unit(root), wanted(root));
    let there = ours(&path)?.is_some();
    let linked = refuse_other_link(&link)?;
    for (path, _) in [(&link, linked), (&path, there)].into_iter().filter(|(_, there)| *there) {
        std::fs::remove_file(path).context(|| format!("remove {}", path.display()))?;
    }
    Ok(if there || linked { Installed::Removed } else { Installed::Absent })
}

/// Returns whether systemd runs the machine whose root this is, and the unit is not installed there.
#[must_use]
pub fn is_missing(root: &Path) -> bool {
    is_booted(root) && unit(root).symlink_metadata().is_err()
}

/// Returns whether systemd runs the machine whose root this is.
#[must_use]
pub fn is_booted(root: &Path) -> bool {
    root.join(BOOTED).is_dir()
}

/// Returns where the unit is, below `root`.
#[must_use]
pub fn unit(root: &Path) -> PathBuf {
    root.join(UNITS).join(RECOVER_UNIT)
}

/// Returns the link by which a boot finds it.
fn wanted(root: &Path) -> PathBuf {
    root.join(UNITS).join(WANTED_BY).join(RECOVER_UNIT)
}

/// Returns what our unit says; `None` if there is none.
fn ours(path: &Path) -> Result<Option<String>> {
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(|| format!("look at {}", path.display())),
    };
    if kind.is_file() {
        let text = std::fs::read(path).context(|| format!("read {}", path.display()))?;
        if let Some(text) = String::from_utf8(text).ok().filter(|text| text.starts_with(MARK)) {
            return Ok(Some(text));
        }
    }
    Err(foreign(path))
}

/// Returns whether the link is there; refuses what has its place and is none.
fn refuse_other_link(link: &Path) -> Result<bool> {
    match link.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(|| format!("look at {}", link.display())),
        Ok(metadata) if metadata.file_type().is_symlink() => Ok(true),
        Ok(_) => Err(foreign(link)),
    }
}

fn foreign(path: &Path) -> Error {
    let shown = path.to_string_lossy();
    Error::failed(format!("{} is there and was not written by volsnap", printable(&shown)))
        .state("nothing was changed")
        .hint(Hint::shell(format!("ls -l {}", shell_quote(&shown))).why("whose is it?"))
        .or(Hint::volsnap(["install", "recover", "--print"]).why("prints the unit, to be installed by hand"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}

fn enable(link: &Path) -> io::Result<()> {
    let directory = link.parent().unwrap_or(link);
    std::fs::create_dir_all(directory)?;
    symlink(Path::new("..").join(RECOVER_UNIT), link)?;
    std::fs::File::open(directory)?.sync_all()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::usage(format!("{} cannot be written into a unit", path.display()))
            .hint(Hint::advice("give it a path of plain text"))
    })
}

/// Quotes a word for a unit; there, `%` begins a specifier.
fn word(text: &str) -> Result<String> {
    if text.chars().any(char::is_control) {
        return Err(Error::usage(format!("{} cannot be written into a unit", printable(text)))
            .hint(Hint::advice("give it a path of plain text")));
    }
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!("\"{quoted}\""))
}

/// Quotes an argument of a command, in which `$` begins a variable.
fn argument(text: &str) -> Result<String> {
    Ok(word(text)?.replace('$', "$$"))
}

/// Quotes the command itself, in whose path systemd replaces no variable.
fn executable(text: &str) -> Result<String> {
    word(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recover_unit() -> RecoverUnit {
        RecoverUnit {
            executable: "/opt/100 % \"a\"/volsnap".into(),
            state: "/var/lib/vol snap".into(),
            host: Some("unix:///run/$x.sock".to_owned()),
        }
    }

    #[test]
    fn the_unit_runs_this_volsnap_on_this_engine_and_this_state() {
        let text = recover_unit().text().unwrap();
        for line in [
            r#"Environment="VOLSNAP_STATE_DIR=/var/lib/vol snap""#,
            r#"ExecStart="/opt/100 %% \"a\"/volsnap" --host "unix:///run/$$x.sock" recover"#,
            "Wants=docker.service",
            "Type=oneshot",
            "KillMode=mixed",
            "OOMPolicy=continue",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        let plain = RecoverUnit { host: None, ..recover_unit() }.text().unwrap();
        assert!(plain.lines().any(|line| line.ends_with("/volsnap\" recover")), "{plain}");
        let remote = RecoverUnit { host: Some("tcp://db:2375".to_owned()), ..recover_unit() };
        assert!(remote.text().unwrap().contains("Wants=network-online.target"));
        let odd = RecoverUnit { state: "/a\nExecStart=/bin/evil".into(), ..recover_unit() };
        assert!(odd.text().is_err());
    }

    #[test]
    fn it_is_installed_once_and_goes_without_a_trace() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(BOOTED)).unwrap();
        assert!(is_missing(root.path()));
        let changed = RecoverUnit { host: None, ..recover_unit() };
        assert_eq!(recover_unit().install(root.path()).unwrap(), Installed::Installed);
        assert_eq!(recover_unit().install(root.path()).unwrap(), Installed::Unchanged);
        assert_eq!(changed.install(root.path()).unwrap(), Installed::Installed);
        assert!(!is_missing(root.path()));
        assert_eq!(std::fs::read_to_string(wanted(root.path())).unwrap(), changed.text().unwrap());
        let mode = unit(root.path()).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        let names = |path: &Path| std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!((names(&unit(root.path())), names(&wanted(root.path()))), (2, 1));
        assert_eq!(uninstall(root.path()).unwrap(), Installed::Removed);
        assert_eq!(uninstall(root.path()).unwrap(), Installed::Absent);
        assert!(is_missing(root.path()));
        assert_eq!(names(&wanted(root.path())), 0);
    }

    #[test]
    fn what_somebody_else_has_put_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = unit(root.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "[Service]\nExecStart=/bin/true\n").unwrap();
        assert!(recover_unit().install(root.path()).is_err());
        assert!(uninstall(root.path()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Service]\nExecStart=/bin/true\n");
        std::fs::remove_file(&path).unwrap();
        // Masked.
        symlink("/dev/null", &path).unwrap();
        assert!(recover_unit().install(root.path()).is_err());
        assert!(path.symlink_metadata().unwrap().is_symlink());
    }
}
