//! A small disk of a test's own, which can be filled.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that is mounted until this is dropped; only root can have one.
pub(crate) struct SmallDisk {
    path: PathBuf,
    /// The directory of the file that it lies in, if it does not lie in memory.
    _image: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// Mounts one that lies in memory. The times of its files prove nothing.
    pub(crate) fn in_memory(path: PathBuf, megabytes: u64) -> Option<Self> {
        let options = format!("size={megabytes}m,mode=0700");
        std::fs::create_dir_all(&path).unwrap();
        mount(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "volsnap-test"]).arg(&path))
            .then_some(Self { path, _image: None })
    }

    /// Mounts an ext4 that lies in a file, with an empty directory for data.
    pub(crate) fn ext4(megabytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("disk"));
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        std::fs::create_dir(&path).unwrap();
        let mut make = Command::new("mkfs.ext4");
        let made = make.args(["-q", "-m", "0", "-J", "size=4"]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success())
            || !mount(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))
        {
            return None;
        }
        let disk = Self { path, _image: Some(directory) };
        std::fs::create_dir(disk.data()).unwrap();
        Some(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

/// Not every root may mount.
fn mount(command: &mut Command) -> bool {
    nix::unistd::geteuid().is_root() && command.output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Writes until nothing more can be written.
pub(crate) fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    let _ = file.sync_all();
}

/// Writes until no more than this is left.
pub(crate) fn fill_but(path: &Path, megabytes: u64) {
    let directory = path.parent().unwrap();
    let mut file = std::fs::File::create(path).unwrap();
    let free = || {
        let stat = nix::sys::statvfs::statvfs(directory).unwrap();
        stat.blocks_available() * stat.fragment_size()
    };
    while free() > megabytes << 20 {
        file.write_all(&vec![1; 1 << 20]).unwrap();
    }
}
