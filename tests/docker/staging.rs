//! A stage filled by the real helper, with no rights but those it is given.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use volsnap::agent::calls::{
    self, Commit, Discard, PassKind, Side, StageCompare, StageInto, StageKeep, StagePass, StageRoom, Survey,
    SwapIn,
};
use volsnap::agent::client::{AgentClient, AgentError, ArchiveSink};
use volsnap::agent::staging::TREE;
use volsnap::agent::staging::compare::Comparison;
use volsnap::agent::swap::SwapState;
use volsnap::agent::tree::Stability;
use volsnap::archive::Codec;
use volsnap::clock::Clock;
use volsnap::engine::helper;
use volsnap::engine::helper::{Access, HelperImage};
use volsnap::engine::{Docker as _, DockerErrorKind, MountSpec};
use volsnap::model::event::Silent;
use volsnap::model::location::MountSource;

use crate::world::{LABEL, World, docker};

/// Starts a helper that stages `source` into `stage`.
async fn helper(world: &World, name: &str, source: &Path, stage: &MountSource) -> AgentClient {
    let image = HelperImage::of(Path::new(env!("CARGO_BIN_EXE_volsnap"))).unwrap();
    let image = image.ensure(&world.engine, &Clock::system()).await.unwrap();
    let source = MountSource::Directory(source.to_owned());
    let name = world.name(name);
    let mut spec = helper::helper_container(&name, &image, "run1", &source, Access::Stage, None, Some(stage));
    spec.labels.insert(LABEL.to_owned(), std::process::id().to_string());
    assert!(spec.mounts[0].read_only, "the source cannot be written to");
    let id = world.engine.create_container(&spec).await.unwrap();
    AgentClient::start(&world.engine, &id, None).await.unwrap()
}

/// What a helper needs every one of its rights for.
fn populate(source: &Path) {
    for directory in ["base", "private", "global"] {
        fs::create_dir(source.join(directory)).unwrap();
    }
    fs::write(source.join("base/16384"), vec![7; 1 << 20]).unwrap();
    for (name, owner, mode) in
        [("base/16384", 999, 0o600), ("base/locked", 70, 0o000), ("base/setuid", 999, 0o6755)]
    {
        let path = source.join(name);
        OpenOptions::new().create(true).append(true).open(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(source.join("private/capable"), "x").unwrap();
    // cap_net_raw, as the system keeps it.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    xattr::set(source.join("private/capable"), "security.capability", capability).unwrap();
    xattr::set(source.join("base/16384"), "user.note", b"kept").unwrap();
    fs::hard_link(source.join("base/16384"), source.join("global/16384")).unwrap();
    mknod(&source.join("global/null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    nix::unistd::mkfifo(&source.join("global/pipe"), Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("../base", source.join("global/link")).unwrap();
    for (name, mode) in [("private", 0o000), ("base", 0o2700), ("", 0o700)] {
        chown(source.join(name), Some(999), Some(999)).unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[track_caller]
fn assert_equal(source: &Path, copy: &Path) {
    let held = StageCompare { stability: Stability::Held, ..StageCompare::default() };
    let stats = Comparison::of(source, copy).compare(&held, &mut |_| {}).unwrap();
    assert_eq!((stats.different, stats.differences), (0, Vec::new()));
}

#[derive(Default)]
struct Taken {
    archive: Vec<u8>,
}

#[async_trait]
impl ArchiveSink for Taken {
    async fn archive(&mut self, bytes: Bytes) -> volsnap::Result<()> {
        self.archive.extend_from_slice(&bytes);
        Ok(())
    }

    async fn file_list(&mut self, _bytes: Bytes) -> volsnap::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_helper_makes_a_stage_equal_to_the_source_and_archives_it() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let (source, stage) = (place.path().join("source"), place.path().join("stage"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&stage).unwrap();
    populate(&source);
    let mut agent = helper(&world, "stager", &source, &MountSource::Directory(stage.clone())).await;
    let room = agent.call(StageRoom::default()).await.unwrap();
    assert!(room.free_bytes > 1 << 20 && !room.warm && room.staged_bytes == 0, "{room:?}");
    agent.call(StagePass::default()).await.unwrap();
    OpenOptions::new()
        .write(true)
        .open(source.join("base/16384"))
        .unwrap()
        .write_all_at(b"changed", 300_000)
        .unwrap();
    fs::rename(source.join("base/setuid"), source.join("global/moved")).unwrap();
    let finish = StagePass { kind: PassKind::Final, ..StagePass::default() };
    let stats = agent.call(finish.clone()).await.unwrap();
    assert_eq!((stats.entries, stats.files), (12, 4), "{stats:?}");
    assert_equal(&source, &stage.join(TREE));

    // From here on the source may change: it is the stage that is looked at.
    let held = fs::read(source.join("base/16384")).unwrap();
    fs::write(source.join("base/16384"), "later").unwrap();
    let of = |side| Survey { side, ..Survey::default() };
    let (survey, later) =
        (agent.call(of(Side::Stage)).await.unwrap(), agent.call(of(Side::Source)).await.unwrap());
    assert_eq!((survey.entries, survey.files), (11, 4));
    assert_eq!((survey.bytes, later.bytes), (1 + (1 << 20), 1 + 5));
    let call = calls::Archive {
        side: Side::Stage,
        tree: "".into(),
        codec: Codec::None,
        exclude: Vec::new(),
        last: Vec::new(),
        stability: Stability::Held,
    };
    let mut taken = Taken::default();
    let archived = agent.archive(call, &mut taken, &Silent).await.unwrap();
    assert_eq!(archived.files, 4);
    assert!(taken.archive.windows(held.len()).any(|window| window[..8] == held[..8] && window == held));

    agent.call(StageKeep {}).await.unwrap();
    assert!(agent.call(StageRoom::default()).await.unwrap().warm);
    agent.call(finish).await.unwrap();
    assert_equal(&source, &stage.join(TREE));
}

#[tokio::test]
async fn a_stage_that_is_full_has_an_error_of_its_own() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("large"), vec![1; 20 << 20]).unwrap();
    let stage = world.name("small");
    let small = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=8m"];
    docker(&[&["volume", "create", "--label", LABEL], &small[..], &[&stage]].concat());
    let mut agent = helper(&world, "stager", place.path(), &MountSource::Volume(stage)).await;
    let room = agent.call(StageRoom::default()).await.unwrap();
    assert!(room.free_bytes <= 8 << 20 && !room.reflink, "{room:?}");
    let error = agent.call(StagePass::default()).await.unwrap_err();
    assert!(matches!(&error, AgentError::StageFull(message) if message.contains("large")), "{error:?}");
    // The session goes on: the source can still be captured directly.
    assert_eq!(agent.call(Survey::default()).await.unwrap().files, 1);
}

#[tokio::test]
async fn the_helper_stages_into_a_directory_proves_it_equal_and_moves_it_in() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let (source, dest) = (place.path().join("source"), place.path().join("dest"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&dest).unwrap();
    populate(&source);
    let mount = MountSource::Directory(dest.clone());
    let owner = Some((70, 71));
    let live = StagePass { owner, ..StagePass::default() };
    let mut agent = helper(&world, "mover", &source, &mount).await;
    agent.call(StageInto { run: "dead".into() }).await.unwrap();
    agent.call(live.clone()).await.unwrap();
    agent.call(StageKeep {}).await.unwrap();
    // Another run can have it once this one is gone, and only then.
    let mut other = helper(&world, "other", &source, &mount).await;
    let error = other.call(StageInto { run: "run1".into() }).await.unwrap_err();
    assert!(error.to_string().contains("another run is at work in it"), "{error}");
    drop(agent);
    let agent = &mut other;
    let mut taken = agent.call(StageInto { run: "run1".into() }).await;
    for _ in 0..100 {
        if taken.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        taken = agent.call(StageInto { run: "run1".into() }).await;
    }
    taken.unwrap();
    assert!(agent.call(StageRoom::default()).await.unwrap().warm);
    agent.call(live.clone()).await.unwrap();
    let compare = StageCompare { owner, ..StageCompare::default() };
    agent.call(compare.clone()).await.unwrap();
    let last = agent.call(StagePass { kind: PassKind::Final, ..live }).await.unwrap();
    assert_eq!((last.written_bytes, last.created), (0, 0), "{last:?}");
    let held = StageCompare { stability: Stability::Held, ..compare };
    let proved = agent.call(held).await.unwrap();
    assert_eq!((proved.different, proved.entries, proved.files), (0, 12, 4), "{proved:?}");
    let marker_files = vec!["base/16384".into()];
    agent.call(SwapIn { run: "run1".into(), marker_files, root: None }).await.unwrap();
    assert_eq!(agent.call(calls::SwapState { run: "run1".into() }).await.unwrap(), SwapState::Swapped);
    agent.call(Commit { run: "run1".into() }).await.unwrap();
    agent.call(Discard { run: "run1".into(), with_old: true }).await.unwrap();
    let held = StageCompare { owner, stability: Stability::Held, ..StageCompare::default() };
    let moved = Comparison::of(&source, &dest).compare(&held, &mut |_| {}).unwrap();
    assert_eq!((moved.different, moved.differences), (0, Vec::new()));
}

/// As much is known of a block that is a hole as of any other, so that holes cost what data would.
#[tokio::test]
async fn a_helper_stages_a_hundred_gigabytes_in_little_memory() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let (source, stage) = (place.path().join("source"), place.path().join("stage"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&stage).unwrap();
    // A database has files of a gigabyte.
    for number in 0..100 {
        let file = fs::File::create(source.join(format!("16384.{number}"))).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(&vec![7; 1 << 20], number << 20).unwrap();
    }
    let mut agent = helper(&world, "stager", &source, &MountSource::Directory(stage.clone())).await;
    agent.call(StagePass::default()).await.unwrap();
    let finish = StagePass { kind: PassKind::Final, ..StagePass::default() };
    let stats = agent.call(finish).await.unwrap();
    assert_eq!(stats.files, 100, "{stats:?}");
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &world.name("stager")]);
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let mib = peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10;
    let reached = if mib <= 256 { "yes" } else { "no" };
    println!("memory while staging 100 GB: {mib} MiB, reach 256 MiB: {reached}");
    assert!(mib <= 256, "{mib} MiB");
}

/// Two runs that chose the same stage: the one that has the helper's name has it, and one that was taken away
/// before is made anew, with the labels by which it is found and removed.
#[tokio::test]
async fn a_stage_is_made_with_the_helper_and_has_its_labels() {
    let world = World::new().await;
    let volume = world.name("stage");
    let labels = BTreeMap::from([(LABEL.to_owned(), "stage".to_owned())]);
    let source = MountSource::Volume(volume.clone());
    let destination = "/.volsnap/stage".into();
    let mut spec = world.spec("holder", "read line");
    spec.mounts = vec![MountSpec { source, destination, read_only: false }];
    world.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(world.engine.volume(&volume).await.unwrap(), None);

    spec.new_volumes.insert(volume.clone(), labels.clone());
    world.engine.create_container(&spec).await.unwrap();
    assert_eq!(world.engine.volume(&volume).await.unwrap().unwrap().labels, labels);
    // Whoever does not get the name makes nothing.
    let other = world.name("other-stage");
    spec.mounts[0].source = MountSource::Volume(other.clone());
    spec.new_volumes.insert(other.clone(), labels);
    let error = world.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    assert_eq!(world.engine.volume(&other).await.unwrap(), None);
}
