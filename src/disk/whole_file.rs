//! Small files that are there whole or not at all.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde::Serialize;

/// Writes a value as JSON in the place of whatever is at `path`, durably; its directory is made where there is none.
///
/// # Errors
/// When it cannot be written; what was there before is there still.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    // Nobody else is to write there: a journal below a directory in which others can is not believed.
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_made_for_it_is_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        write_json(&root.path().join("state/facts/db.json"), &7).unwrap();
        for directory in ["state", "state/facts"] {
            let mode = root.path().join(directory).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{directory}");
        }
        assert_eq!(std::fs::read(root.path().join("state/facts/db.json")).unwrap(), b"7");
    }
}
