//! The plan of a snapshot: everything that is known before anything is touched. Pure data, which `--dry-run` prints and
//! the procedure follows.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::agent::protocol::StageRoom;
use crate::archive::Codec;
use crate::model::manifest::{Capture, Quiesce};
use crate::model::plural::size;
use crate::model::source::Onlooker;

/// Time to stop and start a database that has little to write, milliseconds (measured: 1.3 s to stop,
/// 0.4 s to start and answer).
const STOP_AND_START_MS: u64 = 2_000;
/// Time to freeze containers and to let them go on, milliseconds.
const FREEZE_MS: u64 = 100;
/// Time of a final pass over what changed in the moment before, milliseconds (measured: 0.27 s).
const FINAL_PASS_MS: u64 = 300;
/// Bytes read in a millisecond if every file must be read again (measured: 1.2 GB/s).
const REREAD_BYTES_PER_MS: u64 = 1_200_000;
/// Less data than this is archived in the time that a final pass takes.
const TOO_SMALL_TO_STAGE: u64 = 64 << 20;
/// Bytes to leave free where a stage lies: what runs there goes on writing.
pub(super) const STAGE_RESERVE: u64 = 64 << 20;
/// What a member takes on the disk beside its content: its inode and the rest of its last block.
const STAGE_BYTES_PER_MEMBER: u64 = 4096;
/// Bytes of raw data archived in a millisecond, if no earlier snapshot tells better (measured on two cores: 450 to 580
/// MB/s).
const USUAL_BYTES_PER_MS: u64 = 350_000;
/// What tar adds to each member at most: header, padding, and an extended header with its padding.
const TAR_BYTES_PER_MEMBER: u64 = 3 * 1024;
/// What the file list holds of a member at most, compressed.
const LIST_BYTES_PER_MEMBER: u64 = 256;

/// What a snapshot will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The snapshot's id.
    pub id: String,
    /// The source's key in the repository.
    pub source: String,
    /// What a person calls it.
    pub title: String,
    /// Where the data is on the engine's host.
    pub host_path: PathBuf,
    /// The database found there: engine and major version.
    pub database: Option<String>,
    /// The data directory, relative to the source's root.
    pub data_directory: Option<PathBuf>,
    /// How writers are held still.
    pub quiesce: Quiesce,
    /// How bytes are taken.
    pub capture: Capture,
    /// Why they are taken so, in words.
    pub capture_reason: String,
    /// Where the stage lies: a volume's name, or a directory.
    pub stage: Option<String>,
    /// Bytes that the stage needs at most.
    pub stage_needed_bytes: Option<u64>,
    /// Bytes free where the stage lies.
    pub stage_free_bytes: Option<u64>,
    /// How the archive is compressed.
    pub codec: Codec,
    /// Containers that will be stopped, in this order.
    pub stops: Vec<String>,
    /// Containers that will be frozen together, and then go on.
    pub freezes: Vec<String>,
    /// Containers that will be started again, in this order.
    pub starts: Vec<String>,
    /// Containers that the engine would not start again if it, or the machine, restarted while they are stopped, each
    /// with its restart policy.
    pub down_after_reboot: Vec<String>,
    /// What their owners want to be run in them before and after, each as "CONTAINER: before_hold: COMMAND".
    pub own_commands: Vec<String>,
    /// Users of the source that are not running and stay so.
    pub stay_stopped: Vec<String>,
    /// Running containers that can see the data and are left alone.
    pub onlookers: Vec<Onlooker>,
    /// Entries in the source.
    pub entries: u64,
    /// Bytes of its files' contents.
    pub raw_bytes: u64,
    /// Bytes that the repository may need at worst.
    pub needed_bytes: u64,
    /// Bytes free in the repository, if known.
    pub free_bytes: Option<u64>,
    /// Milliseconds that the service is expected to be away; 0 when nothing is held.
    pub expected_downtime_ms: u64,
    /// Where the archive will be.
    pub archive: PathBuf,
}

/// Returns the bytes that an archive of `raw_bytes` in `entries` members takes at worst, if nothing of it can be
/// compressed.
#[must_use]
pub fn worst_case_bytes(raw_bytes: u64, entries: u64) -> u64 {
    // Compressed blocks of random data grow by less than 0.1 %.
    raw_bytes + raw_bytes / 1000 + (entries + 1) * (TAR_BYTES_PER_MEMBER + LIST_BYTES_PER_MEMBER) + (1 << 20)
}

/// How the user asks for bytes to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureChoice {
    /// Staged if there is room and it holds the service for less time, else direct.
    #[default]
    Auto,
    /// [`Capture::Direct`].
    Direct,
    /// [`Capture::Staged`], or not at all.
    Staged,
}

/// What decides how long the service is away.
#[derive(Debug, Clone, Copy)]
pub struct DowntimeEstimate {
    /// How writers are held still.
    pub quiesce: Quiesce,
    /// Bytes of the files' contents.
    pub raw_bytes: u64,
    /// The rate of an earlier snapshot of this source: bytes, and the milliseconds they took.
    pub measured: Option<(u64, u64)>,
}

impl DowntimeEstimate {
    /// Returns how long the service is expected to be away while the archive is written, milliseconds.
    #[must_use]
    pub fn direct_ms(self) -> u64 {
        let archive_ms = match self.measured {
            Some((bytes, ms)) if bytes > 0 && ms > 0 => {
                let ms = u128::from(self.raw_bytes) * u128::from(ms) / u128::from(bytes);
                u64::try_from(ms).unwrap_or(u64::MAX)
            }
            _ => self.raw_bytes / USUAL_BYTES_PER_MS,
        };
        self.hold_ms().saturating_add(archive_ms)
    }

    /// Returns how long the service is expected to be away for the final pass into a stage, milliseconds.
    #[must_use]
    pub fn staged_ms(self, trusts_times: bool) -> u64 {
        let reread_ms = if trusts_times { 0 } else { self.raw_bytes / REREAD_BYTES_PER_MS };
        self.hold_ms() + FINAL_PASS_MS + reread_ms
    }

    fn hold_ms(self) -> u64 {
        match self.quiesce {
            Quiesce::Stop => STOP_AND_START_MS,
            Quiesce::Pause => FREEZE_MS,
            Quiesce::Native | Quiesce::None => 0,
        }
    }
}

/// The stage that a capture could use.
#[derive(Debug, Clone, Copy)]
pub struct StageOutlook<'a> {
    /// What is known of its place.
    pub room: &'a StageRoom,
    /// Bytes that the source's files occupy on disk.
    pub disk_bytes: u64,
    /// Entries in the source.
    pub entries: u64,
    /// Bytes that the repository may need at worst.
    pub repository_needs: u64,
    /// Bytes free in the repository, if known.
    pub repository_free: Option<u64>,
}

impl StageOutlook<'_> {
    /// Returns the bytes that the stage needs at most, with what the source may grow by meanwhile.
    #[must_use]
    pub fn needed_bytes(self) -> u64 {
        let growth = self.disk_bytes / 20 + self.entries * STAGE_BYTES_PER_MEMBER;
        let there = if self.room.warm { self.room.staged_bytes.min(self.disk_bytes) } else { 0 };
        let copied = if self.room.reflink { 0 } else { self.disk_bytes - there };
        copied + growth + STAGE_RESERVE
    }

    /// Returns whether it fits beside what the repository needs.
    fn fits(self) -> bool {
        let free = self.room.free_bytes;
        // Two places with the same room free count as one: if that is wrong, we only ask for more room.
        let is_one = self.repository_free.is_some_and(|other| free.abs_diff(other) <= free / 100);
        let beside = if is_one { self.repository_needs } else { 0 };
        free >= self.needed_bytes().saturating_add(beside)
            && self.room.free_names.is_none_or(|names| names > self.entries + self.entries / 20)
    }
}

/// How bytes are taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// How.
    pub capture: Capture,
    /// Why, in words.
    pub reason: String,
    /// Whether lack of room is the only reason.
    pub no_room: bool,
}

/// Chooses how bytes are taken; `stage` is `None` if nothing is held, or no stage is asked for.
#[must_use]
pub fn choose(choice: CaptureChoice, estimate: DowntimeEstimate, stage: Option<StageOutlook<'_>>) -> Chosen {
    let chosen = |capture, reason: &str| Chosen { capture, reason: reason.to_owned(), no_room: false };
    let Some(stage) = stage else {
        let reason =
            if choice == CaptureChoice::Direct { "as asked for" } else { "nothing is held meanwhile" };
        return chosen(Capture::Direct, reason);
    };
    let (direct_ms, staged_ms) = (estimate.direct_ms(), estimate.staged_ms(stage.room.trusts_times));
    let no_room = || Chosen {
        capture: Capture::Direct,
        reason: format!(
            "a stage may need {}, and {} is free where it would lie",
            size(stage.needed_bytes()),
            size(stage.room.free_bytes)
        ),
        no_room: true,
    };
    match choice {
        CaptureChoice::Direct => chosen(Capture::Direct, "as asked for"),
        CaptureChoice::Staged if stage.fits() => chosen(Capture::Staged, "as asked for"),
        CaptureChoice::Auto
            if estimate.raw_bytes < TOO_SMALL_TO_STAGE
                || (stage.room.trusts_times && staged_ms >= direct_ms) =>
        {
            chosen(Capture::Direct, "it is small: archived as fast as a stage is brought up to date")
        }
        CaptureChoice::Auto if staged_ms >= direct_ms => {
            chosen(Capture::Direct, "every file would have to be read again while the service is held")
        }
        CaptureChoice::Auto if stage.fits() => Chosen {
            capture: Capture::Staged,
            reason: format!(
                "away for about {:.1} s in place of {:.1} s",
                seconds(staged_ms),
                seconds(direct_ms)
            ),
            no_room: false,
        },
        CaptureChoice::Auto | CaptureChoice::Staged => no_room(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Returns how long after the stop a capture must be given up, so that the service answers again within `max_downtime`.
#[must_use]
pub fn capture_budget(max_downtime: Duration) -> Duration {
    max_downtime.saturating_sub(Duration::from_millis(STOP_AND_START_MS).min(max_downtime / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_case_is_more_than_the_data_even_when_there_is_none() {
        assert!(worst_case_bytes(0, 0) > 0);
        assert!(worst_case_bytes(1 << 30, 1000) > (1 << 30) + 1000 * 1536);
    }

    #[test]
    fn a_measured_rate_beats_the_usual_one() {
        let away = |raw_bytes, measured| {
            DowntimeEstimate { quiesce: Quiesce::Stop, raw_bytes, measured }.direct_ms()
        };
        assert_eq!(away(1_000_000, Some((500_000, 1_000))), 2_000 + 2_000);
        assert_eq!(away(700_000_000, None), 2_000 + 2_000);
        assert_eq!(away(700_000_000, Some((0, 0))), 2_000 + 2_000);
    }

    const GB: u64 = 1_000_000_000;

    /// Chooses for this many bytes, with this much room for the stage.
    fn chosen(choice: CaptureChoice, raw_bytes: u64, change: impl FnOnce(&mut StageRoom)) -> (Capture, bool) {
        let mut room = StageRoom { free_bytes: 20 * GB, trusts_times: true, ..StageRoom::default() };
        change(&mut room);
        let estimate = DowntimeEstimate { quiesce: Quiesce::Stop, raw_bytes, measured: None };
        let stage = StageOutlook {
            room: &room,
            disk_bytes: raw_bytes,
            entries: 1000,
            repository_needs: worst_case_bytes(raw_bytes, 1000),
            repository_free: Some(7 * GB),
        };
        let chosen = choose(choice, estimate, Some(stage));
        (chosen.capture, chosen.no_room)
    }

    #[test]
    fn auto_stages_what_is_large_where_there_is_room_for_it() {
        let auto = CaptureChoice::Auto;
        assert_eq!(chosen(auto, 3 * GB, |_| ()), (Capture::Staged, false));
        assert_eq!(chosen(auto, 60_000_000, |_| ()), (Capture::Direct, false));
        assert_eq!(chosen(auto, 3 * GB, |room| room.free_bytes = 3 * GB), (Capture::Direct, true));
        assert_eq!(chosen(auto, 3 * GB, |room| room.free_names = Some(1000)), (Capture::Direct, true));
        assert_eq!(chosen(CaptureChoice::Staged, 60_000_000, |_| ()), (Capture::Staged, false));
        assert_eq!(chosen(CaptureChoice::Direct, 3 * GB, |_| ()), (Capture::Direct, false));
    }

    #[test]
    fn a_stage_that_shares_its_disk_with_the_repository_needs_room_for_both() {
        let free = |bytes| move |room: &mut StageRoom| room.free_bytes = bytes;
        assert_eq!(chosen(CaptureChoice::Auto, 4 * GB, free(7 * GB)), (Capture::Direct, true));
        assert_eq!(chosen(CaptureChoice::Auto, 3 * GB, free(7 * GB)), (Capture::Staged, false));
    }

    #[test]
    fn what_is_shared_or_kept_needs_no_room_again() {
        let shares = |room: &mut StageRoom| (room.free_bytes, room.reflink) = (GB, true);
        assert_eq!(chosen(CaptureChoice::Staged, 3 * GB, shares), (Capture::Staged, false));
        let kept =
            |room: &mut StageRoom| (room.free_bytes, room.warm, room.staged_bytes) = (GB, true, 3 * GB);
        assert_eq!(chosen(CaptureChoice::Staged, 3 * GB, kept), (Capture::Staged, false));
    }

    #[test]
    fn where_times_prove_nothing_the_final_pass_is_as_long_as_reading_everything() {
        let estimate = DowntimeEstimate { quiesce: Quiesce::Pause, raw_bytes: 12 * GB, measured: None };
        assert_eq!(estimate.staged_ms(true), 400);
        assert_eq!(estimate.staged_ms(false), 10_400);
    }

    #[test]
    fn a_short_downtime_leaves_a_part_of_itself_for_the_start() {
        assert_eq!(capture_budget(Duration::from_secs(60)), Duration::from_secs(58));
        assert_eq!(capture_budget(Duration::from_secs(4)), Duration::from_secs(3));
    }
}
