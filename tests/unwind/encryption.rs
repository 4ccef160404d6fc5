//! An encrypted repository: what is written there, who can read it, and what an undo needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use volsnap::crypt::{Identities, NewKey, Recipients, Sealer};
use volsnap::engine::failing::Mode;
use volsnap::ops::copy::{CopyOptions, copy};
use volsnap::ops::execute;
use volsnap::ops::key;
use volsnap::ops::recover::recover;
use volsnap::ops::restore::{Archive, restore};
use volsnap::ops::trust::{SaidRecipients, Trust};
use volsnap::ops::verify::{check_archive, verify};
use volsnap::repository::{Repository, RepositoryLocation, Snapshot};
use volsnap::saga::RetryBudget;
use volsnap::undo::one_time_key::{AskIdentities, UNDO_FOR, identity_of, path_of};
use volsnap::{Error, ErrorKind};

use crate::simulated::faults::{Scenario, drive};
use crate::simulated::invariants::files_below;
use crate::simulated::restores::{LATER, Restore};
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{DATA, KEPT, World, run};

async fn encrypted_world() -> World {
    let mut world = World::new(false).await;
    world.encrypt().await;
    TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
    world
}

async fn listed(repository: &Path) -> Vec<Snapshot> {
    let listing = Repository::open(repository).await.unwrap().snapshots(None).await.unwrap();
    assert!(listing.unreadable.is_empty() && listing.incomplete.is_empty(), "{listing:?}");
    listing.snapshots
}

/// Whether something is stored anywhere in a repository, or in its names.
fn has(repository: &Path, word: &str) -> Option<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let in_name = path.file_name().unwrap().to_string_lossy().contains(word);
        in_name || bytes.windows(word.len()).any(|window| window == word.as_bytes())
    };
    files_below(repository).into_iter().find(holds)
}

#[test]
fn nothing_of_the_data_its_paths_and_its_containers_is_in_clear() {
    run(async {
        let world = encrypted_world().await;
        let snapshot = listed(&world.repository()).await.remove(0);
        assert!(snapshot.is_locked());
        assert!(snapshot.archive_path().to_string_lossy().ends_with(".tar.zst.age"));
        let opened = snapshot.open_with(&world.key.as_ref().unwrap().identities()).unwrap();
        let environment = &opened.manifest.environment;
        assert_eq!(environment.container.as_deref(), Some("db"), "it is known to whoever has the key");
        assert!(opened.manifest.facts.is_some());
        let mount = environment.mounts[0].destination.to_str().unwrap();
        for word in [mount, "postgres:15", "AGE-SECRET-KEY"] {
            assert_eq!(has(&world.repository(), word), None, "{word} is in clear");
        }
        // The same words are there where nothing is encrypted, so the look would have found them.
        let plain = World::new(false).await;
        TakeSnapshot::STOP_DIRECT.act(&plain).await.unwrap();
        for word in [mount, "postgres:15"] {
            assert!(has(&plain.repository(), word).is_some(), "{word} would never be found");
        }
        let secrets = has(&world.state(), "AGE-SECRET-KEY");
        assert_eq!(secrets, None, "a snapshot needs no identity, and leaves none");
    });
}

#[test]
fn without_an_identity_the_stored_bytes_are_verified_and_with_it_what_they_hold() {
    run(async {
        let world = encrypted_world().await;
        let snapshot = listed(&world.repository()).await.remove(0);
        let verified = async |snapshot: &Snapshot| {
            verify(snapshot.clone(), &world.host.clock, world.host.monitor.clone()).await.unwrap()
        };
        let outside = verified(&snapshot).await;
        assert!(outside.ok && outside.sealed && outside.files == 0);
        assert!(outside.notes[0].contains("was NOT checked"), "{:?}", outside.notes);
        let opened = snapshot.open_with(&world.key.as_ref().unwrap().identities()).unwrap();
        let inside = verified(&opened).await;
        assert!(inside.ok && !inside.sealed && inside.files > 0, "{inside:?}");

        let stored = std::fs::read(snapshot.archive_path()).unwrap();
        let mut damaged = stored.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(snapshot.archive_path(), damaged).unwrap();
        for snapshot in [&snapshot, &opened] {
            assert!(!verified(snapshot).await.ok, "damage shows with and without an identity");
        }
        std::fs::write(snapshot.archive_path(), stored).unwrap();
        assert!(verified(&opened).await.ok);
    });
}

#[test]
fn a_snapshot_that_is_not_opened_or_opened_by_a_stranger_is_refused_before_anything_is_touched() {
    run(async {
        let world = encrypted_world().await;
        let snapshot = listed(&world.repository()).await.remove(0);
        let stranger = snapshot.open_with(&NewKey::generate().identities()).unwrap_err();
        assert!(stranger.to_string().contains("no identity that was given opens it"), "{stranger}");
        let options = Restore::Origin.options(&world).await;
        let locked = volsnap::ops::restore::RestoreOptions {
            archive: Archive::Snapshot(Box::new(snapshot)),
            ..options
        };
        let error = restore(&world.host, &locked, execute).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.chain().contains("it is encrypted, and no identity was given"), "{}", error.chain());
        assert!(error.hints()[0].to_string().starts_with("export VOLSNAP_IDENTITY_FILE=FILE"));
        assert!(world.answers("db").await);
    });
}

#[test]
fn a_restore_is_undone_with_the_key_that_it_has_left_here_and_with_no_other() {
    run(async {
        let world = encrypted_world().await;
        world.engine.insert("db", KEPT.0, &[LATER]).unwrap();
        let options = Restore::Origin.options(&world).await;
        let restored = restore(&world.host, &options, execute).await.unwrap().unwrap();
        let rows = || world.rows(&world.engine.directory_of(DATA));
        assert_eq!(rows(), KEPT.1);
        let safety = listed(&world.repository()).await.remove(1);
        assert_eq!(safety.name(), restored.safety.unwrap().name());
        assert!(safety.is_locked() && safety.manifest.is_safety());
        let id = safety.manifest.id.clone();
        assert_eq!(has(&world.repository(), "AGE-SECRET-KEY"), None);
        let key = identity_of(&world.state(), &id).unwrap().unwrap();
        assert!(
            safety.open_with(&world.key.as_ref().unwrap().identities()).is_ok(),
            "the owner opens it as well"
        );
        let undo = volsnap::ops::restore::RestoreOptions {
            archive: Archive::Snapshot(Box::new(safety.open_with(&key).unwrap())),
            ..options
        };
        restore(&world.host, &undo, execute).await.unwrap().unwrap();
        let before: Vec<_> = KEPT.1.into_iter().chain([LATER]).collect();
        assert_eq!(rows(), before);

        // Once the time to undo is over, the next run removes the key.
        assert!(path_of(&world.state(), &id).exists());
        tokio::time::sleep(UNDO_FOR.to_std().unwrap()).await;
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        assert!(!path_of(&world.state(), &id).exists());
    });
}

#[test]
fn a_repository_that_is_encrypted_to_others_than_before_gets_nothing_and_nothing_is_stopped() {
    run(async {
        let world = encrypted_world().await;
        let started = world.container("db").await.state.started_at;
        let mut repository = Repository::open(&world.repository()).await.unwrap();
        let ours = repository.recipients().unwrap().clone();
        let thief = NewKey::generate().recipient;
        repository.change_recipients(thief.clone(), world.host.clock.now()).await.unwrap();
        for scenario in [TakeSnapshot::STOP_DIRECT, TakeSnapshot::STOP_STAGED, TakeSnapshot::ONLINE] {
            let error = scenario.act(&world).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{}", error.chain());
            assert!(error.chain().contains(&thief.to_string()), "{}", error.chain());
        }
        let options = Restore::Origin.options(&world).await;
        let error = restore(&world.host, &options, execute).await.unwrap_err();
        assert!(
            error.chain().contains(&thief.to_string()),
            "a safety snapshot would be his: {}",
            error.chain()
        );
        assert_eq!(world.container("db").await.state.started_at, started, "it was stopped for nothing");
        assert_eq!(listed(&world.repository()).await.len(), 1);

        // The owner takes him out again; this host knows those again.
        repository.change_recipients(ours, world.host.clock.now()).await.unwrap();
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        assert_eq!(listed(&world.repository()).await.len(), 2);
    });
}

#[test]
fn a_plain_repository_in_the_place_of_an_encrypted_one_gets_nothing() {
    run(async {
        let world = encrypted_world().await;
        std::fs::remove_dir_all(world.repository()).unwrap();
        let error = TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap_err();
        assert!(error.chain().contains("is gone"), "{}", error.chain());
        assert!(!world.repository().exists(), "none is made that anybody could read");
        Repository::open_or_init(&world.repository(), &world.host.clock).await.unwrap();
        let error = TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap_err();
        assert!(error.chain().contains("is not encrypted"), "{}", error.chain());
        assert_eq!(listed(&world.repository()).await.len(), 0);
    });
}

/// Returns a world in which a run has died just before its first call of this name.
async fn dead_before(scenario: &dyn Scenario, name: &str) -> World {
    let prepared = async || {
        let mut world = World::new(false).await;
        scenario.prepare(&mut world).await;
        world
    };
    let mut undisturbed = prepared().await;
    undisturbed.arm(None);
    scenario.act(&undisturbed).await.unwrap();
    let number = undisturbed.failing.calls().iter().find(|call| call.name == name).unwrap().number;
    let mut world = prepared().await;
    world.arm(Some((number, Mode::Kill)));
    assert!(drive(&world, scenario.act(&world)).await.is_none(), "it did not die");
    world.arm(None);
    world
}

#[test]
fn recipients_that_cannot_be_read_keep_nobody_from_recovering() {
    run(async {
        let mut world = dead_before(&TakeSnapshot::STOP_DIRECT, "agent archive").await;
        assert!(!world.answers("db").await);
        world.host.recipients = SaidRecipients::new(Err(Error::usage("read /gone, which is unmounted")));
        recover(&world.host, RetryBudget::COMMAND).await.unwrap();
        assert!(world.answers("db").await);
        let started = world.container("db").await.state.started_at;
        let error = TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.chain().contains("/gone"), "{}", error.chain());
        assert_eq!(world.container("db").await.state.started_at, started, "it was stopped for nothing");
    });
}

/// What a person gives who is asked for an identity.
#[derive(Debug)]
struct Gives(Identities);

#[async_trait::async_trait]
impl AskIdentities for Gives {
    async fn identities(&self) -> volsnap::Result<Option<Identities>> {
        Ok(Some(self.0.clone()))
    }
}

#[test]
fn old_data_comes_back_wherever_the_state_directory_is_by_then_and_by_the_owners_identity_if_its_key_is_gone()
{
    run(async {
        for has_key in [true, false] {
            let mut world = dead_before(&Restore::InPlaceEncrypted, "agent extract").await;
            let rows = |world: &World| world.rows(&world.engine.directory_of(DATA));
            let state = world.root().join("moved");
            std::fs::rename(world.state(), &state).unwrap();
            world.host.saga.state = state.clone();
            if !has_key {
                std::fs::remove_dir_all(state.join("undo-keys")).unwrap();
                let error = recover(&world.host, RetryBudget::COMMAND).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotPutBack);
                assert!(error.state_text().unwrap().contains("its own key"), "{:?}", error.state_text());
                let next = error.hints()[0].to_string();
                assert!(next.starts_with("export VOLSNAP_IDENTITY_FILE=FILE"), "{next}");
                assert!(!world.answers("db").await, "nobody starts it on nothing");
                let owner = world.key.as_ref().unwrap().identities();
                world.host.identities = Some(Arc::new(Gives(owner)));
            }
            recover(&world.host, RetryBudget::COMMAND).await.unwrap();
            let before: Vec<_> = KEPT.1.into_iter().chain([LATER]).collect();
            assert_eq!(rows(&world), before, "with the key: {has_key}");
            assert!(world.answers("db").await);
        }
    });
}

#[test]
fn what_does_not_decrypt_to_what_was_sealed_is_refused_before_anything_is_stopped() {
    run(async {
        let mut world = encrypted_world().await;
        let key = world.key.take().unwrap();
        let snapshot = listed(&world.repository()).await.remove(0);
        let digest = |stored: &[u8]| blake3::hash(stored).to_hex().to_string();
        // Whoever can write there, and knows the recipients, can have the stored digests fit; but not what is sealed.
        let other = NewKey::generate();
        let mut sealer = Sealer::to(&key.recipient.and(&other.recipient)).unwrap();
        let mut stored = sealer.push(b"something else").unwrap().to_vec();
        stored.extend(sealer.finish().unwrap().0);
        std::fs::write(snapshot.archive_path(), &stored).unwrap();
        let mut snapshot = snapshot.open_with(&key.identities()).unwrap();
        snapshot.manifest.parts.first_mut().archive.blake3 = digest(&stored);
        let error = check_archive(&snapshot, &*world.host.monitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.chain().contains("does not have the digest that was sealed"), "{}", error.chain());
        // So it is if nothing opens what is there.
        std::fs::write(snapshot.archive_path(), [&stored[..stored.len() - 1], &[0]].concat()).unwrap();
        let stored = std::fs::read(snapshot.archive_path()).unwrap();
        snapshot.manifest.parts.first_mut().archive.blake3 = digest(&stored);
        let error = check_archive(&snapshot, &*world.host.monitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.chain().contains("cannot be decrypted"), "{}", error.chain());
    });
}

#[test]
fn what_is_not_encrypted_is_no_snapshot_of_an_encrypted_repository() {
    run(async {
        let world = encrypted_world().await;
        // Whoever can write to it puts one of his own there, newer than all others.
        let plain = World::new(false).await;
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        TakeSnapshot::STOP_DIRECT.act(&plain).await.unwrap();
        let planted = listed(&plain.repository()).await.remove(0);
        let folder = listed(&world.repository()).await[0].manifest_path().parent().unwrap().to_owned();
        let manifest = planted.manifest_path();
        for file in files_below(manifest.parent().unwrap()) {
            std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
        let repository = Repository::open(&world.repository()).await.unwrap();
        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!((listing.snapshots.len(), listing.unreadable.len()), (1, 1), "{listing:?}");
        assert!(listing.unreadable[0].why.contains("it is not encrypted"), "{:?}", listing.unreadable);
        assert!(listing.unreadable[0].obstructs.is_none(), "it keeps nobody from pruning");
        let latest = repository.resolve("latest").await;
        assert!(latest.is_err() || latest.unwrap().manifest.is_encrypted());
        let by_path = Snapshot::from_file(&folder.join(manifest.file_name().unwrap())).await;
        assert!(by_path.unwrap_err().to_string().contains("it is not encrypted"));
    });
}

fn second(world: &World) -> PathBuf {
    world.elsewhere.path().join("second")
}

fn copying(world: &World) -> CopyOptions {
    CopyOptions {
        from: world.repository(),
        to: second(world),
        what: Vec::new(),
        project: None,
        all: false,
        init: true,
        dry_run: false,
        encrypt_to: None,
        identities: None,
    }
}

#[test]
fn a_copy_keeps_the_encryption_and_needs_no_identity() {
    run(async {
        let world = encrypted_world().await;
        let report = copy(&world.host, &copying(&world)).await.unwrap();
        assert_eq!((report.copied.len(), report.failed), (1, Vec::new()));
        let (from, to) =
            (listed(&world.repository()).await.remove(0), listed(&second(&world)).await.remove(0));
        assert_eq!(from.manifest, to.manifest);
        let bytes = |snapshot: &Snapshot| std::fs::read(snapshot.archive_path()).unwrap();
        assert_eq!(bytes(&from), bytes(&to));
        to.open_with(&world.key.as_ref().unwrap().identities()).unwrap();
    });
}

#[test]
fn a_copy_encrypts_to_others_and_what_was_plain_as_the_second_repository_is() {
    run(async {
        let world = encrypted_world().await;
        let (one, other) = (NewKey::generate(), NewKey::generate());
        let both = Some(one.recipient.and(&other.recipient));
        let rotate = CopyOptions { encrypt_to: both.clone(), ..copying(&world) };
        let error = copy(&world.host, &rotate).await.unwrap_err();
        assert!(error.chain().contains("no identity was given"), "{}", error.chain());
        let identities = Some(world.key.as_ref().unwrap().identities());
        let report = copy(&world.host, &CopyOptions { identities, ..rotate }).await.unwrap();
        assert_eq!((report.copied.len(), report.failed), (1, Vec::new()));
        assert_eq!(Repository::open(&second(&world)).await.unwrap().recipients(), both.as_ref());
        let (from, to) =
            (listed(&world.repository()).await.remove(0), listed(&second(&world)).await.remove(0));
        assert!(
            to.open_with(&world.key.as_ref().unwrap().identities()).is_err(),
            "the old key opens nothing there"
        );
        let (from, to) = (
            from.open_with(&world.key.as_ref().unwrap().identities()).unwrap(),
            to.open_with(&other.identities()).unwrap(),
        );
        assert_eq!(from.plain_digests(), to.plain_digests());
        assert_eq!(from.manifest.facts, to.manifest.facts);
        let report = verify(to, &world.host.clock, world.host.monitor.clone()).await.unwrap();
        assert!(report.ok && report.files > 0, "{report:?}");

        let plain = World::new(false).await;
        TakeSnapshot::STOP_DIRECT.act(&plain).await.unwrap();
        let location = RepositoryLocation::probe(&second(&plain)).await.unwrap();
        location.open_or_init_encrypted(&one.recipient, &plain.host.clock).await.unwrap();
        let report = copy(&plain.host, &copying(&plain)).await.unwrap();
        assert_eq!((report.copied.len(), report.failed), (1, Vec::new()));
        let copied = listed(&second(&plain)).await.remove(0);
        assert!(copied.is_locked());
        assert_eq!(has(&second(&plain), "postgres:15"), None);
        let copied = copied.open_with(&one.identities()).unwrap();
        assert!(verify(copied, &plain.host.clock, plain.host.monitor.clone()).await.unwrap().ok);
    });
}

#[test]
fn a_key_is_added_and_taken_away_for_what_comes_and_a_check_says_what_an_identity_opens() {
    run(async {
        let world = encrypted_world().await;
        let trust = Trust::new(&world.state(), None);
        let (old, new, now) = (world.key.as_ref().unwrap(), NewKey::generate(), world.host.clock.now());
        let mut repository = Repository::open(&world.repository()).await.unwrap();
        assert!(key::add(&mut repository, &new.recipient, &trust, now).await.unwrap());
        assert!(
            !key::add(&mut repository, &new.recipient, &trust, now).await.unwrap(),
            "it is there already"
        );
        assert!(
            key::remove(&mut repository, &old.recipient, &trust, false, now).await.is_err(),
            "one alone is left"
        );
        assert!(key::remove(&mut repository, &old.recipient, &trust, true, now).await.unwrap());
        let last: Recipients = new.recipient.clone();
        assert!(
            key::remove(&mut repository, &last, &trust, true, now).await.is_err(),
            "nobody would be left"
        );

        let before = key::check(&repository, &old.identities()).await.unwrap();
        assert_eq!((before.opens_new, before.not_opened), (Some(false), (0, 1)));
        assert!(before.opened.is_some() && before.bytes > 0);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        let checked = key::check(&repository, &new.identities()).await.unwrap();
        assert_eq!((checked.opens_new, checked.not_opened), (Some(true), (1, 2)));
        let error = key::check(&repository, &old.identities()).await.unwrap_err();
        assert!(error.chain().contains("no identity that was given opens it"), "{}", error.chain());
    });
}
