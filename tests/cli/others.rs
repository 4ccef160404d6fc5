//! Repositories by SSH and by WebDAV: made, listed, shown and verified there, and what is said when that does not work.

use std::io;
use std::path::Path;
use std::sync::Arc;

use volsnap::clock::Clock;
use volsnap::repository::Repository;
use volsnap::store::Store;
use volsnap::store::sftp::SftpStore;
use volsnap::store::surroundings::Surroundings;
use volsnap::store::webdav::WebDavStore;

use crate::hand_made::{Recipe, make_in, tree};
use crate::program::Volsnap;
use crate::schema::assert_fits;
use crate::sshd::Sshd;
use crate::webdav::{LOGIN, WebDav};

struct Given<'a>(&'a [(&'a str, &'a str)]);

impl Surroundings for Given<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Goes through the verbs on a repository at a URL, in which the server shows its files below a directory.
fn goes_through_the_verbs(url: &str, environment: &[(&str, &str)], root: &Path, unpack: &str) {
    let (volsnap, tree) = (Volsnap::new(), tree(3));
    let run = |arguments: &[&str]| {
        let ran = volsnap.run_with(&[&["--repo", url], arguments].concat(), environment);
        assert!(!format!("{}{}", ran.stdout(), ran.stderr()).contains(LOGIN[1].1), "it says the password");
        ran
    };
    assert!(run(&["list"]).expect(2).stderr().contains(url), "there is none yet");
    for made in [true, false] {
        let object = run(&["init", "--json"]).json();
        assert_fits("init", &object);
        assert_eq!((&object["made"], object["repository"].as_str()), (&made.into(), Some(url)));
        assert_eq!(object["store"]["conditional_create"], true);
    }
    let names = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(names(root), 2, "the marker and the folder of the snapshots: what was tried leaves nothing");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let snapshot = runtime.block_on(async {
        let around = Given(environment);
        let store: Arc<dyn Store> = if url.starts_with("sftp") {
            Arc::new(SftpStore::open(url, &around).await.unwrap())
        } else {
            Arc::new(WebDavStore::open(url, &around).unwrap())
        };
        let address = store.address().clone();
        let repository = Repository::open_or_init_in(store, &address, &Clock::system()).await.unwrap();
        make_in(&repository, tree.path(), &Recipe::default()).await
    });
    let id = snapshot.manifest.id.as_str();
    let listed = run(&["list", "--json"]).json();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["id"].as_str()), (1, Some(id)));
    let shown = run(&["show", id]).expect(0).stdout();
    assert!(shown.contains(unpack) && shown.contains(" | tar --zstd "), "{shown}");
    assert!(run(&["show", id, "--files"]).expect(0).stdout().contains("sub/random"));
    let verified = run(&["verify", "latest", "--json"]).json();
    assert_eq!(verified["problems"].as_array().map(Vec::len), Some(0), "{verified}");
    let text = run(&["list"]).expect(0).stdout();
    assert!(!text.contains("incomplete") && !text.contains("never"), "{text}");
    // Damage there is found, as anywhere.
    let path = snapshot.archive_path().display().to_string();
    let archive = root.join("snapshots").join(path.split_once("/snapshots/").unwrap().1);
    let length = archive.metadata().unwrap().len();
    std::fs::write(&archive, vec![7; usize::try_from(length).unwrap()]).unwrap();
    let _ = run(&["verify", "latest"]).expect(3);
}

#[test]
fn a_repository_by_ssh_is_made_listed_shown_and_verified() {
    let Some(server) = Sshd::start("") else { return };
    let config = server.config().display().to_string();
    let url = server.url("backups/db");
    let place = server.root().join("backups/db");
    goes_through_the_verbs(&url, &[("VOLSNAP_SSH_CONFIG", &config)], &place, "ssh -p ");
}

#[test]
fn a_repository_by_webdav_is_made_listed_shown_and_verified() {
    let Some(server) = WebDav::start() else { return };
    let url = WebDav::url(server.address, "backups/db");
    let unpack = format!("curl -fsS --user USER http://{}/backups/db/snapshots/", server.address);
    goes_through_the_verbs(&url, &LOGIN, &server.root().join("backups/db"), &unpack);
}

#[test]
fn what_keeps_from_a_server_is_said_with_the_place_the_state_and_what_to_do() {
    let volsnap = Volsnap::new();
    let none = volsnap.home().join("none").display().to_string();
    std::fs::write(&none, "").unwrap();
    let environment = [("VOLSNAP_SSH_CONFIG", none.as_str())];
    for (url, said, hint) in [
        ("sftp://me@127.0.0.1:1/srv/backups", "nothing listens there", "~/.ssh/config"),
        ("sftp://me@no-such-host.invalid/srv/backups", "no server has that name", "~/.ssh/config"),
        ("webdavs://127.0.0.1:1/backups", "nothing listens there", "webdavs://NAME:PORT/FOLDER"),
        ("webdavs://no-such-host.invalid/backups", "no server has that name", "webdavs://NAME:PORT/FOLDER"),
    ] {
        let ran = volsnap.run_with(&["--repo", url, "list"], &environment);
        let text = ran.expect(1).stderr();
        for part in [said, hint, url, "nothing was changed there"] {
            assert!(text.contains(part), "{url}: {part:?} is missing in {text}");
        }
    }
    for (url, said) in [
        ("webdav://nas.example/backups", "for everybody to read"),
        ("sftp://nas.example", "names no folder"),
        ("gs://b", "no bucket's name"),
        ("az://account", "no container"),
        ("gs://backups?endpoint=http://nas.example", "for everybody to read"),
    ] {
        volsnap.run(["--repo", url, "list"]).refused(2, &[said, url]);
    }
}

#[test]
fn what_goes_to_this_machine_in_clear_is_told_to_no_proxy() {
    let volsnap = Volsnap::new();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let at = format!("http://{}", proxy.local_addr().unwrap());
    let environment = [
        ("http_proxy", at.as_str()),
        ("HTTP_PROXY", &at),
        ("ALL_PROXY", &at),
        ("NO_PROXY", ""),
        ("no_proxy", ""),
        ("WEBDAV_USERNAME", "volsnap"),
        ("WEBDAV_PASSWORD", "hunter2"),
        ("GOOGLE_OAUTH_ACCESS_TOKEN", "hunter2"),
    ];
    for url in ["webdav://127.0.0.1:1/backups", "gs://backups/db?endpoint=http://127.0.0.1:1"] {
        volsnap.run_with(&["--repo", url, "list"], &environment).expect(1);
        let called = proxy.accept();
        assert!(called.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{url}");
    }
}
