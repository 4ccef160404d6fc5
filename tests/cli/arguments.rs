//! The command line: its help, and what is refused before anything is done.

use rstest::rstest;

use crate::program::Volsnap;

#[test]
fn the_help_says_what_there_is() {
    let volsnap = Volsnap::new();
    let help = |arguments: &[&str]| {
        let output = volsnap.command(arguments).env_remove("VOLSNAP_REPO").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    for verb in
        ["snapshot", "list", "show", "verify", "restore", "migrate", "recover", "restart", "check", "doctor"]
    {
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
#[case::repository_url(&["list", "--repo", "s3://bucket/x"], "only directories")]
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
#[case::no_address("what is this")]
#[case::ssh("ssh://db.example")]
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
            assert_eq!(ran.stdout(), "");
        }
        assert!(!volsnap.repository().exists() && !volsnap.state().exists());
    }
}
