//! What the engine's host calls our files, and we call its: the same, where volsnap runs on that host.

use std::path::{Path, PathBuf};

use super::Context;
use crate::model::container::EngineInfo;
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;

impl Context {
    /// Returns what the engine's host calls a path of ours; `None` if it does not have it.
    pub(super) fn host_path(&self, engine: &EngineInfo, path: &Path) -> Option<PathBuf> {
        match &self.own {
            Some(own) => own.host_path(path),
            None => engine.local.then(|| path.to_owned()),
        }
    }

    /// Returns what we call a path of the engine's host; `None` if it is not seen from our container.
    pub(super) fn seen_here(&self, host_path: &Path) -> Option<PathBuf> {
        self.own.as_ref().map_or_else(|| Some(host_path.to_owned()), |own| own.path_here(host_path))
    }

    /// Returns what we call a path of the engine's host that we named to it ourselves.
    pub(super) fn path_here(&self, host_path: &Path) -> PathBuf {
        self.seen_here(host_path).unwrap_or_else(|| host_path.to_owned())
    }

    /// Returns what the engine's host calls a directory that is made here for it.
    ///
    /// # Errors
    /// When it lies in our own container alone, with what mends that.
    pub(super) fn host_path_to_make(&self, path: &Path) -> Result<PathBuf> {
        let Some(own) = &self.own else { return Ok(path.to_owned()) };
        let name = &own.container.name;
        own.host_path(path).ok_or_else(|| {
            let path = path.to_string_lossy();
            Error::usage(format!(
                "{path} is a path of the container {name}, in which volsnap runs, and of no directory of the engine's host"
            ))
            .state("nothing was touched")
            .hint(Hint::advice(format!(
                "mount a directory of the host there, or above, with `-v {}` behind docker run",
                shell_quote(&format!("{path}:{path}"))
            )))
        })
    }
}
