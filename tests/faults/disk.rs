//! The disk is full, or a file may not grow (F13; rows 4, 19 and 26).

use std::process::Command;
use std::sync::Arc;

use volsnap::model::manifest::{Capture, Quiesce};
use volsnap::ops::Consent;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::plan::Plan;
use volsnap::ops::snapshot::snapshot;

use crate::database::Postgres;
use crate::small_disk::{SmallDisk, fill, fill_but};
use crate::stage::Stage;
use crate::world::{World, docker};

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_fails_the_snapshot_and_leaves_the_older_one() {
    let postgres = Postgres::start().await;
    for step in ["archive", "publish", "write-manifest"] {
        let stage = Stage::new().await;
        let Some(disk) = SmallDisk::in_memory(stage.volsnap.repository(), 120) else { return };
        stage.snapshot(&postgres).await.unwrap();
        let filler = disk.filler();
        stage.at(step, move || fill(&filler));
        let error = stage.snapshot(&postgres).await.unwrap_err();
        assert!(error.chain().contains("disk full"), "{step}: {}", error.chain());
        assert!(error.state_text().unwrap().contains("nothing was published"), "{step}");
        stage.assert_as_before(&postgres, 1);
        std::fs::remove_file(disk.filler()).unwrap();
        let _ = stage.volsnap.run(["verify", "--all"]).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_refuses_before_anything_is_stopped() {
    let postgres = Postgres::start().await;
    let started = postgres.inspect("{{.State.StartedAt}}");
    let mut stage = Stage::new().await;
    let Some(disk) = SmallDisk::in_memory(stage.volsnap.state(), 1) else { return };
    stage.host.saga.state = disk.path().join("state");
    std::fs::create_dir_all(stage.host.saga.state.join("journals")).unwrap();
    fill(&disk.filler());
    let error = stage.snapshot(&postgres).await.unwrap_err();
    assert!(error.chain().contains("journal"), "{}", error.chain());
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    std::fs::remove_file(disk.filler()).unwrap();
    stage.assert_as_before(&postgres, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_size_of_files_fails_the_snapshot_and_not_the_process() {
    let postgres = Postgres::start().await;
    let stage = Stage::new().await;
    let snapshot = stage.volsnap.command(["snapshot", &postgres.target()]);
    let mut limited = Command::new("sh");
    // Half a megabyte or one, as the shell counts.
    limited.args(["-c", "ulimit -f 1024; exec \"$0\" \"$@\""]).arg(snapshot.get_program());
    limited.args(snapshot.get_args()).env_clear();
    for (name, value) in snapshot.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    let ran = limited.current_dir("/").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("file too large"), "{said}");
    stage.assert_as_before(&postgres, 0);
}

/// A database whose data is a directory on a small disk; large enough for a stage to be worth while.
async fn start_on(disk: &SmallDisk) -> Postgres {
    let world = World::new().await;
    let data = disk.data().display().to_string();
    let postgres = Postgres { container: world.name("db"), volume: data.clone(), world };
    postgres.run(&postgres.container, &["-v", &format!("{data}:/var/lib/postgresql/data")]);
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    postgres.query("create unlogged table filler as select md5(n::text) from generate_series(1, 1200000) n");
    postgres
}

fn names_on(disk: &SmallDisk) -> Vec<String> {
    let names = std::fs::read_dir(disk.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "lost+found").collect()
}

/// The stage lies beside the data, which is a directory on a small disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_fills_its_disk_is_given_up_before_anything_is_held() {
    let stage = Stage::by((Quiesce::Stop, CaptureChoice::Staged)).await;
    let Some(disk) = SmallDisk::ext4(520) else { return };
    let postgres = start_on(&disk).await;
    let started = postgres.inspect("{{.State.StartedAt}}");
    let names = || names_on(&disk);

    let filler = disk.filler();
    stage.at("live-pass", move || fill_but(&filler, 80));
    let error = stage.snapshot(&postgres).await.unwrap_err();
    assert!(error.chain().contains("not enough room"), "{}", error.chain());
    assert!(error.hint_text().unwrap().contains("--capture direct"), "{:?}", error.hint_text());
    assert!(error.state_text().unwrap().contains("nothing was stopped"), "{:?}", error.state_text());
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was stopped");
    assert_eq!(names().len(), 2, "{:?}", names());
    stage.assert_as_before(&postgres, 0);

    // It is known before the first pass, too.
    let error = stage.snapshot(&postgres).await.unwrap_err();
    assert!(error.chain().contains("a stage may need"), "{}", error.chain());
    assert_eq!(names().len(), 2, "{:?}", names());
    std::fs::remove_file(disk.filler()).unwrap();

    stage.at_steps(|_| ());
    let snapshot = stage.snapshot(&postgres).await.unwrap();
    assert_eq!(snapshot.manifest.method.capture, Capture::Staged);
    assert_eq!(names().len(), 1, "{:?}", names());
    stage.assert_as_before(&postgres, 1);
    let _ = stage.volsnap.run(["verify", "--all"]).expect(0);
}

/// What is staged by nobody's wish but our own is captured all the same.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_stage_fills_its_disk_auto_captures_directly_and_says_so() {
    let stage = Stage::by((Quiesce::Stop, CaptureChoice::Auto)).await;
    let Some(disk) = SmallDisk::ext4(520) else { return };
    let postgres = start_on(&disk).await;
    let plan = plan_of(&stage, &postgres).await;
    assert_eq!(plan.capture, Capture::Staged, "{}", plan.capture_reason);

    let started = postgres.inspect("{{.State.StartedAt}}");
    let (filler, database) = (disk.filler(), postgres.container.clone());
    let mut steps = Vec::new();
    let seen = Arc::clone(&stage.steps);
    stage.at_steps(move |step| {
        if step == "live-pass" {
            fill_but(&filler, 80);
        }
        if step == "stop-container" && !steps.contains(&step) {
            // Whatever was staged is given up by now, and nobody was asked to stop before.
            assert!(steps.contains(&"live-pass"), "{steps:?}");
            assert_eq!(docker(&["inspect", "--format", "{{.State.StartedAt}}", &database]), started);
            let warned = seen.warnings().iter().any(|warning| warning.contains("the stage did not fit"));
            assert!(warned, "{:?}", seen.warnings());
        }
        steps.push(step);
    });
    let snapshot = stage.snapshot(&postgres).await.unwrap();
    assert_eq!(snapshot.manifest.method.capture, Capture::Direct);
    assert_eq!(names_on(&disk).len(), 2, "{:?}", names_on(&disk));
    std::fs::remove_file(disk.filler()).unwrap();
    stage.assert_as_before(&postgres, 1);
    let _ = stage.volsnap.run(["verify", "--all"]).expect(0);

    // With so little room it is known before the first pass, and no stage is begun.
    fill_but(&disk.filler(), 80);
    let plan = plan_of(&stage, &postgres).await;
    assert_eq!(plan.capture, Capture::Direct);
    assert!(plan.capture_reason.contains("a stage may need"), "{}", plan.capture_reason);
}

async fn plan_of(stage: &Stage, postgres: &Postgres) -> Plan {
    let mut shown = None;
    let look = async |plan: &Plan| {
        shown = Some(plan.clone());
        Ok(Consent::Decline)
    };
    assert!(snapshot(&stage.host, &stage.options(postgres), look).await.unwrap().is_none());
    shown.unwrap()
}
