//! The command line: its help, and what is refused before anything is done.

use std::path::Path;

use rstest::rstest;

use crate::program::{Ran, Volsnap};

#[test]
fn the_help_says_what_there_is() {
    let volsnap = Volsnap::new();
    let help = |arguments: &[&str]| {
        let output = volsnap.command(arguments).env_remove("VOLSNAP_REPO").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    for verb in [
        "snapshot", "list", "show", "verify", "restore", "migrate", "recover", "restart", "check", "doctor",
        "prune", "copy", "remove",
    ] {
        let text = help(&[verb, "--help"]);
        insta::assert_snapshot!(format!("help_{verb}"), text);
        assert!(text.contains(&format!("Usage: volsnap {verb}")), "{text}");
        assert!(help(&[verb, "-h"]).len() <= text.len());
    }
    assert!(help(&["--version"]).starts_with("volsnap "));
}

#[test]
fn without_a_verb_the_help_is_printed_and_nothing_is_done() {
    let volsnap = Volsnap::new();
    volsnap.run::<&str>([]).refused(2, &["Usage: volsnap", "snapshot", "list", "verify"]);
}

#[rstest]
#[case::no_such_verb(&["snapshoot"], "snapshot")]
#[case::no_such_option(&["list", "--jsn"], "--json")]
#[case::no_target(&["snapshot"], "<TARGET>")]
#[case::empty_target(&["snapshot", ""], "empty name")]
#[case::empty_volume(&["snapshot", "volume:"], "empty name")]
#[case::empty_service(&["snapshot", "service:shop/"], "empty name")]
#[case::no_snapshot(&["show"], "<SNAPSHOT>")]
#[case::nothing_to_verify(&["verify"], "<SNAPSHOT>")]
#[case::all_and_one(&["verify", "--all", "latest"], "--all")]
#[case::quiet_and_verbose(&["list", "-q", "-v"], "--quiet")]
#[case::codec(&["snapshot", "db", "--compression", "xz"], "zstd[:N], gzip[:N], none")]
#[case::codec_level(&["snapshot", "db", "--compression", "zstd:99"], "from 1 to 22")]
#[case::codec_of_none(&["snapshot", "db", "--compression", "none:1"], "zstd[:N], gzip[:N], none")]
#[case::tag_without_value(&["snapshot", "db", "--tag", "why"], "KEY=VALUE")]
#[case::tag_without_key(&["snapshot", "db", "--tag", "=x"], "KEY=VALUE")]
#[case::glob(&["snapshot", "db", "--exclude", "a[b"], "--exclude")]
#[case::time_without_unit(&["snapshot", "db", "--stop-timeout", "90"], "90s")]
#[case::time(&["snapshot", "db", "--stop-timeout", "soon"], "--stop-timeout")]
#[case::negative_time(&["snapshot", "db", "--max-downtime=-1s"], "--max-downtime")]
#[case::no_downtime_at_all(&["snapshot", "db", "--max-downtime", "0s"], "--quiesce none")]
#[case::quiesce(&["snapshot", "db", "--quiesce", "sleep"], "stop, pause")]
#[case::repository_url(&["list", "--repo", "ftp://host/x"], "s3://BUCKET/FOLDER")]
#[case::empty_repository(&["list", "--repo", ""], "--repo")]
#[case::facts(&["snapshot", "db", "--facts", "some"], "none, quick, full")]
#[case::no_facts_to_check(&["check", "db", "--facts", "none"], "quick, full")]
#[case::nothing_to_restart(&["restart"], "<TARGET>")]
#[case::checks_of_two(&["check", "db", "app"], "app")]
#[case::no_such_snapshot_file(&["show", "./no-such.tar.zst"], "no-such.tar.zst")]
fn a_wrong_command_line_is_refused_with_what_is_right(#[case] arguments: &[&str], #[case] word: &str) {
    let volsnap = Volsnap::new();
    let ran = volsnap.run(arguments);
    ran.refused(2, &[word]);
    assert_eq!(ran.stdout(), "");
    assert!(!volsnap.repository().exists() && !volsnap.state().exists());
}

#[rstest]
#[case::socket_that_is_not_there("unix:///nowhere/docker.sock")]
#[case::port_nobody_listens_on("tcp://127.0.0.1:1")]
fn an_engine_that_cannot_be_reached_is_named_and_nothing_is_made(#[case] host: &str) {
    let volsnap = Volsnap::new();
    for arguments in [&["snapshot", "db"][..], &["snapshot", "db", "--dry-run", "--json"], &["recover"]] {
        for ran in [
            volsnap.run([arguments, &["--host", host]].concat()),
            volsnap.run_with(arguments, &[("DOCKER_HOST", host)]),
        ] {
            ran.refused(
                1,
                &["reach the Docker engine", host, "nothing was touched", "next: docker ", " info "],
            );
            match arguments.contains(&"--json") {
                true => assert!(ran.stdout().contains("reach the Docker engine"), "{}", ran.stdout()),
                false => assert_eq!(ran.stdout(), ""),
            }
        }
        assert!(!volsnap.repository().exists() && !volsnap.state().exists());
    }
}

/// Writes what `docker context create` and `docker context use` write, for a context on this address.
fn select(client: &Path, address: &str) {
    // The digest of "production".
    let digest = "ab8e18ef4ebebeddc0b3152ce9c9006e14fc05242e3fc9ce32246ea6a9543074";
    let meta = client.join("contexts/meta").join(digest);
    std::fs::create_dir_all(&meta).unwrap();
    let text = format!(r#"{{"Name":"production","Endpoints":{{"docker":{{"Host":"{address}"}}}}}}"#);
    std::fs::write(meta.join("meta.json"), text).unwrap();
    std::fs::write(client.join("config.json"), r#"{"currentContext":"production"}"#).unwrap();
}

/// Runs it with this configuration of docker's client, and no address.
fn run_with_client(volsnap: &Volsnap, client: &Path, arguments: &[&str], context: Option<&str>) -> Ran {
    let mut command = volsnap.command(arguments);
    command.env_remove("DOCKER_HOST").env("DOCKER_CONFIG", client);
    command.envs(context.map(|context| ("DOCKER_CONTEXT", context)));
    Ran::of(&mut command)
}

#[rstest]
#[case::no_address("what is this", &["none of unix:///path", "next: volsnap "])]
#[case::ssh("ssh://me@db.example:2222", &["reached by ssh", "next: ssh ", " -p 2222 ", " me@db.example "])]
#[case::tls("https://db.example:2376", &["reached by TLS", "next: ssh ", " db.example "])]
fn an_engine_that_is_not_spoken_to_is_refused_with_the_way_to_reach_it(
    #[case] host: &str,
    #[case] words: &[&str],
) {
    let volsnap = Volsnap::new();
    let by_variable = volsnap.run_with(&["snapshot", "db"], &[("DOCKER_HOST", host)]);
    for ran in [volsnap.run(["snapshot", "db", "--host", host]), by_variable] {
        ran.refused(1, &[words, &[host, "nothing was touched", "--host unix://"]].concat());
    }
    assert!(!volsnap.repository().exists() && !volsnap.state().exists());
}

#[test]
fn the_engine_of_dockers_context_is_the_one_that_is_talked_to() {
    let (volsnap, client) = (Volsnap::new(), tempfile::tempdir().unwrap());
    select(client.path(), "tcp://127.0.0.1:1");
    let config = client.path().join("config.json");
    let commands: [&[&str]; 7] = [
        &["snapshot", "my db", "--dry-run"],
        &["restart", "db", "--recreate"],
        &["migrate", "db", "/data/pg", "-y"],
        &["check", "db"],
        &["doctor"],
        &["recover"],
        &["list", "--stages"],
    ];
    for arguments in commands {
        let ran = run_with_client(&volsnap, client.path(), arguments, None);
        ran.refused(1, &["reach the Docker engine", "tcp://127.0.0.1:1", "nothing was touched"]);
        assert_eq!(ran.stdout(), "");
    }
    let ran = run_with_client(&volsnap, client.path(), &["doctor", "-v"], None);
    let chosen = format!("by the context production, selected by {}", config.display());
    ran.refused(1, &[&chosen]);
    select(client.path(), "ssh://me@db.example:2222");
    let ran = run_with_client(&volsnap, client.path(), commands[0], None);
    let again = "volsnap snapshot 'my db' --dry-run --host unix:///tmp/volsnap-docker.sock";
    ran.refused(1, &["the context production", "next: ssh ", "-p 2222", again]);
    let ran = run_with_client(&volsnap, client.path(), &["doctor"], Some("gone"));
    ran.refused(1, &["contexts/meta/", "meta.json", "No such file", "nothing was touched"]);
    std::fs::write(&config, "{").unwrap();
    let ran = run_with_client(&volsnap, client.path(), &["doctor"], None);
    ran.refused(1, &["understand", config.to_str().unwrap()]);
    // Whoever gives an address is asked nothing.
    let ran = run_with_client(&volsnap, client.path(), &["doctor", "--host", "tcp://127.0.0.1:1"], None);
    ran.refused(1, &["reach the Docker engine"]);
    // What needs no engine goes on.
    let _ = run_with_client(&volsnap, client.path(), &["list"], None);
    assert!(!volsnap.repository().exists() && !volsnap.state().exists());
}
