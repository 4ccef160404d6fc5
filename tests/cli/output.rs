//! What is printed harms nobody: no terminal is acted on, and a closed pipe is no failure.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use volsnap::archive::Codec;

use crate::hand_made::{Changed, Recipe, make, tree};
use crate::program::Volsnap;
use crate::schema::assert_fits;

/// Clears the screen, colours the rest, turns the text around and ends the line.
const EVIL: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}evil\r\nsnapshot faked";

#[track_caller]
fn assert_harmless(text: &str) {
    let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(acts), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("snapshot faked")), "{text}");
}

#[test]
fn names_from_outside_cannot_act_on_the_terminal() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    fs::write(tree.path().join(EVIL), EVIL).unwrap();
    fs::write(tree.path().join(OsStr::from_bytes(b"\xff\x1b[1m")), "not UTF-8").unwrap();
    let snapshot = make(
        &volsnap,
        tree.path(),
        &Recipe {
            codec: Codec::None,
            adjust: &|manifest| {
                manifest.title = format!("volume {EVIL}");
                manifest.tags.insert(format!("key{EVIL}"), EVIL.into());
                manifest.environment.container = Some(EVIL.into());
                manifest.environment.image = Some(EVIL.into());
                manifest.environment.engine_version = EVIL.into();
                manifest.evidence.reasons.push(EVIL.into());
                manifest.parts.first_mut().counts.changed.push(EVIL.into());
            },
            ..Recipe::default()
        },
    );
    // Strangers in the repository are told by name, and damage names the file.
    fs::write(snapshot.archive_path().with_file_name(EVIL), "").unwrap();
    let _flipped = Changed::by(&snapshot.archive_path(), |bytes| {
        let place = bytes.windows(EVIL.len()).rposition(|window| window == EVIL.as_bytes()).unwrap();
        bytes[place] ^= 2;
    });
    for (arguments, code) in [
        (&["list"][..], 0),
        (&["show", "latest"], 0),
        (&["show", "latest", "--files"], 0),
        (&["verify", "latest"], 3),
        (&["verify", "--all"], 3),
        (&["show", &format!("{EVIL}/{EVIL}")], 2),
        (&["show", EVIL], 0),
        (&["list", EVIL], 0),
        (&["list", "--repo", EVIL], 2),
        (&["snapshot", "db", "--host", &format!("unix:///{EVIL}")], 1),
    ] {
        let ran = volsnap.run(arguments);
        let _ = ran.expect(code);
        assert_harmless(&ran.stdout());
        assert_harmless(&ran.stderr());
    }
    let shown = volsnap.run(["show", "latest"]).expect(0).stdout();
    assert!(shown.contains("\\u{1b}[2J"), "what is there is shown: {shown}");
    // JSON escapes by itself, and has the names as they are.
    assert_eq!(volsnap.list()[0]["tags"][format!("key{EVIL}")], EVIL);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    for file in 0..2000 {
        fs::write(tree.path().join(format!("file-with-a-rather-long-name-{file}")), "").unwrap();
    }
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["show", "latest"],
        &["show", "latest", "--files"],
        &["verify", "latest"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = volsnap.command(arguments).stdout(writer).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
    // The exit code speaks when nobody listens.
    for (arguments, code) in
        [(&["show", "nothing-like-this"][..], 2), (&["no-such-verb"], 2), (&["-vv", "list"], 0)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = volsnap.command(arguments).stderr(writer).output().unwrap().status;
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn output_that_is_closed_from_the_begin_is_no_failure() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let script = r#"exec "$@" <&- >&- 2>&-"#;
    let program = volsnap.command(["verify", "latest"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args()).env_clear();
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap());
    }
    assert_eq!(shell.status().unwrap().code(), Some(0));
    assert_eq!(volsnap.list()[0]["verified"]["ok"], true);
}

#[test]
fn with_json_standard_output_has_json_and_nothing_else() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    for arguments in [
        &["list"][..],
        &["list", "-vv"],
        &["show", "latest"],
        &["verify", "latest", "-v"],
        &["verify", "--all"],
        &["verify", "latest", "latest"],
    ] {
        let ran = volsnap.run([arguments, &["--json"]].concat());
        let value = ran.json();
        let is_list = arguments[0] == "list"
            || arguments.contains(&"--all")
            || arguments.len() == 3 && arguments[2] == "latest";
        assert_eq!(value.is_array(), is_list, "{arguments:?}: {value}");
        volsnap.assert_no_leftovers();
    }
    assert!(!volsnap.repository_files().is_empty());
}

#[test]
fn what_is_printed_for_programs_is_what_the_schema_says() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let _ = volsnap.run(["verify", "latest"]).expect(0);
    assert_fits("list", &volsnap.run(["list", "--json"]).json());
    assert_fits("show", &volsnap.run(["show", "latest", "--json"]).json());
    assert_fits("verify", &volsnap.run(["verify", "latest", "--json"]).json());
    assert_fits("verify", &volsnap.run(["verify", "--all", "--json"]).json());
    assert_fits("recover --list", &volsnap.run(["recover", "--list", "--json"]).json());
    for line in volsnap.run(["show", "latest", "--files", "--json"]).expect(0).stdout().lines() {
        assert_fits("show --files", &serde_json::from_str(line).unwrap());
    }
}

#[test]
fn failures_are_said_as_they_were() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    for second in [0, 60] {
        let _ = make(&volsnap, tree.path(), &Recipe { second, ..Recipe::default() });
    }
    let place = volsnap.repository().parent().unwrap().display().to_string();
    let said: Vec<_> = [
        &["show", "nosuch"][..],
        &["show", "20261120"],
        &["show", "2026", "--repo", "no such place"],
        &["restore", "latest"],
        &["snapshot", "db", "--max-rate", "1MB", "--quiesce", "stop"],
        &["snapshot", "db", "--quiesce", "online", "--capture", "direct"],
    ]
    .into_iter()
    .map(|arguments| format!("$ volsnap {}\n{}", arguments.join(" "), volsnap.run(arguments).stderr()))
    .collect();
    insta::assert_snapshot!("failures", said.join("\n").replace(&place, "PLACE"));
}

#[test]
fn with_json_a_failure_is_json_too() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    for (arguments, code, kind) in [
        (&["show", "nosuch", "--json"][..], 2, "usage"),
        (&["--json", "list", "--repo", "/no such/place"], 2, "usage"),
        (&["snapshot", "db", "--json", "--host", "unix:///no/such/socket"], 1, "failed"),
        (&["no-such-verb", "--json"], 2, "usage"),
        (&["restore", "--json"], 2, "usage"),
    ] {
        let ran = volsnap.run(arguments);
        let value: serde_json::Value = serde_json::from_str(&ran.expect(code).stdout()).unwrap();
        assert_fits("error", &value);
        assert_eq!(value["error"]["kind"], kind, "{value}");
        assert!(!ran.stderr().is_empty(), "people are told as well");
    }
    assert_eq!(volsnap.run(["show", "nosuch"]).expect(2).stdout(), "");
}

#[test]
fn quietly_one_line_says_what_was_done() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let ran = volsnap.run(["verify", "latest", "-q"]);
    assert_eq!(ran.expect(0).stdout().lines().count(), 1, "{}", ran.stdout());
    assert!(ran.stdout().contains("is verified"));
    assert_eq!(ran.stderr(), "");
}

#[test]
fn a_dry_run_of_verify_writes_nothing_down() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let ran = volsnap.run(["verify", "--all", "--dry-run"]);
    assert!(ran.expect(0).stdout().starts_with("would read back 2"), "{}", ran.stdout());
    assert_fits("verify --dry-run", &volsnap.run(["verify", "--all", "--dry-run", "--json"]).json());
    assert!(volsnap.list()[0]["verified"].is_null());
}

#[test]
fn who_may_not_use_the_engine_is_told_of_sudo_and_the_group() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        // Only root can be somebody else.
        return;
    }
    let volsnap = Volsnap::new();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = directory.path().join("docker.sock");
    let _engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = volsnap.command(["snapshot", "db", "--host", &format!("unix://{}", socket.display())]);
    let output = command.current_dir("/").uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sudo") && said.contains("usermod -aG docker"), "{said}");
}
