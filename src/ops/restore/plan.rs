//! The plan of a restore: everything that is known before anything is touched. Pure data, which `--dry-run` prints, the
//! question shows, and the procedure follows.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::SnapshotSlot;
use crate::database::fresh::FreshDatabase;
use crate::model::source::Onlooker;

/// Bytes to leave free where the data is, whatever is extracted: what runs there goes on writing.
pub(super) const RESERVE: u64 = 64 << 20;
/// What a member takes on the disk beside its content: its inode and the rest of its last block.
const BYTES_PER_MEMBER: u64 = 4096;

/// What a restore will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    /// The run's id, and that of the safety snapshot.
    pub id: String,
    /// What is restored: `SOURCE/ID`, or a file.
    pub archive: String,
    /// What it was made of, as a person calls it.
    pub of: String,
    /// The database in it: engine and major version.
    pub database: Option<String>,
    /// What it is restored into, as a person calls it.
    pub into: String,
    /// Where that is on the engine's host.
    pub host_path: PathBuf,
    /// Whether that must still be made.
    pub makes: bool,
    /// Containers that will be stopped, in this order.
    pub stops: Vec<String>,
    /// Containers that will be started again, in this order.
    pub starts: Vec<String>,
    /// Containers that the engine would not start again if it, or the machine, restarted while they are stopped, each
    /// with its restart policy.
    pub down_after_reboot: Vec<String>,
    /// What their owners want to be run in them before and after, each as "CONTAINER: before_hold: COMMAND".
    pub own_commands: Vec<String>,
    /// Users that are not running and stay so.
    pub stay_stopped: Vec<String>,
    /// Running containers that can see the data and are left alone.
    pub onlookers: Vec<Onlooker>,
    /// Members of the archive.
    pub members: u64,
    /// Bytes of its files' contents.
    pub bytes: u64,
    /// Bytes needed beside the data that is there.
    pub needed_bytes: u64,
    /// Bytes free there; `None` if it must still be made.
    pub free_bytes: Option<u64>,
    /// Entries that are replaced.
    pub replaces_entries: u64,
    /// Bytes of the files that are replaced.
    pub replaces_bytes: u64,
    /// Bytes that an archive of them takes at most.
    pub safety_needs_bytes: u64,
    /// Whether lack of room makes it remove what is there first; the service is then away for all of it.
    pub in_place: bool,
    /// The replication slots that the snapshot is known to have.
    pub slots: Vec<SnapshotSlot>,
    /// Whether the restored database will be without them.
    pub leaves_out_slots: bool,
    /// The fresh database that is replaced: another one than that of the snapshot, and made after it. `None` if what is
    /// there is none.
    pub fresh: Option<FreshDatabase>,
    /// The safety snapshot of what is replaced, `SOURCE/ID`; `None` for none.
    pub safety: Option<String>,
    /// What is removed from the beginning of the archive's names, and what takes its place.
    pub level: Level,
    /// What is worth knowing beforehand.
    pub warnings: Vec<String>,
}

/// At which level of the target the archive's names go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Level {
    /// What is removed.
    pub strip: PathBuf,
    /// What takes its place.
    pub prefix: PathBuf,
}

impl Level {
    /// Returns how a database that is in `found` gets to be in `wanted`. The end that both share stays, so that what is
    /// beside the database comes along.
    #[must_use]
    pub fn between(found: &Path, wanted: &Path) -> Self {
        let (mut strip, mut prefix) = (found.components(), wanted.components());
        loop {
            let (mut inner_strip, mut inner_prefix) = (strip.clone(), prefix.clone());
            match (inner_strip.next_back(), inner_prefix.next_back()) {
                (Some(a), Some(b)) if a == b => (strip, prefix) = (inner_strip, inner_prefix),
                _ => break,
            }
        }
        Self { strip: strip.as_path().to_owned(), prefix: prefix.as_path().to_owned() }
    }

    /// Returns whether every name stays as it is.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.strip.as_os_str().is_empty() && self.prefix.as_os_str().is_empty()
    }
}

/// Returns the bytes that a tree takes beside the one that is there.
#[must_use]
pub(super) fn needed_bytes(bytes: u64, members: u64) -> u64 {
    bytes.saturating_add(members.saturating_mul(BYTES_PER_MEMBER)).saturating_add(RESERVE)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::same("", "", "", "")]
    #[case::same_below("pgdata", "pgdata", "", "")]
    #[case::foreign_top("backup/x", "", "backup/x", "")]
    #[case::foreign_top_and_below("backup/pgdata", "pgdata", "backup", "")]
    #[case::one_level_up("pgdata", "", "pgdata", "")]
    #[case::one_level_down("", "pgdata", "", "pgdata")]
    #[case::another_name("a/data", "18/docker", "a/data", "18/docker")]
    #[case::deep("var/18/docker", "18/docker", "var", "")]
    fn a_database_comes_to_lie_where_its_server_looks(
        #[case] found: &str,
        #[case] wanted: &str,
        #[case] strip: &str,
        #[case] prefix: &str,
    ) {
        let level = Level::between(found.as_ref(), wanted.as_ref());
        assert_eq!(level, Level { strip: strip.into(), prefix: prefix.into() });
    }
}
