//! The replication slots that the files of a data directory hold: a directory each below `pg_replslot`, with a file
//! `state`.
//!
//! A slot keeps the server from removing write-ahead log that its consumer still wants. In a copy of the files nobody
//! consumes, and the log grows until the disk is full; so a base backup has none (`basebackup.c`, `excludeDirContents`).
//!
//! The layout is that of `ReplicationSlotOnDisk` in `src/backend/replication/slot.c`, and was read off PostgreSQL 13 to
//! 18: 16 bytes of header, then `ReplicationSlotPersistentData`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::control::u32_at;
use super::files;
use crate::model::replication::{SlotKind, StoredSlot};

/// Where the slots are, in a data directory.
const DIRECTORY: &str = "pg_replslot";
/// What a state begins with.
const MAGIC: u32 = 0x0105_1CA1;
/// Bytes of magic, checksum, version and length.
const HEADER: usize = 16;
/// Bytes of magic and checksum, which the checksum does not cover.
const UNCHECKED: usize = 8;
/// Bytes of a name, with the zeros that follow it.
const NAME: usize = 64;
/// Where the parts of a slot are, after the header.
const DATABASE: usize = 64;
const PERSISTENCY: usize = 68;
const RESTART: usize = 80;
/// The slot outlives its session and a crash.
const PERSISTENT: u32 = 0;

/// Returns the slots of a data directory, by name. One whose state cannot be read is there by its name alone.
pub(super) fn stored(data_directory: &Path, version: &str) -> io::Result<Vec<StoredSlot>> {
    let mut slots = Vec::new();
    for (name, path) in directories(data_directory)? {
        slots.extend(match fs::read(path.join("state")) {
            Ok(state) => parse(&state, version).unwrap_or_else(|| Some(StoredSlot::unread(name))),
            Err(_) => Some(StoredSlot::unread(name)),
        });
    }
    slots.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(slots)
}

/// Removes every slot of a data directory that no server runs on, and returns those that the server would have taken
/// up again.
pub(super) fn remove(data_directory: &Path) -> io::Result<Vec<StoredSlot>> {
    let version = files::read_version(&data_directory.join("PG_VERSION"))?;
    let removed = stored(data_directory, &version)?;
    for (_, path) in directories(data_directory)? {
        fs::remove_dir_all(path)?;
    }
    if is_directory(&data_directory.join(DIRECTORY)) {
        fs::File::open(data_directory.join(DIRECTORY))?.sync_all()?;
    }
    Ok(removed)
}

/// Returns the directories of slots, each with its name. A link is followed nowhere.
fn directories(data_directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let place = data_directory.join(DIRECTORY);
    if !is_directory(&place) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(found)
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Reads a state: `None` if it is none, `Some(None)` for a slot that the server forgets when it starts.
fn parse(state: &[u8], version: &str) -> Option<Option<StoredSlot>> {
    let length = usize::try_from(u32_in(state, 12)?).ok()?;
    let whole = state.get(..HEADER.checked_add(length)?)?;
    if u32_in(whole, 0)? != MAGIC || crc32c::crc32c(&whole[UNCHECKED..]) != u32_in(whole, 4)? {
        return None;
    }
    let slot = &whole[HEADER..];
    if u32_in(slot, PERSISTENCY)? != PERSISTENT {
        return Some(None);
    }
    let database = u32_in(slot, DATABASE)?;
    let plugin = text(slot, plugin_at(version)?)?;
    let restart = u64::from_le_bytes(slot.get(RESTART..RESTART + 8)?.try_into().ok()?);
    Some(Some(StoredSlot {
        name: text(slot, 0)?,
        kind: if database == 0 { SlotKind::Physical } else { SlotKind::Logical },
        plugin: Some(plugin).filter(|plugin| !plugin.is_empty()),
        database: Some(database).filter(|database| *database != 0),
        position: (restart != 0).then(|| format!("{:X}/{:X}", restart >> 32, restart & 0xFFFF_FFFF)),
    }))
}

/// Returns where the output plugin's name is: 14 has put two-phase commits before it.
fn plugin_at(version: &str) -> Option<usize> {
    match version.parse::<u32>().ok()? {
        13 => Some(104),
        14..=18 => Some(113),
        _ => None,
    }
}

fn u32_in(bytes: &[u8], at: usize) -> Option<u32> {
    (bytes.len() >= at + 4).then(|| u32_at(bytes, at))
}

/// Returns the name at a place: what stands before the first zero.
fn text(bytes: &[u8], at: usize) -> Option<String> {
    let name = bytes.get(at..at + NAME)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&name[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn state(name: &str) -> Vec<u8> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pg_replslot");
        fs::read(fixtures.join(format!("15-{name}.bin"))).unwrap()
    }

    /// What the server itself says of them is in the fixtures' README.
    #[rstest]
    #[case("east", SlotKind::Physical, None, None, Some("0/1753178"))]
    #[case("unreserved", SlotKind::Physical, None, None, None)]
    #[case("app", SlotKind::Logical, Some("pgoutput"), Some(16_384), Some("0/1B84480"))]
    fn the_state_of_a_real_slot_is_what_the_server_says_of_it(
        #[case] name: &str,
        #[case] kind: SlotKind,
        #[case] plugin: Option<&str>,
        #[case] database: Option<u32>,
        #[case] position: Option<&str>,
    ) {
        let slot = parse(&state(name), "15").unwrap().unwrap();
        let (plugin, position) = (plugin.map(str::to_owned), position.map(str::to_owned));
        assert_eq!(slot, StoredSlot { name: name.to_owned(), kind, plugin, database, position });
    }

    #[test]
    fn a_state_that_is_not_whole_is_not_believed() {
        let whole = state("app");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(parse(&flipped, "15"), None, "byte {at}");
            assert_eq!(parse(&whole[..at], "15"), None, "the first {at} bytes");
        }
    }

    #[test]
    fn a_slot_that_the_server_forgets_is_not_told() {
        let mut temporary = state("east");
        temporary[HEADER + PERSISTENCY] = 2;
        let checksum = crc32c::crc32c(&temporary[UNCHECKED..]).to_le_bytes();
        temporary[4..8].copy_from_slice(&checksum);
        assert_eq!(parse(&temporary, "15"), Some(None));
    }

    #[test]
    fn of_a_version_that_is_not_known_there_is_the_name_alone() {
        let data = tempfile::tempdir().unwrap();
        let east = data.path().join("pg_replslot/east");
        fs::create_dir_all(&east).unwrap();
        fs::write(east.join("state"), state("east")).unwrap();
        assert_eq!(stored(data.path(), "99").unwrap(), [StoredSlot::unread("east".to_owned())]);
        assert_eq!(stored(data.path(), "15").unwrap()[0].kind, SlotKind::Physical);
    }

    #[test]
    fn slots_are_removed_and_nothing_that_a_link_leads_to() {
        use std::os::unix::fs::symlink;
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(data.path().join("PG_VERSION"), "15\n").unwrap();
        fs::create_dir_all(elsewhere.path().join("precious")).unwrap();
        let slots = data.path().join(DIRECTORY);
        fs::create_dir_all(slots.join("east")).unwrap();
        fs::write(slots.join("east/state"), state("east")).unwrap();
        symlink(elsewhere.path(), slots.join("link")).unwrap();

        assert_eq!(remove(data.path()).unwrap().len(), 1);
        assert!(!slots.join("east").exists() && slots.is_dir());
        assert!(elsewhere.path().join("precious").exists());
        assert_eq!(remove(data.path()).unwrap(), []);

        fs::remove_dir_all(&slots).unwrap();
        symlink(elsewhere.path(), &slots).unwrap();
        assert_eq!(remove(data.path()).unwrap(), []);
        assert!(elsewhere.path().join("precious").exists());
    }
}
