//! Many machines with one place: each has a folder of its own there, and another machine can be told to look into it.

use std::path::Path;

use crate::program::Volsnap;

#[test]
fn many_machines_share_a_place_and_each_has_its_own_folder_there() {
    let volsnap = Volsnap::new();
    let place = volsnap.home().join("shared");
    let shared = place.join("{host}").display().to_string();
    for name in ["web-1", "WEB-2"] {
        let made = volsnap.run_with(&["--repo", &shared, "init"], &[("VOLSNAP_HOSTNAME", name)]);
        let said = made.expect(0).stdout();
        assert!(said.contains(&format!("shared/{}", name.to_lowercase())), "{said}");
    }
    let folders = |place: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(folders(&place), ["web-1", "web-2"]);

    // On a new machine, which has none of the names: the place says whose are there, and a printed command looks.
    let above = place.display().to_string();
    for command in [&["list"][..], &["verify", "latest"], &["init"]] {
        let ran = volsnap.run([&["--repo", &above], command].concat());
        ran.refused(2, &["it is none, and holds those of web-1, web-2"]);
        let next = ran.next();
        assert!(next.iter().any(|line| line.ends_with("shared/web-2 list")), "{next:?}");
    }
    assert_eq!(folders(&place), ["web-1", "web-2"]);
    // And a place that has a new machine's folder beside others' gets it.
    let new = volsnap.run_with(&["--repo", &shared, "init"], &[("VOLSNAP_HOSTNAME", "web-3")]);
    let _ = new.expect(0);
    assert_eq!(folders(&place), ["web-1", "web-2", "web-3"]);
}

#[test]
fn a_machine_without_a_name_of_its_own_is_told_to_take_one() {
    let volsnap = Volsnap::new();
    for name in ["3f2a91c07de4", "localhost", "a/../b"] {
        let environment = [("VOLSNAP_HOSTNAME", name), ("VOLSNAP_REPO", "s3://backups/{host}")];
        volsnap.run_with(&["list"], &environment).refused(2, &["{host}", name, "VOLSNAP_HOSTNAME=NAME"]);
    }
}
