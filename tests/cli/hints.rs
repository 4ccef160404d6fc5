//! Every command that is printed to be typed next can be pasted, and does what it says.

use std::fs;

use crate::hand_made::{Changed, Recipe, make, tree};
use crate::program::Volsnap;

/// The only command that was printed.
#[track_caller]
fn only(commands: &[String]) -> &str {
    let [command] = commands else { panic!("not one: {commands:?}") };
    command
}

/// A volsnap whose repository lies at a place that a shell would take for something else.
fn odd() -> (Volsnap, String) {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let odd = volsnap.directory().join("it's $HOME; (an odd) *place*");
    fs::create_dir_all(volsnap.directory()).unwrap();
    fs::rename(volsnap.repository(), &odd).unwrap();
    (volsnap, odd.to_str().unwrap().to_owned())
}

#[test]
fn what_is_there_is_listed_in_the_repository_that_was_named() {
    let (volsnap, repository) = odd();
    for arguments in [
        &["--repo", &repository, "show", "nosuch"][..],
        &["show", "nosuch", "--repo", &repository],
        &["verify", "nosuch", &format!("--repo={repository}")],
    ] {
        let refused = volsnap.run(arguments);
        let command = only(&refused.expect(2).next()).to_owned();
        let listed = volsnap.paste(&command);
        assert!(listed.expect(0).stdout().contains("shop_db_data"), "{command}: {}", listed.stdout());
    }
    // Named by the environment, which the next command has as well, it need not be said again.
    let refused = volsnap.run_with(&["show", "nosuch"], &[("VOLSNAP_REPO", &repository)]);
    assert_eq!(only(&refused.next()), "volsnap list    # says what there is");
}

#[test]
fn a_snapshot_is_verified_and_another_looked_for_by_the_commands_that_are_printed() {
    let (volsnap, repository) = odd();
    let shown = volsnap.run(["show", "latest", "--repo", &repository]);
    let command = only(&shown.expect(0).next()).to_owned();
    assert!(volsnap.paste(&command).expect(0).stdout().contains("is verified"), "{command}");

    let listed = volsnap.run(["list", "--json", "--repo", &repository]).json();
    let _damaged = Changed::by(listed[0]["archive"].as_str().unwrap().as_ref(), |bytes| bytes[100] ^= 1);
    let damaged = volsnap.run(["verify", "latest", "--repo", &repository]);
    let command = only(&damaged.expect(3).next()).to_owned();
    assert!(volsnap.paste(&command).expect(0).stdout().contains("shop_db_data"), "{command}");
}

#[test]
fn the_repository_that_is_not_there_is_the_one_that_the_first_snapshot_makes() {
    let volsnap = Volsnap::new();
    let refused = volsnap.run(["list", "--repo", "/no such/place"]);
    let expected = "volsnap --repo '/no such/place' snapshot TARGET    # makes it, with the first snapshot";
    assert_eq!(only(&refused.expect(2).next()), expected);
}
