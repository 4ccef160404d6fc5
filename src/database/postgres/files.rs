//! What the files of a data directory say: where one is, whether it was shut down cleanly, and which parts of it lie
//! elsewhere.
//!
//! "clean" rests on `global/pg_control`, and on everything that must agree with it before a server would start from a
//! copy of these files without recovery: the version, the write-ahead log that holds the last checkpoint, and no trace
//! of a running server or of a backup.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::configuration;
use super::control::{self, ControlError, ControlFile, DbState};
use super::position::LogPosition;
use super::slots;
use crate::model::inspection::{Inspection, OutsideLink, PageChecksums};
use crate::model::plural::{counted, grouped};
use crate::model::position::Position;

/// How deep below the root to look for a data directory: `18/docker`, `data/pgdata`.
const DEPTH: usize = 4;
/// How many entries of one level to look at. No layout of PostgreSQL comes near; a volume of anything else can have
/// millions.
const ENTRIES_PER_LEVEL: usize = 200_000;
/// How often to read pg_control before a read counts as not torn.
const READS: usize = 10;
/// How many links to follow before they count as a circle, as in the kernel.
const MAX_LINKS: usize = 40;
/// The names under which a server keeps its data. A link with one of these names leads to data; a link with any other
/// name (`postgresql.conf`, `server.key`) leads to configuration.
const DATA_NAMES: &[&str] = &[
    "base",
    "global",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_replslot",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];

/// Why a base backup proves no clean shutdown.
const BACKUP_LABEL: &str = "backup_label is there: these files are a backup that was never recovered";

/// Returns the data directories below `root`, relative to it, shallowest first. It follows no links, and does not
/// search a data directory for others.
pub(super) fn find(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![PathBuf::new()];
    for depth in 0..=DEPTH {
        let mut next = Vec::new();
        let mut budget = ENTRIES_PER_LEVEL;
        for directory in level {
            let absolute = root.join(&directory);
            if is_data_directory(&absolute)? {
                found.push(directory);
            } else if depth < DEPTH {
                add_subdirectories(&absolute, &directory, &mut budget, &mut next)?;
            }
        }
        next.sort();
        level = next;
    }
    Ok(found)
}

fn add_subdirectories(
    absolute: &Path,
    directory: &Path,
    budget: &mut usize,
    subdirectories: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let entries = match fs::read_dir(absolute) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(about("read the directory", absolute, &error)),
    };
    for entry in entries.take(*budget) {
        let entry = entry.map_err(|error| about("read the directory", absolute, &error))?;
        *budget -= 1;
        // The directory itself tells the kind of the entry, so this does not have to look at the entry.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            subdirectories.push(directory.join(entry.file_name()));
        }
    }
    Ok(())
}

/// Returns whether the official entrypoint and the server would both take this for a cluster.
fn is_data_directory(directory: &Path) -> io::Result<bool> {
    let version = metadata(&directory.join("PG_VERSION"))?;
    let control_file = metadata(&directory.join(control::PATH))?;
    Ok(version.is_some_and(|version| version.is_file() && version.len() > 0)
        && control_file.is_some_and(|control_file| control_file.is_file()))
}

/// Returns what the files of `root/data_directory` say. `mounted_at` is where the database's container has `root`;
/// absolute links refer to that.
pub(super) fn inspect(
    root: &Path,
    data_directory: &Path,
    mounted_at: Option<&Path>,
) -> io::Result<Inspection> {
    let absolute = root.join(data_directory);
    let tree = Tree { root, mounted_at: mounted_at.unwrap_or(root) };
    let (bytes, control_file) = read_control(&absolute.join(control::PATH))?;
    let version = read_version(&absolute.join("PG_VERSION"))?;
    let (outside, configuration) = links(&tree, data_directory)?;
    let mut inspection = Inspection {
        engine: super::NAME.to_owned(),
        version,
        data_directory: data_directory.to_owned(),
        identifier: None,
        state: "unknown".to_owned(),
        clean: false,
        reasons: Vec::new(),
        proof_digest: blake3::hash(&bytes).to_hex().to_string(),
        page_checksums: Some(PageChecksums::Unknown),
        page_size: NonZeroU32::new(8192),
        pages_per_segment: NonZeroU32::new(131_072),
        details: BTreeMap::new(),
        outside,
        configuration: Vec::new(),
        slots: Vec::new(),
    };
    if mounted_at.is_some() {
        inspection.configuration = configuration::named_outside(&tree, data_directory)?;
    }
    inspection.slots = slots::stored(&absolute, &inspection.version)?;
    match control_file {
        Ok(control_file) => {
            inspection.reasons = reasons(&tree, data_directory, &control_file, &inspection)?;
            describe(&mut inspection, &control_file);
            let standby = exists(&absolute.join("standby.signal"))?;
            inspection.details.insert("standby".into(), if standby { "yes" } else { "no" }.into());
        }
        Err(error) => inspection.reasons.push(format!("{} cannot be believed: {error}", control::PATH)),
    }
    if !configuration.is_empty() {
        inspection.details.insert("linked_configuration".into(), configuration.join(", "));
    }
    inspection.clean = inspection.reasons.is_empty();
    Ok(inspection)
}

/// Reads pg_control until it can be trusted or is certainly damaged. A running server rewrites it in place, so a read
/// may return half old, half new bytes: such bytes do not come twice.
fn read_control(path: &Path) -> io::Result<(Vec<u8>, Result<ControlFile, ControlError>)> {
    let read = || fs::read(path).map_err(|error| about("read", path, &error));
    let mut bytes = read()?;
    for _ in 1..READS {
        let control_file = ControlFile::parse(&bytes);
        if control_file.is_ok() {
            return Ok((bytes, control_file));
        }
        thread::sleep(Duration::from_millis(5));
        let again = read()?;
        if again == bytes {
            return Ok((bytes, control_file));
        }
        bytes = again;
    }
    let control_file = ControlFile::parse(&bytes);
    Ok((bytes, control_file))
}

pub(super) fn read_version(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path).map_err(|error| about("read", path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Fills in what the control file says.
fn describe(inspection: &mut Inspection, control_file: &ControlFile) {
    inspection.identifier = Some(control_file.system_identifier.to_string());
    inspection.state = control_file.state.to_string();
    inspection.page_size = NonZeroU32::new(control_file.block_size);
    inspection.pages_per_segment = NonZeroU32::new(control_file.blocks_per_segment);
    inspection.page_checksums = Some(match control_file.checksum_version {
        0 => PageChecksums::Off,
        1 => PageChecksums::On,
        _ => PageChecksums::Unknown,
    });
    let float_format = if control_file.float_format { "ieee-754" } else { "other" };
    let time = control_file.checkpoint_time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    inspection.details.extend(
        [
            ("control_version", control_file.control_version.to_string()),
            ("catalog_version", control_file.catalog_version.to_string()),
            ("checkpoint", control_file.checkpoint.to_string()),
            ("checkpoint_time", time),
            ("checkpoint_wal_file", control_file.checkpoint_wal_file()),
            ("redo", control_file.redo.to_string()),
            ("redo_wal_file", control_file.redo_wal_file()),
            ("timeline", control_file.timeline.to_string()),
            ("next_transaction", control_file.next_transaction()),
            ("wal_level", control_file.wal_level.to_owned()),
            ("wal_segment_size", control_file.wal_segment_size.to_string()),
            ("max_align", control_file.max_align.to_string()),
            ("float_format", float_format.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
}

/// Returns the reasons why the files do not prove a clean shutdown, each a sentence that names the file.
fn reasons(
    tree: &Tree<'_>,
    data_directory: &Path,
    control_file: &ControlFile,
    inspection: &Inspection,
) -> io::Result<Vec<String>> {
    let absolute = tree.root.join(data_directory);
    let mut reasons = Vec::new();
    match control_file.state {
        DbState::ShutDown => {}
        DbState::ShutDownInRecovery if exists(&absolute.join("standby.signal"))? => {}
        DbState::ShutDownInRecovery => reasons.push(format!(
            "{} says \"shut down in recovery\", as a standby's does, but there is no standby.signal",
            control::PATH
        )),
        state => reasons.push(other_state(state)),
    }
    if inspection.version != control_file.major_version.to_string() {
        reasons.push(format!(
            "PG_VERSION says \"{}\", but {} is that of PostgreSQL {}",
            inspection.version,
            control::PATH,
            control_file.major_version
        ));
    }
    if exists(&absolute.join("postmaster.pid"))? {
        reasons.push("postmaster.pid is there: a server runs on these files, or was killed".to_owned());
    }
    if exists(&absolute.join("backup_label"))? {
        reasons.push(BACKUP_LABEL.to_owned());
    }
    reasons.extend(missing_wal(tree, data_directory, control_file)?);
    Ok(reasons)
}

fn other_state(state: DbState) -> String {
    format!("{} says \"{state}\", not \"shut down\"", control::PATH)
}

/// Returns why files that do not prove a clean shutdown, for these `reasons`, are no base backup of a running server
/// either. The pg_control of a base backup was copied while the server ran; its backup_label says where recovery must
/// begin.
pub(super) fn backup_doubts(reasons: &[String]) -> Vec<String> {
    let expected = [other_state(DbState::InProduction), BACKUP_LABEL.to_owned()];
    let mut doubts: Vec<_> = reasons.iter().filter(|reason| !expected.contains(reason)).cloned().collect();
    if !reasons.iter().any(|reason| reason == BACKUP_LABEL) {
        doubts.push("backup_label is missing: nothing says from where on it is to be recovered".to_owned());
    }
    doubts
}

/// Returns where the replay begins that these files need. For a base backup only its backup_label tells, because its
/// pg_control may come from a later checkpoint.
pub(super) fn position(inspection: &Inspection) -> Option<Position> {
    if inspection.reasons.iter().any(|reason| reason == BACKUP_LABEL) {
        return None;
    }
    let detail = |name: &str| inspection.details.get(name);
    let (timeline, lsn) = (detail("timeline")?.parse().ok()?, detail("redo")?.parse().ok()?);
    Some(LogPosition { timeline, lsn }.into())
}

/// Returns what is wrong with the write-ahead log that a start from these files needs.
fn missing_wal(
    tree: &Tree<'_>,
    data_directory: &Path,
    control_file: &ControlFile,
) -> io::Result<Option<String>> {
    let Some(pg_wal) = tree.resolve(&data_directory.join("pg_wal"))? else {
        return Ok(Some("pg_wal leads out of the source: its files cannot be seen from here".to_owned()));
    };
    let mut needed = vec![control_file.checkpoint_wal_file(), control_file.redo_wal_file()];
    if control_file.state == DbState::ShutDownInRecovery {
        needed.extend(control_file.min_recovery_wal_file());
    }
    needed.dedup();
    for name in needed {
        let file = metadata(&tree.root.join(&pg_wal).join(&name))?;
        match file.map(|file| file.len()) {
            None => {
                return Ok(Some(format!(
                    "pg_wal/{name} is missing: a server needs it to start from these files"
                )));
            }
            Some(size) if size != u64::from(control_file.wal_segment_size) => {
                return Ok(Some(format!(
                    "pg_wal/{name} has {} instead of {}",
                    counted(size, "byte"),
                    grouped(control_file.wal_segment_size.into())
                )));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Returns the links to data that the source does not have, and, described for the reader, the links to configuration.
fn links(tree: &Tree<'_>, data_directory: &Path) -> io::Result<(Vec<OutsideLink>, Vec<String>)> {
    let mut outside = Vec::new();
    let mut configuration = Vec::new();
    for (name, target) in links_in(&tree.root.join(data_directory))? {
        let path = data_directory.join(&name);
        if tree.has(&path)? {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        if DATA_NAMES.contains(&name.as_str()) {
            outside.push(OutsideLink { what: name, path, target });
        } else {
            configuration.push(format!("{name} -> {}", target.display()));
        }
    }
    for (directory, what) in [("pg_tblspc", "tablespace"), ("base", "database")] {
        let directory = data_directory.join(directory);
        let Some(inside) = tree.resolve(&directory)? else { continue };
        for (name, target) in links_in(&tree.root.join(inside))? {
            let path = directory.join(&name);
            if !tree.has(&path)? {
                outside.push(OutsideLink {
                    what: format!("{what} {}", name.to_string_lossy()),
                    path,
                    target,
                });
            }
        }
    }
    configuration.sort();
    Ok((outside, configuration))
}

/// Returns a directory's links and where they lead, by name; none if the directory does not exist.
fn links_in(directory: &Path) -> io::Result<BTreeMap<std::ffi::OsString, PathBuf>> {
    let mut links = BTreeMap::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(links),
        Err(error) => return Err(about("read the directory", directory, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| about("read the directory", directory, &error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            let path = entry.path();
            let target = fs::read_link(&path).map_err(|error| about("read the link", &path, &error))?;
            links.insert(entry.file_name(), target);
        }
    }
    Ok(links)
}

/// The source as links inside it see it: our `root` is `mounted_at` in the database's container.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) root: &'a Path,
    pub(super) mounted_at: &'a Path,
}

impl Tree<'_> {
    /// Returns whether something in the source is at `path`, after following links.
    fn has(&self, path: &Path) -> io::Result<bool> {
        match self.resolve(path)? {
            Some(inside) => exists(&self.root.join(inside)),
            None => Ok(false),
        }
    }

    /// Returns where `path`, relative to the root, leads once all its links are followed, relative to the root; `None`
    /// if that is outside the source. The result need not exist.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        Ok(self.follow(path)?.and_then(|place| place.strip_prefix(self.mounted_at).ok().map(Path::to_owned)))
    }

    /// Returns where `path`, relative to the root or absolute in the container, leads once all links in the source are
    /// followed, absolute in the container; `None` if they lead in a circle.
    pub(super) fn follow(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let mut place = self.mounted_at.to_owned();
        let mut left: Vec<_> = parts_reversed(path);
        let mut followed = 0;
        while let Some(part) = left.pop() {
            match part.as_os_str() {
                part if part == OsStr::new("/") => place = PathBuf::from("/"),
                part if part == OsStr::new("..") => {
                    place.pop();
                }
                part => place.push(part),
            }
            // Directories above the mount belong to the container and cannot be seen from here.
            let Ok(inside) = place.strip_prefix(self.mounted_at) else { continue };
            let here = self.root.join(inside);
            if inside.as_os_str().is_empty() || !metadata(&here)?.is_some_and(|here| here.is_symlink()) {
                continue;
            }
            followed += 1;
            if followed > MAX_LINKS {
                return Ok(None);
            }
            let target = fs::read_link(&here).map_err(|error| about("read the link", &here, &error))?;
            place.pop();
            left.extend(parts_reversed(&target));
        }
        Ok(Some(place))
    }
}

/// Returns a path's parts, the first one last, so that popping them gives their order.
fn parts_reversed(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let mut parts: Vec<_> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}

fn exists(path: &Path) -> io::Result<bool> {
    Ok(metadata(path)?.is_some())
}

/// Returns what lies at the path itself, without following links; `None` if nothing does.
fn metadata(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(about("look at", path, &error)),
    }
}

/// Says what volsnap was doing to which file.
fn about(doing: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;
    use crate::database::postgres::control::tests::{CLEAN, SIGKILL, SIGQUIT, patched};

    const WAL_FILE: &str = "pg_wal/000000010000000000000001";

    /// Makes a data directory as PostgreSQL 15 leaves one, as far as an inspection looks.
    fn make_cluster(directory: &Path, control_file: &[u8]) {
        for name in ["global", "base/1", "pg_wal", "pg_tblspc"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        fs::write(directory.join("PG_VERSION"), "15\n").unwrap();
        fs::write(directory.join(control::PATH), control_file).unwrap();
        fs::File::create(directory.join(WAL_FILE)).unwrap().set_len(16 << 20).unwrap();
    }

    fn cluster(control_file: &[u8]) -> TempDir {
        let root = TempDir::new().unwrap();
        make_cluster(root.path(), control_file);
        root
    }

    fn inspected(root: &TempDir) -> Inspection {
        inspect(root.path(), Path::new(""), None).unwrap()
    }

    /// Asserts that exactly one reason speaks against "clean", and what that reason names.
    #[track_caller]
    fn assert_refused(root: &TempDir, named: &str) {
        let inspection = inspected(root);
        assert!(!inspection.clean);
        assert_eq!(inspection.reasons.len(), 1, "{:?}", inspection.reasons);
        assert!(inspection.reasons[0].contains(named), "{:?}", inspection.reasons);
    }

    #[test]
    fn a_clean_shutdown_is_proved() {
        let inspection = inspected(&cluster(CLEAN));
        assert_eq!(inspection.reasons, [""; 0]);
        assert!(inspection.clean);
        assert_eq!(inspection.version, "15");
        assert_eq!(inspection.state, "shut down");
        assert_eq!(inspection.page_checksums, Some(PageChecksums::On));
        assert_eq!(
            (inspection.page_size, inspection.pages_per_segment),
            (NonZeroU32::new(8192), NonZeroU32::new(131_072))
        );
        assert_eq!(inspection.proof_digest, blake3::hash(CLEAN).to_hex().to_string());
        assert_eq!(inspection.details["standby"], "no");
        assert_eq!(inspection.details["catalog_version"], "202209061");
        assert!(inspection.identifier.is_some());
    }

    #[test]
    fn a_replay_begins_at_the_last_checkpoint_and_that_of_a_base_backup_is_not_known() {
        let root = cluster(CLEAN);
        let control_file = ControlFile::parse(CLEAN).unwrap();
        let expected = LogPosition { timeline: control_file.timeline, lsn: control_file.redo }.into();
        assert_eq!(position(&inspected(&root)), Some(expected));
        fs::write(root.path().join("backup_label"), "").unwrap();
        assert_eq!(position(&inspected(&root)), None);
        fs::write(root.path().join(control::PATH), "").unwrap();
        assert_eq!(position(&inspected(&root)), None);
    }

    #[rstest]
    #[case::killed(SIGKILL)]
    #[case::stopped_immediately(SIGQUIT)]
    fn a_database_that_was_not_shut_down_is_not_clean(#[case] control_file: &[u8]) {
        assert_refused(&cluster(control_file), "in production");
    }

    #[rstest]
    #[case("postmaster.pid")]
    #[case("backup_label")]
    fn a_trace_of_a_server_or_a_backup_is_not_clean(#[case] name: &str) {
        let root = cluster(CLEAN);
        fs::write(root.path().join(name), "").unwrap();
        assert_refused(&root, name);
    }

    #[test]
    fn without_the_last_checkpoint_in_pg_wal_it_is_not_clean() {
        let root = cluster(CLEAN);
        fs::File::create(root.path().join(WAL_FILE)).unwrap().set_len(1 << 20).unwrap();
        assert_refused(&root, WAL_FILE);
        fs::remove_file(root.path().join(WAL_FILE)).unwrap();
        assert_refused(&root, WAL_FILE);
    }

    #[test]
    fn a_version_that_does_not_agree_is_not_clean() {
        let root = cluster(CLEAN);
        fs::write(root.path().join("PG_VERSION"), "16\n").unwrap();
        assert_refused(&root, "PG_VERSION");
    }

    #[test]
    fn a_standby_is_clean_only_with_its_signal_file() {
        let root = cluster(&patched(CLEAN, 16, &2_u32.to_le_bytes(), 288));
        assert_refused(&root, "standby.signal");
        fs::write(root.path().join("standby.signal"), "").unwrap();
        let inspection = inspected(&root);
        assert!(inspection.clean, "{:?}", inspection.reasons);
        assert_eq!(inspection.details["standby"], "yes");
    }

    #[rstest]
    #[case::damaged(flipped(CLEAN), "CRC")]
    #[case::unknown(patched(CLEAN, 12, &7_u32.to_le_bytes(), 288), "versions")]
    #[case::zeroed(vec![0; 8192], "zeros")]
    #[case::cut_off(CLEAN[..100].to_vec(), "bytes")]
    fn a_control_file_that_cannot_be_believed_is_not_clean(
        #[case] control_file: Vec<u8>,
        #[case] named: &str,
    ) {
        let root = cluster(&control_file);
        assert_refused(&root, named);
        assert_refused(&root, "global/pg_control");
        assert_eq!(inspected(&root).page_checksums, Some(PageChecksums::Unknown));
    }

    fn flipped(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[40] ^= 1;
        bytes
    }

    #[test]
    fn a_missing_control_file_is_an_error_that_names_it() {
        let root = cluster(CLEAN);
        fs::remove_file(root.path().join(control::PATH)).unwrap();
        let error = inspect(root.path(), Path::new(""), None).unwrap_err();
        assert!(error.to_string().contains("global/pg_control"), "{error}");
    }

    /// Moves `pg_wal` of the cluster in `data` to `wal` beside it, and links it as `target`.
    fn with_linked_wal(target: &str) -> TempDir {
        let root = TempDir::new().unwrap();
        make_cluster(&root.path().join("data"), CLEAN);
        fs::rename(root.path().join("data/pg_wal"), root.path().join("wal")).unwrap();
        symlink(target, root.path().join("data/pg_wal")).unwrap();
        root
    }

    #[rstest]
    #[case::relative("../wal", None)]
    #[case::absolute("/var/lib/postgresql/wal", Some("/var/lib/postgresql"))]
    #[case::by_detours("/var/lib/x/../postgresql/data/../wal/.", Some("/var/lib/postgresql"))]
    fn a_link_that_stays_in_the_source_is_followed(#[case] target: &str, #[case] mounted_at: Option<&str>) {
        let root = with_linked_wal(target);
        let inspection = inspect(root.path(), Path::new("data"), mounted_at.map(Path::new)).unwrap();
        assert_eq!(inspection.outside, []);
        assert!(inspection.clean, "{:?}", inspection.reasons);
    }

    #[rstest]
    #[case::absolute("/var/lib/postgresql/wal", None)]
    #[case::of_another_mount("/wal", Some("/var/lib/postgresql"))]
    #[case::above_the_root("../../wal", Some("/var/lib/postgresql"))]
    #[case::in_a_circle("pg_wal", None)]
    fn a_link_out_of_the_source_is_told_and_nothing_is_clean(
        #[case] target: &str,
        #[case] mounted_at: Option<&str>,
    ) {
        let root = with_linked_wal(target);
        let inspection = inspect(root.path(), Path::new("data"), mounted_at.map(Path::new)).unwrap();
        let link =
            OutsideLink { what: "pg_wal".into(), path: "data/pg_wal".into(), target: PathBuf::from(target) };
        assert_eq!(inspection.outside, [link]);
        assert_eq!(inspection.reasons.len(), 1);
        assert!(inspection.reasons[0].contains("pg_wal"));
    }

    #[test]
    fn a_link_through_a_link_out_of_the_source_is_outside() {
        let root = with_linked_wal("../detour/wal");
        symlink("/elsewhere", root.path().join("detour")).unwrap();
        let inspection = inspect(root.path(), Path::new("data"), None).unwrap();
        assert_eq!(inspection.outside.len(), 1);
    }

    #[test]
    fn tablespaces_may_be_directories_or_links_inside_and_others_are_told() {
        let root = TempDir::new().unwrap();
        make_cluster(&root.path().join("data"), CLEAN);
        let tablespaces = root.path().join("data/pg_tblspc");
        fs::create_dir(tablespaces.join("100")).unwrap();
        fs::create_dir(root.path().join("fast")).unwrap();
        symlink("/mount/fast", tablespaces.join("200")).unwrap();
        symlink("/mount/gone", tablespaces.join("300")).unwrap();
        symlink("/disk2/pg", tablespaces.join("400")).unwrap();
        let inspection = inspect(root.path(), Path::new("data"), Some(Path::new("/mount"))).unwrap();
        let told: Vec<_> = inspection.outside.iter().map(|link| link.what.as_str()).collect();
        assert_eq!(told, ["tablespace 300", "tablespace 400"]);
        assert_eq!(inspection.outside[1].path, Path::new("data/pg_tblspc/400"));
        assert!(inspection.clean);
    }

    #[test]
    fn linked_configuration_is_told_and_refuses_nothing() {
        let root = cluster(CLEAN);
        symlink("/etc/postgresql/postgresql.conf", root.path().join("postgresql.conf")).unwrap();
        let inspection = inspected(&root);
        assert!(inspection.clean);
        assert_eq!(inspection.outside, []);
        let told = &inspection.details["linked_configuration"];
        assert_eq!(told, "postgresql.conf -> /etc/postgresql/postgresql.conf");
    }

    #[test]
    fn data_directories_are_found_at_the_root_and_below() {
        assert_eq!(find(cluster(CLEAN).path()).unwrap(), [Path::new("")]);
        let root = TempDir::new().unwrap();
        for directory in ["18/docker", "data/pgdata", "a", "1/2/3/4", "1/2/3/x/5"] {
            make_cluster(&root.path().join(directory), CLEAN);
        }
        // Inside another one, half of one, and through a link: none of these counts.
        make_cluster(&root.path().join("a/backup"), CLEAN);
        fs::create_dir_all(root.path().join("half/global")).unwrap();
        fs::write(root.path().join("half/global/pg_control"), CLEAN).unwrap();
        fs::write(root.path().join("half/PG_VERSION"), "").unwrap();
        symlink("a", root.path().join("link")).unwrap();
        let expected = ["a", "18/docker", "data/pgdata", "1/2/3/4"].map(PathBuf::from);
        assert_eq!(find(root.path()).unwrap(), expected);
    }
}
