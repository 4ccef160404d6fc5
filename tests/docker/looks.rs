//! Looks at data and at snapshots: one that is only planned changes nothing, and quietly one is one line.

use crate::database::{Postgres, Volsnap};
use crate::schema::assert_fits;

#[tokio::test]
async fn a_dry_run_of_check_says_what_it_would_look_at_and_remembers_nothing() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start().await);
    let target = postgres.target();
    let first = volsnap.run(["check", &target, "--dry-run"]);
    let said = first.expect(0).stdout();
    assert!(said.contains(&format!("asks the database in container {}", postgres.container)), "{said}");
    assert!(said.contains("with nothing"), "{said}");
    volsnap.run(["snapshot", &target, "-q"]).expect(0);
    let planned = volsnap.run(["check", &target, "--dry-run", "--json"]).json();
    assert_fits("check --dry-run", &planned);
    assert!(planned["against"]["snapshot"].as_str().is_some(), "{planned}");
    volsnap.run(["check", &format!("volume:{}", postgres.volume), "--dry-run"]).expect(0);
    postgres.assert_no_helper();
    // Had it remembered anything, a first look would be none.
    let other = Volsnap::new();
    other.run(["check", &target, "--dry-run"]).expect(0);
    assert!(other.run(["check", &target]).expect(0).stdout().contains("no earlier facts"));
}

#[tokio::test]
async fn quietly_a_snapshot_or_a_verification_with_its_drill_is_one_line() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start().await);
    for arguments in
        [["snapshot", &postgres.target(), "--drill", "-q"], ["verify", "latest", "--drill", "-q"]]
    {
        let ran = volsnap.run(arguments);
        let said = ran.expect(0).stdout();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("is proved"), "{said}");
        assert_eq!(ran.stderr(), "");
    }
}
