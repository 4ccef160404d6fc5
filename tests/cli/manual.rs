//! Help, completions and manual pages: of every command, and of none that is not for people.

use crate::program::Volsnap;

const VERBS: [&str; 17] = [
    "snapshot", "list", "show", "verify", "restore", "prune", "pin", "unpin", "remove", "undelete", "ack",
    "copy", "migrate", "restart", "check", "recover", "doctor",
];

#[test]
fn every_command_has_help_and_takes_what_every_command_takes() {
    let volsnap = Volsnap::new();
    for verb in VERBS.iter().chain(&["init", "install", "completions", "man"]) {
        assert!(volsnap.run(["help", verb]).expect(0).stdout().contains("Usage:"), "{verb}");
        // Before and behind it, whether it asks or not.
        for arguments in [["-y", verb, "--help"], [verb, "-y", "--help"]] {
            let _ = volsnap.run(arguments).expect(0);
        }
    }
    for verb in ["snapshot", "verify", "restore", "prune", "copy", "migrate", "restart", "recover"] {
        let help = volsnap.run(["help", verb]).expect(0).stdout();
        assert!(help.contains("--dry-run"), "{verb}");
    }
    for arguments in [&[][..], &["--help"], &["-h"], &["help"]] {
        let ran = volsnap.run(arguments);
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        for hidden in ["  agent", "  guard"] {
            assert!(!said.contains(hidden), "{arguments:?} shows {hidden}: {said}");
        }
        assert!(said.contains("  snapshot"), "{said}");
    }
    assert!(volsnap.run(["--help"]).stdout().contains("VOLSNAP_STATE_DIR"));
}

#[test]
fn shells_and_manuals_know_the_commands() {
    let volsnap = Volsnap::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = volsnap.run(["completions", shell]).expect(0).stdout();
        assert!(said.contains("snapshot") && said.contains("repo"), "{shell}");
        assert!(!said.contains("guard JOURNAL") && !said.contains("volsnap__guard"), "{shell}");
    }
    let complete = "source <(volsnap completions bash) && complete -p volsnap";
    assert!(volsnap.paste(complete).expect(0).stdout().contains("_volsnap"), "bash does not take them");
    let page = volsnap.run(["man"]).expect(0).stdout();
    assert!(page.contains(".TH") && page.contains("snapshot"), "{page}");
    for verb in VERBS {
        let page = volsnap.run(["man", verb]).expect(0).stdout().replace('\\', "");
        assert!(page.contains(&format!("volsnap-{verb}")), "{page}");
    }
    let _ = volsnap.run(["man", "guard"]).expect(2);
    let unit = volsnap.run(["install", "recover", "--print", "--host", "tcp://db:2375"]).expect(0).stdout();
    assert!(
        unit.contains("--host \"tcp://db:2375\" recover") && unit.contains("VOLSNAP_STATE_DIR="),
        "{unit}"
    );
    crate::schema::assert_fits(
        "install recover",
        &volsnap.run(["install", "recover", "--print", "--json"]).json(),
    );
}
