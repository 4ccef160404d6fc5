//! Copying trees.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Copies the contents of one directory into another, which it makes; it keeps owners if it may.
pub(super) fn copy_tree(source: &Path, dest: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dest)?;
    keep_owner(source, dest)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let (from, to) = (entry.path(), dest.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&from, &to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
            keep_owner(&from, &to)?;
        }
    }
    std::fs::set_permissions(dest, source.metadata()?.permissions())
}

fn keep_owner(source: &Path, dest: &Path) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        let metadata = source.symlink_metadata()?;
        std::os::unix::fs::chown(dest, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    Ok(())
}
