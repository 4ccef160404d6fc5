//! A repository in a bucket, with a real engine: a snapshot, its drill, an accident and the restore; a service is never
//! held for the network, and nothing is left there of a run that died.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::database::{Postgres, Volsnap, Watched};
use crate::interruptions::guard_of;
use crate::program::Ran;
use crate::s3::{Fault, KEYS, Proxy, Rule, Server};

/// Longer than the guard takes to notice a death, and to remove what it left at the server.
const TIDY_LIMIT: Duration = Duration::from_secs(40);

fn command(volsnap: &Volsnap, url: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = volsnap.command([&["--repo", url], arguments].concat());
    command.envs(KEYS);
    command
}

fn run(volsnap: &Volsnap, url: &str, arguments: &[&str]) -> Ran {
    Ran::of(&mut command(volsnap, url, arguments))
}

fn rule(method: &'static str, target: &'static str, times: usize, fault: Fault) -> Rule {
    Rule { method, target, skip: 0, times, fault }
}

fn rows(postgres: &Postgres) -> String {
    postgres.query("select count(*), md5(string_agg(text, ',' order by text)) from filler")
}

#[tokio::test]
async fn a_database_goes_to_a_bucket_and_comes_back_from_it() {
    let Some(server) = Server::start() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let url = Server::url(server.address, "host-1");
    postgres.fill();
    let before = rows(&postgres);
    for capture in ["staged", "direct"] {
        let taken =
            run(&volsnap, &url, &["snapshot", &postgres.target(), "--capture", capture, "--drill", "--json"])
                .json();
        assert_eq!(taken["drill"]["ok"], true, "{taken:#}");
        assert!(
            taken["archive"].as_str().unwrap().starts_with("s3://volsnap-test/host-1/snapshots/"),
            "{taken:#}"
        );
    }
    assert_eq!(server.unfinished_uploads(), 0);
    let verified = run(&volsnap, &url, &["verify", "latest", "--drill"]);
    let _ = verified.expect(0);
    postgres.query("drop table filler");
    let restored = run(&volsnap, &url, &["restore", "latest", "--yes"]);
    let _ = restored.expect(0);
    postgres.await_answer();
    assert_eq!(rows(&postgres), before);
    // What was replaced is there, too, and the printed command brings it back.
    let listed = run(&volsnap, &url, &["list", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed:#}");
    postgres.assert_whole();
    volsnap.assert_no_leftovers();
    assert!(volsnap.repository_files().is_empty());
}

#[tokio::test]
async fn no_service_is_held_for_a_network_that_is_slow_and_none_stays_down_for_one_that_fails() {
    let Some(server) = Server::start() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "slow");
    let _ = run(&volsnap, &url, &["init"]).expect(0);
    let slow = Duration::from_secs(6);
    for capture in ["staged", "direct"] {
        // Every request for the archive takes longer than a service may be away.
        proxy.set(
            ["PUT", "POST", "HEAD"].map(|method| rule(method, ".tar.zst", 99, Fault::Slow(slow))).to_vec(),
        );
        let began = Instant::now();
        let taken =
            run(&volsnap, &url, &["snapshot", &postgres.target(), "--capture", capture, "--json"]).json();
        let downtime = Duration::from_millis(taken["downtime_ms"].as_u64().unwrap());
        println!("{capture}: away for {downtime:?} of {:?}", began.elapsed());
        assert!(proxy.met() > 1, "{:?}", proxy.requests());
        assert!(began.elapsed() > 2 * slow && downtime < slow, "{capture}: {downtime:?}");
        // And one that fails for good: the service is back, and nothing is left.
        let objects = server.objects();
        proxy.set(vec![rule("PUT", ".tar.zst", 99, Fault::Answer(403, "AccessDenied"))]);
        let ran = run(&volsnap, &url, &["snapshot", &postgres.target(), "--capture", capture]);
        let text = ran.expect(1).stderr();
        assert!(text.contains("403 AccessDenied") && text.contains("nothing was published"), "{text}");
        assert!(postgres.answers());
        proxy.set(Vec::new());
        assert_eq!((server.objects(), server.unfinished_uploads()), (objects, 0));
        volsnap.assert_no_leftovers();
    }
    postgres.assert_whole();
}

#[tokio::test]
async fn what_a_killed_run_has_sent_is_removed_by_its_guard() {
    let Some(server) = Server::start() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "killed");
    let _ = run(&volsnap, &url, &["init"]).expect(0);
    let objects = server.objects();
    for (step, capture) in [("archive", "staged"), ("publish", "direct"), ("write-manifest", "staged")] {
        proxy.set(vec![rule("PUT", ".tar.zst", 99, Fault::Slow(Duration::from_secs(2)))]);
        let mut watched =
            Watched::start(command(&volsnap, &url, &["snapshot", &postgres.target(), "--capture", capture]));
        assert!(watched.reach(step), "{step}");
        std::thread::sleep(Duration::from_millis(300));
        watched.signal(Signal::SIGKILL);
        let _ = watched.end();
        let began = Instant::now();
        postgres.await_answer();
        while server.objects() != objects
            || server.unfinished_uploads() > 0
            || !volsnap.unfinished().as_array().unwrap().is_empty()
        {
            // The manifest may have been on its way; then there is a snapshot.
            if step == "write-manifest" && server.objects().len() == objects.len() + 3 {
                break;
            }
            assert!(
                began.elapsed() < TIDY_LIMIT,
                "{step}: {:?}, {} uploads",
                server.objects(),
                server.unfinished_uploads()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    postgres.assert_whole();
}

#[tokio::test]
async fn who_has_no_key_brings_the_service_back_and_leaves_the_rest_to_who_has_one() {
    let Some(server) = Server::start() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let proxy = Proxy::start(&server, Vec::new());
    let url = Server::url(proxy.address, "keyless");
    let _ = run(&volsnap, &url, &["init"]).expect(0);
    // An archive of the run is there, and the service is away.
    let options = ["snapshot", &postgres.target(), "--capture", "direct"];
    let mut watched = Watched::start(command(&volsnap, &url, &options));
    assert!(watched.reach("prove"));
    nix::sys::signal::kill(guard_of(&volsnap), Signal::SIGKILL).unwrap();
    watched.signal(Signal::SIGKILL);
    let _ = watched.end();
    assert!(!postgres.answers());
    let keyless = volsnap.run(["recover"]);
    let said = format!("{}{}", keyless.stdout(), keyless.stderr());
    postgres.await_answer();
    assert_eq!(keyless.code(), Some(4), "{said}");
    assert!(said.contains("there is no access key"), "{said}");
    assert!(!volsnap.unfinished().as_array().unwrap().is_empty(), "{said}");
    let _ = run(&volsnap, &url, &["recover"]).expect(0);
    assert!(volsnap.unfinished().as_array().unwrap().is_empty());
    assert_eq!((server.objects().len(), server.unfinished_uploads()), (1, 0));
    postgres.assert_whole();
}

/// Returns the lines of the README that show how it is done.
fn lines_of_the_readme() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("**Off this machine.**").nth(1).unwrap().split("```").nth(1).unwrap();
    block.lines().skip(1).map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn the_lines_in_the_readme_work() {
    let Some(server) = Server::start() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let lines = lines_of_the_readme();
    assert!((8..=10).contains(&lines.len()), "{lines:?}");
    for (line, name) in lines.iter().zip(["AWS_SECRET_ACCESS_KEY=…", "VOLSNAP_REPO='s3://"]) {
        assert!(line.starts_with("export ") && line.contains(name), "{line}");
    }
    let place = Server::url(server.address, "this-host");
    let mut script = format!(
        "set -e\nexport {}={} {}={} VOLSNAP_REPO='{place}'\n",
        KEYS[0].0, KEYS[0].1, KEYS[1].0, KEYS[1].1
    );
    for line in &lines[2..] {
        script.push_str(&line.replace("snapshot db", &format!("snapshot {}", postgres.target())));
        script.push('\n');
    }
    let _ = volsnap.paste(&script).expect(0);
    postgres.await_answer();
    postgres.assert_whole();
}
