//! The store against a real sshd.

use std::path::{Path, PathBuf};

use super::*;
use sshd::Sshd;

#[path = "../../../tests/shared/sshd.rs"]
mod sshd;

/// Settings of `ssh` in a file.
struct Config(PathBuf);

impl Surroundings for Config {
    fn variable(&self, _name: &str) -> Option<String> {
        Some(self.0.display().to_string())
    }

    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

async fn open(server: &Sshd, folder: &str) -> Arc<dyn Store> {
    Arc::new(SftpStore::open(&server.url(folder), &Config(server.config())).await.unwrap())
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn content(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    io::Read::read_exact(&mut blake3::Hasher::new().finalize_xof(), &mut bytes).unwrap();
    bytes.into()
}

async fn write(store: &dyn Store, name: &str, content: &Bytes) -> io::Result<()> {
    let mut writer = store.create(&key(name)).await?;
    for piece in content.chunks(700_000) {
        writer.write(content.slice_ref(piece)).await?;
    }
    writer.finish().await
}

fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_by_ssh_keeps_the_promises_of_a_store_with_hard_links_and_without() {
    for (options, links) in [("", true), ("-P hardlink,statvfs,fsync", false)] {
        let Some(server) = Sshd::start(options) else { return };
        let store = open(&server, "above/kept").await;
        assert!(!server.root().join("above").exists(), "opening it changes nothing");
        store.claim().await.unwrap();
        let probed = store.probe("0123").await.unwrap().unwrap();
        assert_eq!(probed, Probed { conditional_create: links, deletes: true, lists_uploads: true });
        assert_eq!(store.capabilities().knows_free_space, links);
        store.trust(&probed);
        assert_eq!(store.capabilities().never_overwrites, links);
        crate::store::tests::keeps_its_promises(Arc::clone(&store)).await;
        // The same for another user's eyes as in a directory of this machine.
        store.put(&key("own/a"), Bytes::from_static(b"a")).await.unwrap();
        let place = server.root().join("above/kept");
        assert_eq!(
            (mode(&place), mode(&place.join("own")), mode(&place.join("own/a"))),
            (0o700, 0o700, 0o600)
        );
        std::os::unix::fs::symlink("own", place.join("link")).unwrap();
        assert!(store.list(&key("link")).await.is_err());
        assert_eq!(store.head(&key("link")).await.unwrap().kind, ObjectKind::Foreign);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn big_objects_come_back_as_they_were_in_whole_and_in_part_though_the_connection_ends_in_between() {
    let Some(server) = Sshd::start("") else { return };
    let store = open(&server, "big").await;
    store.claim().await.unwrap();
    for (at, length) in [16 << 20, (16 << 20) + 1, 9_000_001].into_iter().enumerate() {
        let (name, content) = (format!("{at}"), content(length));
        write(&*store, &name, &content).await.unwrap();
        server.cut();
        let mut stream = store.get(&key(&name), None).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        server.cut();
        let rest = stream.read_to_end(1 << 30).await.unwrap();
        assert!([&first[..], &rest].concat() == content, "{length}");
        let range = 1000..200_000;
        let part = store.get(&key(&name), Some(range)).await.unwrap().read_to_end(1 << 30).await.unwrap();
        assert!(part == content[1000..200_000], "{length}");
    }
    // What is written while it ends is no object, and does not look like one.
    let mut writer = store.create(&key("cut")).await.unwrap();
    writer.write(content(17 << 20)).await.unwrap();
    server.cut();
    let mut outcome = Ok(());
    for _ in 0..20 {
        outcome = outcome.and(writer.write(content(2 << 20)).await);
    }
    assert!(outcome.is_err() && writer.finish().await.is_err());
    assert_eq!(store.head(&key("cut")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    store.delete_all_of(&key("cut")).await.unwrap();
    let names: Vec<_> = store.list(&Key::ROOT).await.unwrap().into_iter().map(|one| one.key).collect();
    assert!(names.iter().all(|name| !name.as_str().starts_with("cut")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_leaves_is_shown_as_unfinished_and_found_by_its_key() {
    let Some(server) = Sshd::start("") else { return };
    let store = open(&server, "dead").await;
    store.claim().await.unwrap();
    for _ in 0..2 {
        let mut writer = open(&server, "dead").await.create(&key("a.tar")).await.unwrap();
        writer.write(content(17 << 20)).await.unwrap();
        // As if the process had died here.
        std::mem::forget(writer);
    }
    let names: Vec<_> =
        store.list(&Key::ROOT).await.unwrap().into_iter().map(|one| one.key.to_string()).collect();
    assert!(names.iter().all(|name| name == "a.tar.partial") && !names.is_empty(), "{names:?}");
    // Whoever writes it anew is not hindered, and takes nothing of it.
    write(&*store, "a.tar", &content(10)).await.unwrap();
    store.delete_partial(&key("a.tar")).await.unwrap();
    assert_eq!(store.delete_partial(&key("a.tar")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(server.root().join("dead")).unwrap().count(), 1);
    assert_eq!(store.read(&key("a.tar"), 99).await.unwrap(), content(10));
}

#[tokio::test]
async fn whoever_is_not_let_in_learns_why() {
    let Some(server) = Sshd::start("") else { return };
    let others = std::fs::read_to_string(server.file("stranger.pub")).unwrap();
    let port = server.url("").rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
    std::fs::write(server.file("other_hosts"), format!("[127.0.0.1]:{port} {others}")).unwrap();
    std::fs::write(server.file("no_hosts"), "").unwrap();
    for (key, known, trouble) in [
        ("stranger", "known_hosts", Trouble::NotLetIn),
        ("user", "other_hosts", Trouble::HostKey),
        ("user", "no_hosts", Trouble::HostKey),
    ] {
        let config = server.write_config("wrong", key, known);
        match SftpStore::open(&server.url("a"), &Config(config)).await {
            Err(OpenError::Io(error)) => {
                assert_eq!(Failure::of(&error).unwrap().trouble, trouble, "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let nobody = server.url("a").replace(&port, "1");
    match SftpStore::open(&nobody, &Config(server.config())).await {
        Err(OpenError::Io(error)) => {
            assert_eq!(Failure::of(&error).unwrap().trouble, Trouble::Refused, "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_waits_for_a_connection_that_does_not_come_about_does_not_try_it_once_more() {
    let Some(server) = Sshd::start("") else { return };
    let store = SftpStore::open(&server.url("a"), &Config(server.config())).await.unwrap();
    server.cut();
    drop(server);
    while !store.shared.connection.lock().await.session.is_over() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = futures_util::future::join_all((0..16).map(|_| store.shared.session())).await;
    let failed = asked.iter().filter_map(|asked| asked.as_ref().err()).filter(|error| is_lost(error));
    assert_eq!((failed.count(), store.shared.failures.load(Ordering::Acquire)), (16, 1));
}
