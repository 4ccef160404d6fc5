//! The store against a real server, and against all that goes wrong on the way to one.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use server::{Fault, KEYS, Proxy, Rule, Server};

#[path = "../../../tests/shared/s3.rs"]
#[expect(dead_code, reason = "some of it is only for the tests of the program")]
pub(in crate::store) mod server;

/// The keys that the server takes.
struct Keys;

impl Surroundings for Keys {
    fn variable(&self, name: &str) -> Option<String> {
        KEYS.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

async fn open(at: SocketAddr, folder: &str) -> Arc<dyn Store> {
    Arc::new(BucketStore::open(&Server::url(at, folder), &Keys).await.unwrap())
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Returns bytes of which no two parts are alike.
fn content(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    io::Read::read_exact(&mut blake3::Hasher::new().finalize_xof(), &mut bytes).unwrap();
    bytes.into()
}

async fn write(store: &dyn Store, name: &str, content: &Bytes) -> io::Result<()> {
    let mut writer = store.create(&key(name)).await?;
    for piece in content.chunks(4 << 20) {
        if let Err(error) = writer.write(content.slice_ref(piece)).await {
            writer.abort().await.unwrap();
            return Err(error);
        }
    }
    writer.finish().await
}

async fn read(store: &dyn Store, name: &str) -> io::Result<Vec<u8>> {
    store.read(&key(name), 1 << 30).await
}

fn rule(method: &'static str, target: &'static str, times: usize, fault: Fault) -> Rule {
    Rule { method, target, skip: 0, times, fault }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_promises_of_a_store() {
    let Some(server) = Server::start() else { return };
    let store = open(server.address, "kept").await;
    let probed = store.probe("0123").await.unwrap().unwrap();
    assert_eq!(probed, Probed { conditional_create: true, deletes: true, lists_uploads: true });
    assert!(!store.capabilities().never_overwrites);
    store.trust(&probed);
    assert!(store.capabilities().never_overwrites && !store.capabilities().is_local);
    crate::store::tests::keeps_its_promises(store).await;
    // Other folders of the bucket are others' business, and one whose name goes on is no folder of ours.
    open(server.address, "kept-2").await.put(&key("theirs"), Bytes::new()).await.unwrap();
    let names: Vec<_> = open(server.address, "kept").await.list(&Key::ROOT).await.unwrap();
    assert!(names.iter().all(|meta| meta.key.as_str() == "folder2"), "{names:?}");
    assert_eq!(server.unfinished_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_object_is_written_in_parts_and_read_in_pieces() {
    let Some(server) = Server::start() else { return };
    let store = open(server.address, "big").await;
    // One byte less than a part, a part, one more, and some parts.
    for (at, length) in [(16 << 20) - 1, 16 << 20, (16 << 20) + 1, 45_000_001].into_iter().enumerate() {
        let (name, content) = (format!("{at}"), content(length));
        write(&*store, &name, &content).await.unwrap();
        assert_eq!(store.head(&key(&name)).await.unwrap().bytes, length as u64);
        assert!(read(&*store, &name).await.unwrap() == content, "{length}");
        for range in [0..1, 8 << 20..(8 << 20) + 1, 1000..15_000_000, 10_000_000..99_000_000] {
            let asked = range.start as u64..range.end as u64;
            let stream = store.get(&key(&name), Some(asked)).await.unwrap();
            let expected = &content[range.start..content.len().min(range.end)];
            assert_eq!(stream.length(), expected.len() as u64);
            assert!(stream.read_to_end(1 << 30).await.unwrap() == expected, "{length} {range:?}");
        }
    }
    assert_eq!(server.unfinished_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_leaves_is_found_by_its_name_and_removed() {
    let Some(server) = Server::start() else { return };
    let store = open(server.address, "dead").await;
    for name in ["a.tar", "a.tar.zst"] {
        let mut writer = store.create(&key(name)).await.unwrap();
        writer.write(content(33 << 20)).await.unwrap();
        // As if the process had died here.
        std::mem::forget(writer);
    }
    assert_eq!(server.unfinished_uploads(), 2);
    assert!(store.list(&Key::ROOT).await.unwrap().is_empty(), "parts are no object");
    let later = open(server.address, "dead").await;
    later.delete_partial(&key("a.tar")).await.unwrap();
    assert_eq!(server.unfinished_uploads(), 1, "another's name only begins so");
    later.delete_all_of(&key("a.tar.zst")).await.unwrap();
    assert_eq!(server.unfinished_uploads(), 0);
    // A writer that is dropped cleans up behind itself.
    let mut writer = later.create(&key("dropped")).await.unwrap();
    writer.write(content(33 << 20)).await.unwrap();
    drop(writer);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.unfinished_uploads() > 0 {
        assert!(Instant::now() < deadline, "the parts of a dropped writer stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for_and_what_was_done_is_not_taken_for_undone() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(&server, Vec::new());
    let store = open(proxy.address, "faults").await;
    store.trust(&Probed { conditional_create: true, deletes: true, lists_uploads: true });
    let (small, big) = (content(100_000), content(40 << 20));
    let upload = [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId=")];
    for (at, fault) in [
        Fault::Answer(500, "InternalError"),
        Fault::Answer(503, "SlowDown"),
        Fault::HangUp,
        Fault::DoneBut(500),
        Fault::CutAfter(0),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("small-{at}");
        proxy.set(vec![rule("PUT", "small-", 1, fault.clone())]);
        write(&*store, &name, &small).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(proxy.met(), 1);
        proxy.set(vec![rule("GET", "small-", 1, fault.clone())]);
        assert!(read(&*store, &name).await.unwrap() == small, "{fault:?}");
        assert_eq!(proxy.met(), 1);
        for (method, target) in upload {
            let name = format!("big-{at}-{}", target.trim_end_matches('='));
            proxy.set(vec![rule(method, target, 1, fault.clone())]);
            write(&*store, &name, &big)
                .await
                .unwrap_or_else(|error| panic!("{method} {target} {fault:?}: {error}"));
            assert_eq!(proxy.met(), 1, "{method} {target} {fault:?}");
            assert_eq!(server.unfinished_uploads(), 0, "{method} {target} {fault:?}");
        }
        proxy.set(vec![Rule { method: "GET", target: "big-", skip: 2, times: 2, fault: fault.clone() }]);
        assert!(read(&*store, &format!("big-{at}-uploads")).await.unwrap() == big, "{fault:?}");
        assert_eq!(proxy.met(), 2);
    }
    // Cut in the middle of a piece.
    proxy.set(vec![rule("GET", "big-0", 3, Fault::CutAfter(1_000_000))]);
    assert!(read(&*store, "big-0-uploads").await.unwrap() == big);
    assert_eq!(server.unfinished_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_fails_with_its_reason_and_leaves_nothing() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(&server, Vec::new());
    let store = open(proxy.address, "refused").await;
    for (at, (method, target)) in
        [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId=")].into_iter().enumerate()
    {
        proxy.set(vec![rule(method, target, 99, Fault::Answer(403, "AccessDenied"))]);
        let error = write(&*store, &format!("object-{at}"), &content(40 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{method} {target}");
        assert!(error.to_string().contains("403 AccessDenied"), "{error}");
    }
    proxy.set(vec![rule("PUT", "small", 99, Fault::Answer(403, "AccessDenied"))]);
    let error = write(&*store, "small", &content(9)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    proxy.set(Vec::new());
    assert!(store.list(&Key::ROOT).await.unwrap().is_empty());
    assert_eq!(server.unfinished_uploads(), 0);
    // An object that shrinks, or that is replaced, while it is read.
    write(&*store, "changes", &content(20 << 20)).await.unwrap();
    let stream = store.get(&key("changes"), None).await.unwrap();
    store.delete(&key("changes")).await.unwrap();
    write(&*store, "changes", &content((20 << 20) + 1)).await.unwrap();
    assert!(stream.read_to_end(1 << 30).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_or_refuses_them_is_known_for_it() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(&server, Vec::new());
    let store = open(proxy.address, "conditions").await;
    for (fault, requests) in [(Fault::WithoutConditions, 2), (Fault::Answer(501, "NotImplemented"), 1)] {
        proxy.set(vec![rule("PUT", "probe-", requests, fault.clone())]);
        let began = Instant::now();
        let probed = store.probe("4567").await.unwrap().unwrap();
        assert!(!probed.conditional_create && probed.deletes, "{fault:?}");
        assert_eq!(proxy.met(), requests, "{fault:?}: {:?}", proxy.requests());
        assert!(began.elapsed() < Duration::from_secs(20), "it tried again what never will be");
        store.trust(&probed);
        assert!(!store.capabilities().never_overwrites);
    }
    // There, too, nothing is overwritten that is there before.
    store.put(&key("a"), Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(
        store.put(&key("a"), Bytes::from_static(b"2")).await.unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(read(&*store, "a").await.unwrap(), b"1");
    // One that may not delete leaves the probe, and is known for that.
    proxy.set(vec![
        rule("DELETE", "probe-", 9, Fault::Answer(403, "AccessDenied")),
        rule("GET", "uploads", 9, Fault::Answer(403, "AccessDenied")),
    ]);
    let probed = store.probe("89ab").await.unwrap().unwrap();
    assert_eq!(probed, Probed { conditional_create: true, deletes: false, lists_uploads: false });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_or_has_no_such_bucket_is_told_from_an_empty_one() {
    let Some(server) = Server::start() else { return };
    let told = async |url: &str| {
        let began = Instant::now();
        let error = match BucketStore::open(url, &Keys).await {
            Ok(store) => store.list(&Key::ROOT).await.unwrap_err(),
            Err(OpenError::Io(error)) => error,
            Err(OpenError::Refused(why)) => panic!("{why}"),
        };
        assert!(began.elapsed() < Duration::from_secs(15), "{url} is waited for");
        Failure::of(&error).map(|failure| failure.trouble.clone())
    };
    let port = server.address.port();
    for (url, trouble) in [
        (format!("s3://no-such-bucket/a?endpoint=http://127.0.0.1:{port}"), Trouble::NoBucket),
        (format!("s3://volsnap-test?endpoint=https://127.0.0.1:{port}"), Trouble::NoTls),
        ("s3://volsnap-test?endpoint=http://127.0.0.1:1".to_owned(), Trouble::Refused),
        ("s3://volsnap-test?endpoint=http://no-such-host.invalid".to_owned(), Trouble::UnknownHost),
    ] {
        assert_eq!(told(&url).await, Some(trouble), "{url}");
    }
}
