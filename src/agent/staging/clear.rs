//! Removes the stage's tree.
//!
//! Freeing the blocks of a large file in one go makes one large transaction of the file system, and everybody who
//! syncs anything to it waits for that: a database at work. So large files are shortened step by step, and only then
//! everything is removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::{TREE, names, open_directory, state, sync};
use crate::agent::archive::Progress;

/// How much to free at once.
const STEP: u64 = 16 << 20;
/// The pause between two steps, in which others get their turn.
const PAUSE: Duration = Duration::from_millis(4);

/// Removes the tree of the stage at `place`, and its state.
///
/// # Errors
/// When something cannot be removed.
pub fn clear(place: &Path, progress: &mut dyn FnMut(Progress)) -> io::Result<()> {
    let directory = open_directory(place)?;
    state::forget(&directory)?;
    sync::telling(progress, || {
        shorten_all(place.join(TREE));
        names::remove(&directory, TREE.as_ref())
    })
}

/// Shortens every large file. A file that cannot be shortened is removed in one go.
fn shorten_all(tree: PathBuf) {
    let mut directories = vec![tree];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() && metadata.len() > STEP {
                let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
                let file = OpenOptions::new().write(true).custom_flags(flags).open(entry.path());
                if let Err(error) = file.and_then(|file| shorten(&file, metadata.len())) {
                    tracing::debug!(%error, "a file of the stage is removed in one go");
                }
            }
        }
    }
}

fn shorten(file: &File, mut length: u64) -> io::Result<()> {
    while length > STEP {
        length -= STEP;
        file.set_len(length)?;
        sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_the_tree_and_what_is_known_of_it() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join(TREE);
        std::fs::create_dir_all(tree.join("base/1")).unwrap();
        File::create(tree.join("base/1/1259")).unwrap().set_len(3 * STEP + 5).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("base/link")).unwrap();
        std::fs::write(place.path().join("state"), "x").unwrap();
        clear(place.path(), &mut |_| ()).unwrap();
        assert_eq!(place.path().read_dir().unwrap().count(), 0);
        clear(place.path(), &mut |_| ()).unwrap();
    }
}
