//! A repository in a bucket: made, listed, shown and verified there, and what is said when the server does not do it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use volsnap::clock::Clock;
use volsnap::model::ids::SnapshotId;
use volsnap::repository::Repository;
use volsnap::store::bucket::BucketStore;
use volsnap::store::surroundings::Surroundings;
use volsnap::store::{Key, Store};

use crate::hand_made::{Recipe, database, id, make_in, tree};
use crate::program::{Ran, Volsnap};
use crate::s3::{Fault, KEYS, Proxy, Rule, Server};
use crate::schema::assert_fits;

struct Keys;

impl Surroundings for Keys {
    fn variable(&self, name: &str) -> Option<String> {
        KEYS.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Runs the program on a repository elsewhere, with the keys for it.
fn run(volsnap: &Volsnap, url: &str, arguments: &[&str]) -> Ran {
    let ran = volsnap.run_with(&[&["--repo", url], arguments].concat(), &KEYS);
    let said = format!("{}{}", ran.stdout(), ran.stderr());
    assert!(!said.contains(KEYS[1].1), "it says the secret: {said}");
    ran
}

fn make(at: SocketAddr, folder: &str, tree: &Path, recipe: &Recipe<'_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _ = runtime.block_on(async {
        let store: Arc<dyn Store> =
            Arc::new(BucketStore::open(&Server::url(at, folder), &Keys).await.unwrap());
        let address = store.address().clone();
        let repository = Repository::open_or_init_in(store, &address, &Clock::system()).await.unwrap();
        make_in(&repository, tree, recipe).await
    });
}

fn rule(method: &'static str, target: &'static str, fault: Fault) -> Rule {
    Rule { method, target, skip: 0, times: 99, fault }
}

#[test]
fn a_repository_in_a_bucket_is_made_listed_shown_and_verified() {
    let Some(server) = Server::start() else { return };
    let (volsnap, url) = (Volsnap::new(), Server::url(server.address, "db/host-1"));
    let missing = run(&volsnap, &url, &["list"]);
    assert!(missing.expect(2).stderr().contains(&url), "{}", missing.stderr());
    let hint = missing.next().concat();
    assert!(hint.contains("--repo") && hint.contains("init"), "{hint}");

    for made in [true, false] {
        let object = run(&volsnap, &url, &["init", "--json"]).json();
        assert_fits("init", &object);
        assert_eq!(
            (&object["made"], object["repository"].as_str()),
            (&Value::Bool(made), Some(url.as_str()))
        );
        assert_eq!(object["store"]["conditional_create"], true);
    }
    assert_eq!(server.objects(), ["db/host-1/volsnap.json"], "what was tried leaves nothing");
    assert!(run(&volsnap, &url, &["init"]).expect(0).stdout().contains("the server refuses it"));

    let (tree, (files, inspection)) = (tree(3), database());
    make(server.address, "db/host-1", tree.path(), &Recipe { second: 1, ..Recipe::default() });
    let proved = |manifest: &mut volsnap::model::manifest::Manifest| {
        manifest.evidence.database = Some(inspection.clone());
    };
    make(
        server.address,
        "db/host-1",
        files.path(),
        &Recipe { second: 2, adjust: &proved, ..Recipe::default() },
    );
    let listed = run(&volsnap, &url, &["list", "--json"]).json();
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [1, 2].map(id).each_ref().map(SnapshotId::as_str));
    let archive = listed[0]["archive"].as_str().unwrap();
    assert!(
        archive.starts_with("s3://volsnap-test/db/host-1/snapshots/shop_db_data/")
            && archive.ends_with(".tar.zst")
    );
    let shown = run(&volsnap, &url, &["show", ids[0]]).expect(0).stdout();
    let unpack = format!(
        "aws s3 cp {archive} - --endpoint-url http://{} --region us-east-1 | tar --zstd ",
        server.address
    );
    assert!(shown.contains(&unpack), "{shown}");
    let files = run(&volsnap, &url, &["show", ids[0], "--files"]).expect(0).stdout();
    assert!(files.contains("sub/random"), "{files}");
    for id in &ids {
        let verified = run(&volsnap, &url, &["verify", id, "--json"]).json();
        assert_eq!(verified["problems"].as_array().map(Vec::len), Some(0), "{verified}");
    }
    let text = run(&volsnap, &url, &["list"]).expect(0).stdout();
    assert!(!text.contains("incomplete") && !text.contains("never"), "{text}");
    assert_eq!(server.objects().iter().filter(|name| name.contains(".verified-")).count(), 2);

    // What is printed to type next, here and where there is no repository yet.
    let paste = |command: &str| Ran::of(volsnap.shell().envs(KEYS).args(["-c", command]));
    let refused = run(&volsnap, &url, &["remove", ids[0], "--grace", "0s"]);
    let longer = refused.expect(2).next().remove(0);
    let removed = paste(&longer);
    assert!(longer.contains("--grace 1h") && removed.expect(0).stdout().contains("is marked"), "{longer}");
    let missing = run(&volsnap, &Server::url(server.address, "db/host-2"), &["list"]);
    let init = missing.expect(2).next().remove(0);
    let _ = paste(&init).expect(0);
    assert!(server.objects().iter().any(|name| name == "db/host-2/volsnap.json"), "{init}");
}

/// Replaces an object behind everybody's back.
fn replace(at: SocketAddr, folder: &str, name: &str, contents: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = BucketStore::open(&Server::url(at, folder), &Keys).await.unwrap();
        let key = Key::new(name.strip_prefix(&format!("{folder}/")).unwrap()).unwrap();
        store.delete(&key).await.unwrap();
        store.put(&key, contents.into()).await.unwrap();
    });
}

#[test]
fn damage_in_a_bucket_is_found() {
    let Some(server) = Server::start() else { return };
    let (volsnap, url, tree) = (Volsnap::new(), Server::url(server.address, "d"), tree(4));
    make(server.address, "d", tree.path(), &Recipe::default());
    let length = run(&volsnap, &url, &["list", "--json"]).json()[0]["stored_bytes"].as_u64().unwrap();
    let name = server.objects().into_iter().find(|name| name.ends_with(".tar.zst")).unwrap();
    // Of the right length, so only its bytes tell.
    replace(server.address, "d", &name, vec![7; usize::try_from(length).unwrap()]);
    let verified = run(&volsnap, &url, &["verify", "latest", "--json"]);
    let report: Value = serde_json::from_str(&verified.expect(3).stdout()).unwrap();
    assert!(!report["problems"].as_array().unwrap().is_empty(), "{report:#}");
    replace(server.address, "d", &name, b"short".to_vec());
    let ran = run(&volsnap, &url, &["verify", "latest"]);
    assert!(ran.expect(3).stderr().contains("has 5 bytes"), "{}", ran.stderr());
}

#[test]
fn what_a_server_refuses_is_said_with_the_place_the_state_and_what_to_do() {
    let Some(server) = Server::start() else { return };
    let (volsnap, tree) = (Volsnap::new(), tree(5));
    make(server.address, "r", tree.path(), &Recipe::default());
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "r");
    for (status, code, said, hint) in [
        (404, "NoSuchBucket", "the server has no such bucket", "make the bucket"),
        (403, "InvalidAccessKeyId", "the server does not know the access key", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret is not that of the access key", "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", "the access key may not do this", "s3:ListBucket"),
        (400, "ExpiredToken", "the session token has expired", "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "the clocks here and there differ too much", "chrony"),
        (301, "PermanentRedirect", "the bucket is in another region", "region="),
    ] {
        for command in [&["list"][..], &["verify", "latest"], &["init"], &["show", "latest"]] {
            proxy.set(vec![
                rule("GET", "r", Fault::Answer(status, code)),
                rule("GET", "prefix", Fault::Answer(status, code)),
            ]);
            let ran = run(&volsnap, &url, command);
            let text = ran.expect(1).stderr();
            for part in [said, hint, "s3://volsnap-test/r", "nothing was changed there"] {
                assert!(text.contains(part), "{code} {command:?}: {part:?} is missing in {text}");
            }
        }
    }
    proxy.set(Vec::new());
    // In the middle: the list is there, and the archive may not be read.
    proxy.set(vec![rule("GET", ".tar.zst", Fault::Answer(403, "AccessDenied"))]);
    let ran = run(&volsnap, &url, &["verify", "latest"]);
    assert!(ran.expect(1).stderr().contains("may not do this (403 AccessDenied)"), "{}", ran.stderr());
    for (url, said, hint) in [
        ("s3://volsnap-test?endpoint=http://127.0.0.1:1".to_owned(), "nothing listens there", "endpoint="),
        (
            format!("s3://volsnap-test?endpoint=https://{}", server.address),
            "does not speak this protocol",
            "endpoint=",
        ),
        (
            "s3://volsnap-test?endpoint=http://no-such-host.invalid".to_owned(),
            "no server has that name",
            "endpoint=",
        ),
        ("s3://volsnap-test?endpoint=minio:9000".to_owned(), "is no URL", "--repo s3://"),
        ("ftp://host/backups".to_owned(), "nowhere else", "--repo s3://"),
    ] {
        let ran = run(&volsnap, &url, &["list"]);
        let text = ran.stderr();
        assert!(matches!(ran.code(), Some(1 | 2)), "{text}");
        assert!(
            text.contains(said) && text.contains(hint) && text.contains(url.split('?').next().unwrap()),
            "{url}: {text}"
        );
    }
    let nobody = volsnap.run_with(&["--repo", &url, "list"], &[]);
    assert!(nobody.expect(1).stderr().contains("there is no access key"), "{}", nobody.stderr());
}

#[test]
fn every_verb_that_reads_waits_for_what_passes() {
    let Some(server) = Server::start() else { return };
    let (volsnap, tree) = (Volsnap::new(), tree(6));
    make(server.address, "w", tree.path(), &Recipe::default());
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "w");
    let verbs = [
        &["list"][..],
        &["show", "latest"],
        &["show", "latest", "--files"],
        &["verify", "latest"],
        &["init"],
    ];
    // Before, it was not looked at; from now on it was.
    let _ = run(&volsnap, &url, &["verify", "latest"]).expect(0);
    let expected: Vec<_> = verbs.iter().map(|verb| run(&volsnap, &url, verb).expect(0).stdout()).collect();
    for fault in [
        Fault::Answer(500, "InternalError"),
        Fault::Answer(503, "SlowDown"),
        Fault::HangUp,
        Fault::CutAfter(100),
        Fault::Slow(std::time::Duration::from_millis(300)),
    ] {
        for (verb, expected) in verbs.iter().zip(&expected) {
            // The marker, the list, the manifest, the archive and the file list, each once.
            let targets = ["volsnap.json", "list-type", "2f4a91.json", ".tar.zst", ".files.jsonl"];
            let rules =
                targets.map(|target| Rule { method: "GET", target, skip: 0, times: 1, fault: fault.clone() });
            proxy.set(rules.to_vec());
            let ran = run(&volsnap, &url, verb);
            let said = ran.expect(0).stdout();
            assert!(proxy.met() > 0, "{verb:?} {fault:?}");
            // What was verified meanwhile is told, so of these only the beginning is as it was.
            let begins = |text: &str| text.split_whitespace().take(6).map(str::to_owned).collect::<Vec<_>>();
            let is_same = match *verb {
                ["show", _, "--files"] | ["init"] => said == *expected,
                _ => begins(&said) == begins(expected),
            };
            assert!(is_same, "{verb:?} {fault:?}: {said}");
        }
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_never_repeated() {
    let volsnap = Volsnap::new();
    for url in [
        "s3://AKIA:hunter2@bucket/a",
        "s3://bucket/a?secret_access_key=hunter2",
        "s3://b-b?endpoint=http://a:hunter2@h",
    ] {
        for command in
            [&["list"][..], &["verify", "latest"], &["init"], &["-vv", "list"], &["--json", "list"]]
        {
            let typed = volsnap.run(["--repo", url].iter().chain(command));
            let set = volsnap.run_with(command, &[("VOLSNAP_REPO", url)]);
            for ran in [typed, set] {
                let said = format!("{}{}", ran.expect(2).stdout(), ran.stderr());
                assert!(said.contains("a URL holds no credentials"), "{said}");
                assert!(!said.contains("hunter2"), "{said}");
            }
        }
    }
}

#[test]
fn keys_may_lie_in_files_or_in_a_profile_and_nothing_else_of_the_environment_is_sent() {
    let Some(server) = Server::start() else { return };
    let volsnap = Volsnap::new();
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "e");
    let stray =
        ["TOKEN", "REGION", "SESSION_TOKEN", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "BUCKET", "GITHUB_TOKEN"];
    let stray = stray.map(|name| (name, "stray-value"));
    for (name, (_, value)) in ["id", "secret"].iter().zip(KEYS) {
        std::fs::write(volsnap.home().join(name), format!("{value}\n")).unwrap();
    }
    let file = |name: &str| volsnap.home().join(name).display().to_string();
    let (key, secret) = (file("id"), file("secret"));
    let files = [("AWS_ACCESS_KEY_ID_FILE", key.as_str()), ("AWS_SECRET_ACCESS_KEY_FILE", &secret)];
    let ran = volsnap.run_with(&["--repo", &url, "init"], &[&files[..], &stray].concat());
    let _ = ran.expect(0);
    std::fs::create_dir(volsnap.home().join(".aws")).unwrap();
    let profile =
        format!("[nas]\naws_access_key_id = {}\naws_secret_access_key = {}\n", KEYS[0].1, KEYS[1].1);
    std::fs::write(volsnap.home().join(".aws/credentials"), profile).unwrap();
    let ran = volsnap.run_with(&["--repo", &url, "list"], &[&[("AWS_PROFILE", "nas")][..], &stray].concat());
    let _ = ran.expect(0);
    let requests = proxy.requests();
    assert!(requests.len() > 5);
    for head in &requests {
        assert!(head.contains(&format!("Credential={}/", KEYS[0].1)), "{head}");
        assert!(!head.contains("stray") && !head.contains(KEYS[1].1), "{head}");
    }
}
