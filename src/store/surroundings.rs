//! Where the settings of a store elsewhere are read from.
//!
//! A provider reads only variables that begin with its own prefix: another program's token never leaves the machine. A
//! secret may come in a file, which the variable with `_FILE` behind its name names.

use std::path::Path;

/// Where settings are read from: the process's own environment and files, or a test's.
pub trait Surroundings {
    /// Returns a variable's value.
    fn variable(&self, name: &str) -> Option<String>;

    /// Returns a file's text.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &Path) -> std::io::Result<String>;
}

/// The environment and the files of this process.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// The variables of one provider, and no others.
pub(super) struct Variables<'a> {
    pub(super) around: &'a dyn Surroundings,
    /// How their names begin.
    pub(super) prefix: &'static str,
}

impl Variables<'_> {
    /// Returns what a variable holds; nothing if it is empty.
    pub(super) fn plain(&self, name: &str) -> Option<String> {
        debug_assert!(name.starts_with(self.prefix) || name == "HOME");
        self.around.variable(name).filter(|value| !value.is_empty())
    }

    /// Returns what a variable holds, or the file that the variable with `_FILE` behind its name names.
    pub(super) fn secret(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(value) = self.plain(name) {
            return Ok(Some(value));
        }
        let Some(path) = self.plain(&format!("{name}_FILE")) else { return Ok(None) };
        let read = self.around.read(Path::new(&path));
        let text =
            read.map_err(|error| format!("{name}_FILE names {path}, which cannot be read: {error}"))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("{name}_FILE names {path}, which is empty"));
        }
        Ok(Some(text.to_owned()))
    }
}
