//! Whether a file system can share the content of files between source and stage: this tries it instead of guessing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// How many names to look at before giving up the search for a file to try.
const NAMES: usize = 2000;
/// Any file up to this size is good enough.
const SMALL: u64 = 64 * 1024;

/// Returns whether a file of the tree at `source` can be shared with a file in `stage`, which has no name and is gone
/// when this returns. A source without content can share nothing.
pub(super) fn is_possible(stage: &File, source: &Path) -> bool {
    let Some(file) = sample(source).and_then(|path| File::open(path).ok()) else { return false };
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let Ok(probe) = openat(stage, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) else { return false };
    rustix::fs::ioctl_ficlone(&probe, &file).is_ok()
}

/// Returns a file of the tree that has content: a small one, because the clone waits for its dirty data.
fn sample(root: &Path) -> Option<PathBuf> {
    let mut directories = vec![root.to_owned()];
    let mut best: Option<(u64, PathBuf)> = None;
    let mut names = 0;
    while let Some(directory) = directories.pop() {
        // A file that vanishes meanwhile is no sample.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            names += 1;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() && metadata.len() > 0 {
                if metadata.len() <= SMALL {
                    return Some(entry.path());
                }
                if best.as_ref().is_none_or(|(size, _)| metadata.len() < *size) {
                    best = Some((metadata.len(), entry.path()));
                }
            }
            if names > NAMES {
                return best.map(|(_, path)| path);
            }
        }
    }
    best.map(|(_, path)| path)
}
