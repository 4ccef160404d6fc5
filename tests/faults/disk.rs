//! The disk is full, or a file may not grow (F13; rows 4, 19 and 26).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::database::Postgres;
use crate::stage::Stage;

/// A small disk mounted somewhere; only root can have one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, megabytes: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("size={megabytes}m,mode=0700");
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", &options, "volsnap-test"]).arg(&path).status().unwrap();
        // Not every root may mount.
        mounted.success().then_some(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes until nothing more can be written.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_fails_the_snapshot_and_leaves_the_older_one() {
    let postgres = Postgres::start().await;
    for step in ["archive", "publish", "write-manifest"] {
        let stage = Stage::new().await;
        let Some(disk) = SmallDisk::mount(stage.volsnap.repository(), 120) else { return };
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
    let Some(disk) = SmallDisk::mount(stage.volsnap.state(), 1) else { return };
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
