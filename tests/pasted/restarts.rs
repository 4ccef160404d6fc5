//! What a restart, a check and the looks before them say to type next.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use volsnap::compose::runner::{Invocation, Runner};
use volsnap::engine::failing::Mode;
use volsnap::engine::memory::MemoryDocker;
use volsnap::engine::memory::program::Behaviour;
use volsnap::engine::{Docker as _, Grace};
use volsnap::model::container::Container;

use super::desk::{Desk, Ran};
use super::simulated::{DATA, KEPT, run};

impl Desk {
    /// Types a command again and again, of which each time a later call of this name fails, until it prints this.
    pub(crate) async fn until_printed(&mut self, typed: &[&str], call: &'static str, has: &str) -> Ran {
        for nth in 1..60 {
            self.arm();
            self.world.failing.fail_nth(call, nth, Mode::Before);
            let ran = self.run(typed).await;
            self.arm();
            if ran.printed().iter().any(|line| line.contains(has)) {
                return ran;
            }
        }
        panic!("{has} is never printed");
    }

    /// Pastes the printed command that has this; it succeeds, and the service is well.
    pub(crate) async fn paste_of(&self, ran: &Ran, has: &str) -> Ran {
        let printed = ran.printed();
        let command = printed.iter().find(|line| line.contains(has));
        let command = command.unwrap_or_else(|| panic!("{has} is not in {printed:?}\n{}", ran.text));
        let pasted = self.paste(command).await;
        pasted.expect(0);
        pasted
    }
}

#[test]
fn facts_that_cannot_be_had_are_done_without_or_had_afterwards() {
    run(async {
        let mut desk = Desk::new().await;
        let before = desk.until_printed(&["restart", "db"], "exec", "--facts none").await;
        before.expect(1);
        desk.paste_of(&before, "--facts none").await;
        desk.assert_well("without facts").await;
        let after = desk.until_printed(&["restart", "db"], "exec", " check db").await;
        desk.paste_of(&after, " check db").await;
        desk.assert_well("checked").await;
        let unread = desk.until_printed(&["check", "db"], "exec", "logs").await;
        desk.paste_of(&unread, "logs").await;
    });
}

#[test]
fn what_does_not_run_is_looked_for() {
    run(async {
        let desk = Desk::new().await;
        desk.world.engine.create_volume("lonely", &BTreeMap::new()).await.unwrap();
        desk.leads_on(&["restart", "volume:lonely"], 1, 0, "ps --all").await;
        let task = [("com.docker.swarm.task.id", "t"), ("com.docker.swarm.service.name", "shop_db")];
        let labels: BTreeMap<_, _> = task.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for name in ["db", "app", "old"] {
            desk.change(name, |one| one.labels.clone_from(&labels)).await;
            desk.stop(name).await;
        }
        let (command, looked) = desk.follow(&["restart", "volume:data"], 1, 0).await;
        looked.expect(0);
        assert!(command.contains("service ls"), "{command}");
    });
}

#[test]
fn a_database_that_does_not_answer_is_looked_at() {
    run(async {
        let desk = Desk::new().await;
        let mark = desk.world.engine.directory_of(DATA).join("postmaster.pid");
        let text = std::fs::read_to_string(&mark).unwrap();
        for typed in [&["restart", "db"][..], &["migrate", "db", "elsewhere", "--yes"], &["snapshot", "db"]] {
            std::fs::remove_file(&mark).unwrap();
            let refused = desk.run(typed).await;
            refused.expect(1);
            desk.paste_of(&refused, "logs").await;
            std::fs::write(&mark, &text).unwrap();
        }
        desk.assert_well("not ready").await;
    });
}

#[test]
fn compose_is_left_out_where_it_made_nothing_and_not_followed_to_another_volume() {
    run(async {
        let desk = Desk::new().await;
        desk.leads_on(&["restart", "db", "--recreate"], 1, 0, "restart db").await;
        let desk = Desk::composed().await;
        let file = desk.world.compose_file();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("- data:/var", "- other:/var")).unwrap();
        let target = "service:shop/db";
        desk.leads_on(&["restart", target, "--recreate"], 3, 0, "sed -n").await;
        desk.leads_on(&["restart", target, "--recreate"], 3, 1, "snapshot service:shop/db").await;
    });
}

#[test]
fn who_cannot_be_stopped_and_brought_back_is_ignored_or_stopped_first() {
    run(async {
        let mut desk = Desk::new().await;
        desk.change("app", |app| app.auto_remove = true).await;
        desk.leads_on(&["restart", "db"], 1, 0, "--ignore app").await;
        desk.leads_on(&["snapshot", "db", "--json"], 1, 0, "--ignore app").await;
        desk.change("app", |app| app.auto_remove = false).await;
        // It has the network of one that is down.
        let gate = Container {
            name: "gate".to_owned(),
            image: "app:1".to_owned(),
            command: ["sh", "-c", "gate"].map(str::to_owned).into(),
            ..Container::default()
        };
        let id = desk.world.engine.add(gate).unwrap();
        desk.world.engine.start(&id).await.unwrap();
        desk.change("app", |app| app.network_mode = format!("container:{id}")).await;
        desk.stop("gate").await;
        desk.arm();
        desk.leads_on(&["restart", "db"], 1, 0, "stop app").await;
        desk.run(&["restart", "db"]).await.expect(0);
    });
}

#[test]
fn who_does_not_stop_is_killed_where_its_owner_says_so() {
    run(async {
        let desk = Desk::new().await;
        desk.world.engine.teach("app", Behaviour { stops_within: None, ..Behaviour::OBEDIENT });
        desk.change("app", |_| {}).await;
        desk.leads_on(&["restart", "db"], 1, 0, "--kill app").await;
        // A snapshot freezes it, and says how it could be stopped.
        let taken = desk.run(&["snapshot", "db"]).await;
        taken.expect(0);
        desk.paste_of(&taken, "--kill app").await;
        desk.assert_well("killed").await;
    });
}

#[test]
fn who_takes_too_long_is_looked_at_and_started_should_it_end_after_all() {
    run(async {
        let desk = Desk::new().await;
        let slow = Behaviour { stops_within: Some(Duration::from_secs(30)), ..Behaviour::OBEDIENT };
        desk.world.engine.teach("app", slow);
        desk.change("app", |_| {}).await;
        let typed = ["restart", "db", "--stop-timeout", "2s"];
        let refused = desk.run(&typed).await;
        refused.expect(1);
        desk.paste_of(&refused, "logs").await;
        desk.assert_well("it was not stopped").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!desk.world.container("app").await.state.running, "the engine goes on stopping it");
        desk.paste_of(&refused, " start app").await;
        assert!(desk.world.container("app").await.state.running);
    });
}

#[test]
fn a_check_that_finds_a_loss_leads_to_the_snapshot_that_has_it() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        let rows = desk.world.engine.directory_of(DATA).join(volsnap::engine::memory::postgres::ROWS);
        let text = std::fs::read_to_string(&rows).unwrap();
        std::fs::write(&rows, text.replace(&format!("\"{}\"", KEPT.0), "\"another\"")).unwrap();
        let found = desk.run(&["check", "db"]).await;
        found.expect(3);
        let restore = found.printed().into_iter().find(|line| line.contains(" restore ")).unwrap();
        desk.paste(&format!("{restore} --yes")).await.expect(0);
        desk.assert_well(&restore).await;
        desk.run(&["check", "db"]).await.expect(0);
        // Without a snapshot it is looked for one.
        std::fs::remove_dir_all(desk.world.repository()).unwrap();
        std::fs::write(&rows, text.replace(&format!("\"{}\"", KEPT.0), "\"another\"")).unwrap();
        let found = desk.run(&["check", "db"]).await;
        found.expect(3);
        assert!(!found.text.contains("volsnap list"), "there is nothing to list: {}", found.text);
    });
}

#[test]
fn facts_of_a_snapshot_without_them_are_taken_by_another() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db", "--facts", "none"]).await.expect(0);
        desk.leads_on(&["check", "db", "--against", "latest"], 2, 0, "snapshot db").await;
    });
}

/// Does something once, as soon as a call of this name is made.
pub(crate) fn once_on(desk: &Desk, name: &'static str, act: impl FnOnce(MemoryDocker) + Send + 'static) {
    let (engine, act) = (desk.world.engine.clone(), Mutex::new(Some(act)));
    desk.world.failing.on_call(move |call| {
        if call.name == name
            && let Some(act) = act.lock().unwrap().take()
        {
            act(engine.clone());
        }
    });
}

#[test]
fn who_took_the_place_of_what_was_stopped_is_shown() {
    run(async {
        let mut desk = Desk::new().await;
        desk.arm();
        let Container { image, command, env, mounts, .. } = desk.world.container("db").await;
        let new = Container { name: "new".to_owned(), image, command, env, mounts, ..Container::default() };
        once_on(&desk, "stop", move |engine| {
            tokio::spawn(async move {
                while engine.container("db").await.unwrap().unwrap().state.running {}
                let id = engine.add(new).unwrap();
                engine.start(&id).await.unwrap();
            });
        });
        let ended = desk.run(&["restart", "db"]).await;
        ended.expect(1);
        desk.arm();
        desk.paste_of(&ended, "--filter volume=data").await;
        desk.paste_of(&ended, "ps --all").await;
        assert!(desk.world.answers("new").await);
    });
}

#[test]
fn who_is_in_the_place_for_a_while_is_looked_at() {
    run(async {
        let mut desk = Desk::new().await;
        desk.arm();
        let Container { mounts, .. } = desk.world.container("app").await;
        let tool = Container {
            name: "tool".to_owned(),
            image: "helper:1".to_owned(),
            command: ["sh", "-c", "redis-server"].map(str::to_owned).into(),
            mounts,
            ..Container::default()
        };
        once_on(&desk, "stop", move |engine| {
            tokio::spawn(async move {
                while engine.container("db").await.unwrap().unwrap().state.running {}
                let id = engine.add(tool).unwrap();
                engine.start(&id).await.unwrap();
                tokio::time::sleep(Duration::from_secs(60)).await;
                engine.stop(&id, None, Grace::Own, Duration::from_secs(60)).await.unwrap();
            });
        });
        let ran = desk.run(&["restart", "db"]).await;
        desk.arm();
        desk.paste_of(&ran, "logs --tail 20 tool").await;
        desk.assert_well("it has ended").await;
    });
}

#[test]
fn who_was_restarted_by_somebody_meanwhile_is_looked_at() {
    run(async {
        let mut desk = Desk::new().await;
        let quick = Behaviour { stops_within: Some(Duration::from_millis(1)), ..Behaviour::OBEDIENT };
        desk.world.engine.teach("app", quick);
        desk.change("app", |_| {}).await;
        desk.arm();
        once_on(&desk, "create_container", |engine| {
            tokio::spawn(async move {
                engine.stop("app", None, Grace::Own, Duration::from_secs(60)).await.unwrap();
                engine.start("app").await.unwrap();
            });
        });
        let refused = desk.run(&["restart", "db"]).await;
        refused.expect(1);
        desk.arm();
        desk.paste_of(&refused, "--filter name=app").await;
        desk.assert_well("restarted").await;
        desk.run(&["restart", "db"]).await.expect(0);
    });
}

#[test]
fn a_healthcheck_that_fails_afterwards_is_looked_at() {
    run(async {
        let mut desk = Desk::new().await;
        let asks = ["has-row", KEPT.1[2]].map(str::to_owned);
        desk.change("db", |db| db.healthcheck = asks.into()).await;
        desk.arm();
        let rows = desk.world.engine.directory_of(DATA).join(volsnap::engine::memory::postgres::ROWS);
        let text = std::fs::read_to_string(&rows).unwrap();
        let (file, without) = (rows.clone(), text.replace(KEPT.1[2], "another"));
        once_on(&desk, "start", move |_| std::fs::write(file, without).unwrap());
        // The first that is started is the helper.
        let ran = desk.run(&["restart", "db"]).await;
        desk.paste_of(&ran, "logs --tail 20 db").await;
        std::fs::write(&rows, text).unwrap();
        desk.assert_well("restarted").await;
    });
}

#[test]
fn a_container_that_compose_left_as_it_was_leads_to_its_version() {
    run(async {
        let mut desk = Desk::composed().await;
        desk.world.host.compose = Arc::new(Idle(desk.world.engine.compose()));
        let (command, asked) = desk.follow(&["restart", "service:shop/db", "--recreate"], 1, 0).await;
        assert!(command.ends_with("compose version"), "{command}");
        asked.expect(0);
        desk.arm();
        desk.assert_well(&command).await;
    });
}

/// Compose on another engine: it does what it is told, and not here.
#[derive(Debug)]
struct Idle(Arc<dyn Runner>);

#[async_trait::async_trait]
impl Runner for Idle {
    async fn version(&self, words: &[&str]) -> Option<String> {
        self.0.version(words).await
    }

    async fn run(&self, invocation: Invocation) -> std::io::Result<Output> {
        let is_up = invocation.words.iter().any(|word| word == "up");
        let is_real = is_up && !invocation.words.iter().any(|word| word == "--dry-run");
        if is_real {
            return Ok(Output { status: ExitStatus::default(), stdout: Vec::new(), stderr: Vec::new() });
        }
        self.0.run(invocation).await
    }
}

#[test]
fn whose_database_is_gone_is_looked_for() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["check", "db"]).await.expect(0);
        desk.stop("db").await;
        desk.world.engine.remove_container("db").await.unwrap();
        let (command, looked) = desk.follow(&["check", "volume:data"], 1, 0).await;
        assert!(command.ends_with("ps --all"), "{command}");
        looked.expect(0);
    });
}
