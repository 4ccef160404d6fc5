//! The store against a real server, and against what goes wrong on the way to it.

use std::net::SocketAddr;
use std::path::Path;

use super::*;
use crate::store::bucket::tests::server::{Fault, Proxy, Rule};
use server::{LOGIN, WebDav};

#[path = "../../../tests/shared/webdav.rs"]
mod server;

/// What the server wants to know.
struct Login(&'static str);

impl Surroundings for Login {
    fn variable(&self, name: &str) -> Option<String> {
        let value = LOGIN.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        value.map(|value| if name == "WEBDAV_PASSWORD" { format!("{value}{}", self.0) } else { value })
    }

    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn open(at: SocketAddr, folder: &str) -> Arc<dyn Store> {
    Arc::new(WebDavStore::open(&WebDav::url(at, folder), &Login("")).unwrap())
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
    for piece in content.chunks(3 << 20) {
        writer.write(content.slice_ref(piece)).await?;
    }
    writer.finish().await
}

fn rule(method: &'static str, target: &'static str, times: usize, fault: Fault) -> Rule {
    Rule { method, target, skip: 0, times, fault }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_by_webdav_keeps_the_promises_of_a_store() {
    let Some(server) = WebDav::start() else { return };
    let store = open(server.address, "above/kept");
    store.claim().await.unwrap();
    let probed = store.probe("0123").await.unwrap().unwrap();
    assert_eq!(probed, Probed { conditional_create: true, deletes: true, lists_uploads: true });
    store.trust(&probed);
    assert!(store.capabilities().never_overwrites && !store.capabilities().is_local);
    crate::store::tests::keeps_its_promises(Arc::clone(&store)).await;
    // A deletion would take a folder with all that is in it.
    store.put(&key("own/a"), Bytes::from_static(b"a")).await.unwrap();
    assert!(store.delete(&key("own")).await.is_err());
    assert_eq!(store.read(&key("own/a"), 9).await.unwrap(), b"a");
}

#[tokio::test(flavor = "multi_thread")]
async fn big_objects_come_back_as_they_were_in_whole_and_in_part() {
    let Some(server) = WebDav::start() else { return };
    let store = open(server.address, "big");
    for (at, length) in [16 << 20, (16 << 20) + 1, 40_000_001].into_iter().enumerate() {
        let (name, content) = (format!("{at}"), content(length));
        write(&*store, &name, &content).await.unwrap();
        assert!(store.read(&key(&name), 1 << 30).await.unwrap() == content, "{length}");
        let part = store.get(&key(&name), Some(1000..8_100_000)).await.unwrap();
        assert!(part.read_to_end(1 << 30).await.unwrap() == content[1000..8_100_000], "{length}");
    }
    assert_eq!(
        std::fs::read_dir(server.root().join("big")).unwrap().count(),
        3,
        "nothing else is left there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_leaves_is_shown_as_unfinished_and_found_by_its_key() {
    let Some(server) = WebDav::start() else { return };
    let store = open(server.address, "dead");
    store.claim().await.unwrap();
    for token in ["0123456789ab", "ba9876543210"] {
        std::fs::write(server.root().join(format!("dead/a.tar.{token}.partial")), "left").unwrap();
    }
    let names: Vec<_> =
        store.list(&Key::ROOT).await.unwrap().into_iter().map(|one| one.key.to_string()).collect();
    assert_eq!(names, ["a.tar.partial"; 2]);
    write(&*store, "a.tar", &content(10)).await.unwrap();
    store.delete_partial(&key("a.tar")).await.unwrap();
    assert_eq!(store.delete_partial(&key("a.tar")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(store.read(&key("a.tar"), 99).await.unwrap(), content(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for_and_an_answer_that_was_lost_is_looked_for() {
    let Some(server) = WebDav::start() else { return };
    let proxy = Proxy::before(server.address, Vec::new());
    let store = open(proxy.address, "w");
    store.claim().await.unwrap();
    for (at, fault) in [Fault::Answer(500, "x"), Fault::Answer(503, "x"), Fault::HangUp, Fault::DoneBut(500)]
        .into_iter()
        .enumerate()
    {
        let name = format!("{at}");
        let rules = ["PUT", "PROPFIND", "MOVE", "GET"].map(|method| rule(method, "/w", 1, fault.clone()));
        proxy.set(rules.to_vec());
        write(&*store, &name, &content(100)).await.unwrap();
        assert_eq!(store.read(&key(&name), 999).await.unwrap(), content(100), "{fault:?}");
        assert_eq!(proxy.met(), 4, "{fault:?}");
    }
    assert_eq!(std::fs::read_dir(server.root().join("w")).unwrap().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_is_said_by_its_kind_and_leaves_nothing() {
    let Some(server) = WebDav::start() else { return };
    let proxy = Proxy::before(server.address, Vec::new());
    let store = open(proxy.address, "r");
    store.claim().await.unwrap();
    for (status, kind, trouble) in [
        (401, io::ErrorKind::PermissionDenied, Trouble::NotLetIn),
        (403, io::ErrorKind::PermissionDenied, Trouble::Forbidden),
        (405, io::ErrorKind::Unsupported, Trouble::Unable),
        (507, io::ErrorKind::StorageFull, Trouble::Other),
        (301, io::ErrorKind::Other, Trouble::Region { there: None }),
    ] {
        for method in ["PUT", "MOVE"] {
            proxy.set(vec![rule(method, "/r", 99, Fault::Answer(status, "x"))]);
            let error = store.put(&key("a"), Bytes::from_static(b"a")).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{method} {status}: {error}");
            assert_eq!(Failure::of(&error).unwrap().trouble, trouble, "{method} {status}: {error}");
            proxy.set(Vec::new());
            assert!(store.list(&Key::ROOT).await.unwrap().is_empty(), "{method} {status}");
        }
    }
    let wrong = WebDavStore::open(&WebDav::url(server.address, "r"), &Login("x")).unwrap();
    let error = wrong.list(&Key::ROOT).await.unwrap_err();
    assert_eq!(Failure::of(&error).unwrap().trouble, Trouble::NotLetIn);
    assert!(!format!("{wrong:?} {error:?}").contains("s3cr3t"));
}
