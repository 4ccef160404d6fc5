//! Whose a file is: nothing is believed that anybody but root and the user can have written.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

/// What is not believed since others can write it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} can be written by others (mode {mode:04o}), so it is not believed; chmod go-w takes that from them"
)]
pub(crate) struct WritableByOthers {
    what: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    mode: u32,
}

/// Refuses a file, called `it`, that belongs to somebody else than root and the user, or can be written by others.
///
/// # Errors
/// Says why it is not believed.
pub(crate) fn refuse_others(path: &Path, metadata: &Metadata) -> io::Result<()> {
    refuse_others_named(("it", path), metadata)
}

fn refuse_others_named(what: (&str, &Path), metadata: &Metadata) -> io::Result<()> {
    refuse(what, metadata, &[nix::unistd::geteuid().as_raw()], |_| false)
}

/// Refuses a file in a directory, or below one, in which others can put theirs in its place; looks at as many
/// directories as `levels` says.
///
/// # Errors
/// As for [`refuse_others`], or when a directory cannot be looked at.
pub(crate) fn refuse_others_directories(path: &Path, levels: usize) -> io::Result<()> {
    directories(path, levels, refuse_others_named)
}

/// Refuses a file that a person has written, unless it and every directory above it belong to root or the user. One who
/// has become root by sudo is the user still, and may share a file with the group that has no other member.
///
/// # Errors
/// As for [`refuse_others`].
pub(crate) fn refuse_not_of_the_user(path: &Path) -> io::Result<()> {
    let user = nix::unistd::geteuid().as_raw();
    let by_sudo = std::env::var("SUDO_UID").ok().and_then(|user| user.parse::<u32>().ok());
    let users: Vec<u32> = [user].into_iter().chain(by_sudo.filter(|_| user == 0)).collect();
    let check = |what: (&str, &Path), metadata: &Metadata| refuse(what, metadata, &users, is_private_group);
    check(("it", path), &std::fs::metadata(path)?)?;
    directories(path, usize::MAX, check)
}

fn directories(
    path: &Path,
    levels: usize,
    check: impl Fn((&str, &Path), &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    for directory in
        path.ancestors().skip(1).take(levels).filter(|directory| !directory.as_os_str().is_empty())
    {
        let metadata = std::fs::metadata(directory)?;
        // Where the directory is sticky, nobody can replace the file of another.
        if metadata.mode() & 0o1000 == 0 {
            check((&format!("the directory {}", directory.display()), directory), &metadata)?;
        }
    }
    Ok(())
}

fn refuse(
    (what, path): (&str, &Path),
    metadata: &Metadata,
    users: &[u32],
    is_private: impl Fn(&Metadata) -> bool,
) -> io::Result<()> {
    let owner = metadata.uid();
    if owner != 0 && !users.contains(&owner) {
        let said = format!("{what} belongs to another user ({owner}), so it is not believed");
        return Err(io::Error::other(said));
    }
    let by_group = metadata.mode() & 0o020 != 0 && !is_private(metadata);
    if metadata.mode() & 0o002 != 0 || by_group {
        return Err(io::Error::other(WritableByOthers {
            what: what.to_owned(),
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        }));
    }
    Ok(())
}

/// Returns whether the group is that of the owner alone, as systems make one for each user: of the same number and
/// name, without another member.
fn is_private_group(metadata: &Metadata) -> bool {
    let (owner, group) = (metadata.uid(), metadata.gid());
    let user = User::from_uid(Uid::from_raw(owner)).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(group)).ok().flatten();
    match (user, group) {
        (Some(user), Some(group)) => {
            user.gid == group.gid
                && user.name == group.name
                && group.mem.iter().all(|name| *name == user.name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_file_of_the_user_is_believed() {
        let (_directory, path) = file(0o644);
        refuse_not_of_the_user(&path).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not() {
        let (_directory, path) = file(0o646);
        let error = refuse_not_of_the_user(&path).unwrap_err().to_string();
        assert!(error.contains("can be written by others (mode 0646)"), "{error}");
    }

    #[test]
    fn nor_is_what_lies_where_others_can_put_theirs() {
        let (directory, path) = file(0o644);
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let error = refuse_not_of_the_user(&path).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        refuse_not_of_the_user(&path).unwrap();
    }

    #[test]
    fn nor_is_what_belongs_to_another_user() {
        let (_directory, path) = file(0o644);
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
            // Only root can give a file away.
            return;
        }
        let error = refuse_not_of_the_user(&path).unwrap_err().to_string();
        assert!(error.contains("belongs to another user (12345)"), "{error}");
    }
}
