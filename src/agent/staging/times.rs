//! When the times of a file prove that nobody has written to it since.
//!
//! If a file has the size, times and inode that it had when it was read, nobody has written to it since, except in
//! three gaps; a file in one of them is read again:
//!
//! - **The clock is coarse.** A write may come after the read and have the same time. So a modification within
//!   [`SLACK`] of the read proves nothing.
//! - **A shared mapping moves the time only with its first write to a clean page.** Later writes to the same page
//!   move nothing until the page has been sent to the disk. So every live pass begins with a `syncfs`, after which
//!   each page is clean. A file modified since then proves nothing: one of its pages may have been written to through
//!   a mapping before it was read, and may be written to again. That gap contains the first one, and whatever a crash
//!   of the machine may take back.
//! - **Somebody may have set the clock back.** The clock that nobody can set shows that.
//!
//! Of some file systems none of this is known, and some move no time at all for a mapping (tmpfs). There, no file
//! proves anything.

use std::fs::File;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs};

use crate::agent::tree::Stamp;

/// Coarser than the file times of any file system.
pub(super) const SLACK: Duration = Duration::from_secs(2);
/// How far the two clocks may drift apart, for example while the time is being adjusted.
const DRIFT: Duration = Duration::from_millis(500);

/// The file systems known to move a file's times with the first write to each clean page of a mapping. The first one
/// also covers ext2 and ext3.
const TRUSTED: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// Returns whether the times of files prove anything where `directory` lies.
pub(super) fn trusts_times(directory: &File) -> bool {
    fstatfs(directory).is_ok_and(|stat| TRUSTED.contains(&stat.filesystem_type()))
}

/// The moment after which modifications may have been missed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Synced {
    /// The file system that was synced.
    device: u64,
    slack: Duration,
    wall: SystemTime,
    steady: Instant,
}

impl Synced {
    /// Returns the present moment; take it before syncing the file system of `device`.
    pub(super) fn now(device: u64, slack: Duration) -> Self {
        Self { device, slack, wall: SystemTime::now(), steady: Instant::now() }
    }

    /// Returns whether a file that now has `stamp` and is read now will have another stamp after any later write.
    pub(super) fn proves(&self, stamp: &Stamp) -> bool {
        let steady = self.steady.elapsed();
        let is_steady = SystemTime::now().duration_since(self.wall).is_ok_and(|wall| wall + DRIFT >= steady);
        let Ok(wall) = self.wall.duration_since(UNIX_EPOCH) else { return false };
        let limit = wall.saturating_sub(self.slack);
        let Ok(seconds) = i64::try_from(limit.as_secs()) else { return false };
        let limit = (seconds, i64::from(limit.subsec_nanos()));
        is_steady && stamp.inode.0 == self.device && stamp.mtime < limit && stamp.ctime < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(mtime: SystemTime, ctime: SystemTime) -> Stamp {
        let time = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap();
            (i64::try_from(since.as_secs()).unwrap(), i64::from(since.subsec_nanos()))
        };
        Stamp { inode: (7, 1), size: 1, mtime: time(mtime), ctime: time(ctime) }
    }

    #[test]
    fn only_what_was_old_when_all_was_synced_proves_anything() {
        let now = SystemTime::now();
        let synced = Synced::now(7, SLACK);
        let (old, young) = (now - Duration::from_secs(60), now - Duration::from_secs(1));
        assert!(synced.proves(&stamp(old, old)));
        assert!(!synced.proves(&stamp(young, old)) && !synced.proves(&stamp(old, young)));
        assert!(!synced.proves(&stamp(now + Duration::from_secs(9999), old)));
        assert!(!Synced::now(8, SLACK).proves(&stamp(old, old)), "another file system was not synced");
    }

    #[test]
    fn nothing_is_proved_once_the_clock_was_set_back() {
        let old = SystemTime::now() - Duration::from_secs(600);
        let synced = Synced { wall: SystemTime::now() + Duration::from_secs(60), ..Synced::now(7, SLACK) };
        assert!(!synced.proves(&stamp(old, old)));
    }
}
