//! What is said to type next where a run has died, or could not put something back.

use volsnap::engine::Docker as _;
use volsnap::engine::failing::Mode;

use super::desk::Desk;
use super::simulated::faults::{Scenario as _, drive};
use super::simulated::run;
use super::simulated::verbs::TakeSnapshot;

impl Desk {
    /// Has a snapshot die with everything stopped, or frozen.
    async fn die(&mut self, how: &TakeSnapshot, at: &'static str) {
        self.arm();
        self.world.failing.fail_nth(at, 2, Mode::KillAfter);
        assert!(drive(&self.world, how.act(&self.world)).await.is_none());
        self.arm();
    }
}

/// Returns the number of the call with which calls of these names have come, one after the other, when a command is
/// typed in a world like this.
async fn first_call(prepare: impl AsyncFn(&mut Desk), typed: &[&str], names: &[&str]) -> usize {
    let mut twin = Desk::new().await;
    prepare(&mut twin).await;
    twin.arm();
    twin.run(typed).await;
    let calls = twin.world.failing.calls();
    let mut calls = calls.iter();
    let found = names.iter().map(|name| calls.find(|call| call.name == *name).unwrap().number);
    found.last().unwrap()
}

#[test]
fn what_a_dead_run_has_left_is_put_back_by_what_everybody_says_who_looks() {
    run(async {
        let mut desk = Desk::new().await;
        for (typed, code) in
            [(&["recover", "--list"][..], 4), (&["snapshot", "db", "--dry-run"], 4), (&["doctor", "db"], 4)]
        {
            desk.die(&TakeSnapshot::STOP_STAGED, "stop").await;
            let said = desk.run(typed).await;
            said.expect(code);
            let command = said.printed().into_iter().find(|line| line.ends_with(" recover")).unwrap();
            desk.paste(&command).await.expect(0);
            desk.assert_well(&command).await;
        }
    });
}

#[test]
fn a_run_on_another_engine_is_finished_there() {
    run(async {
        let mut desk = Desk::new().await;
        let there = desk.world.host.address.clone();
        for typed in [&["recover", "--list"][..], &["recover"]] {
            desk.die(&TakeSnapshot::STOP_STAGED, "stop").await;
            let elsewhere = desk.with_host("unix:///run/other.sock");
            let said = elsewhere.run(typed).await;
            let printed = said.printed();
            let command = printed
                .iter()
                .find(|line| line.ends_with(" recover"))
                .unwrap_or_else(|| panic!("{}", said.text));
            assert!(command.contains(&there) && !command.contains("other.sock"), "{command}");
            desk = elsewhere.with_host(&there);
            desk.paste(command).await.expect(0);
            desk.assert_well(command).await;
        }
    });
}

#[test]
fn what_could_not_be_put_back_is_put_back_later_or_by_hand() {
    run(async {
        for (typed, call, has) in [
            (&["snapshot", "db"][..], ["stop", "start"], " start "),
            (&["snapshot", "db", "--quiesce", "pause"], ["pause", "unpause"], " unpause "),
            (&["snapshot", "db"], ["stop", "start"], " recover"),
        ] {
            let first = first_call(async |_| {}, typed, &call).await;
            let mut desk = Desk::new().await;
            desk.arm();
            desk.world.failing.fail_during(first..usize::MAX, Mode::Before);
            let ran = desk.run(typed).await;
            ran.expect(4);
            desk.arm();
            desk.paste_of(&ran, has).await;
            if has != " recover" {
                desk.assert_well(has).await;
                desk.run(&["recover"]).await.expect(0);
            }
            desk.assert_well(has).await;
        }
    });
}

#[test]
fn a_recovery_that_fails_says_what_is_left_and_not_the_very_same() {
    run(async {
        let died = async |desk: &mut Desk| desk.die(&TakeSnapshot::STOP_STAGED, "stop").await;
        let first = first_call(died, &["recover"], &["start"]).await;
        let mut desk = Desk::new().await;
        died(&mut desk).await;
        desk.world.failing.fail_during(first..usize::MAX, Mode::Before);
        let refused = desk.run(&["recover"]).await;
        refused.expect(4);
        desk.arm();
        let command = refused.printed().into_iter().find(|line| line.ends_with("recover --list")).unwrap();
        desk.paste(&command).await.expect(4);
        desk.run(&["recover"]).await.expect(0);
        desk.assert_well(&command).await;
    });
}

#[test]
fn the_journal_of_a_later_volsnap_goes_once_its_rest_is_put_back_by_hand() {
    run(async {
        let mut desk = Desk::new().await;
        desk.die(&TakeSnapshot::STOP_STAGED, "stop").await;
        let journals = std::fs::read_dir(desk.world.state().join("journals")).unwrap();
        let journal = journals.map(|entry| entry.unwrap().path()).next().unwrap();
        let mut text = std::fs::read_to_string(&journal).unwrap();
        let later =
            r#"{"register":{"number":99,"when":"always","rank":"cleanup","concerns":[],"undo":{"thaw":{}}}}"#;
        text.push_str(&format!("{later}\n"));
        std::fs::write(&journal, text).unwrap();
        let refused = desk.run(&["recover"]).await;
        refused.expect(4);
        desk.assert_well("what it knows is put back").await;
        desk.paste_of(&refused, "rm ").await;
        assert!(!journal.exists());
        desk.run(&["recover", "--list"]).await.expect(0);
    });
}

#[test]
fn what_a_dead_run_of_something_else_has_left_is_put_back_by_the_recovery() {
    run(async {
        let typed = ["snapshot", "volume:other"];
        let prepare = async |desk: &mut Desk| {
            desk.world.engine.create_volume("other", &Default::default()).await.unwrap();
            std::fs::write(desk.world.engine.directory_of("other").join("kept"), "x").unwrap();
            desk.die(&TakeSnapshot::STOP_STAGED, "stop").await;
        };
        let first = first_call(prepare, &typed, &["start"]).await;
        let mut desk = Desk::new().await;
        prepare(&mut desk).await;
        // As often as it is tried in the time that a command takes for it.
        desk.world.failing.fail_during(first..first + 400, Mode::Before);
        let taken = desk.run(&typed).await;
        desk.arm();
        desk.paste_of(&taken, " recover").await;
        desk.assert_well("recovered").await;
    });
}

#[test]
fn what_waits_is_listed() {
    run(async {
        let mut desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        desk.arm();
        desk.world.failing.fail_nth("agent archive", 1, Mode::Before);
        desk.run(&["restore", "latest", "--yes"]).await;
        desk.arm();
        desk.world.failing.fail_nth("agent archive", 1, Mode::Before);
        let left = desk.run(&["recover"]).await;
        left.expect(4);
        let list = left.printed().into_iter().find(|line| line.ends_with("recover --list")).unwrap();
        desk.paste(&list).await;
        desk.arm();
        desk.run(&["recover"]).await.expect(0);
        desk.assert_well(&list).await;
    });
}
