//! Where the scenarios play: the options, the working directory, the contestants; and how it is left.

use std::path::PathBuf;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::machine::{command, docker};
use crate::options::Options;
use crate::table::Who;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) options: Options,
    /// Where archives go, and everything else that is made.
    pub(crate) work: PathBuf,
    /// The image of the database.
    pub(crate) image: String,
    /// The new one, and the old one if there is one.
    pub(crate) contestants: Vec<Contestant>,
}

impl Stage {
    pub(crate) fn set(options: Options) -> Result<Self> {
        let work = tempfile::Builder::new().prefix("volsnap-bench.").tempdir_in(&options.dir)?.keep();
        let image =
            std::env::var("VOLSNAP_TEST_IMAGE").unwrap_or_else(|_| "volsnap-test/postgres:15".to_owned());
        let mut contestants = vec![Contestant::new(Who::New, &options.volsnap, &work)?];
        if let Some(old) = &options.against {
            contestants.push(Contestant::new(Who::Old, old, &work)?);
        }
        Ok(Self { options, work, image, contestants })
    }

    /// The volsnap of this tree.
    pub(crate) fn new_one(&self) -> &Contestant {
        &self.contestants[0]
    }

    /// A name for a container or a volume of this run.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("volsnap-bench-{}{suffix}", std::process::id())
    }

    /// The label of all that is gone when this run is over.
    pub(crate) fn label(&self) -> String {
        format!("volsnap.bench={}", std::process::id())
    }

    /// Where a file system of another kind is mounted.
    pub(crate) fn filesystem(&self) -> PathBuf {
        self.work.join("fs")
    }

    pub(crate) fn rounds(&self) -> usize {
        self.options.rounds
    }

    /// Removes all that this run has made, but for volumes of data. Safe to call twice.
    pub(crate) fn tidy(&self) {
        let filter = format!("label={}", self.label());
        for (list, remove) in [
            (&["ps", "-aq"][..], &["rm", "-f", "-v"][..]),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
            (&["network", "ls", "-q"], &["network", "rm"]),
        ] {
            let found = docker(list.iter().copied().chain(["--filter", &filter])).unwrap_or_default();
            if !found.is_empty() {
                let _ = command("docker").args(remove).args(found.lines()).output();
            }
        }
        if self.filesystem().exists() {
            let _ = command("umount").arg(self.filesystem()).output();
        }
        let _ = command("rm").args(["-rf", "--one-file-system"]).arg(&self.work).output();
    }
}

/// Returns everything in the order of a round: turned a place further, and every second time backwards, so that what
/// drifts (a disk, a cache, a log that grows) helps nobody.
pub(crate) fn in_turn<T>(items: impl IntoIterator<Item = T>, round: usize) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    let count = items.len().max(1);
    items.rotate_left(round / 2 % count);
    if round % 2 == 1 {
        items.reverse();
    }
    items
}
