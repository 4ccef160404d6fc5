//! A service of no known database on a little data of every kind: stopped and started at once, and never writing
//! there itself, so that every byte of it can be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::world::{World, docker};

/// Ends when it is asked to, and does nothing else.
const SCRIPT: &str = "trap 'exit 0' TERM; ready; while :; do sleep 1000 & wait $!; done";

/// A running container and the directory that it uses.
pub(crate) struct Service {
    pub(crate) world: World,
    pub(crate) container: String,
    /// What a target calls the data.
    pub(crate) target: String,
    pub(crate) root: PathBuf,
    /// What of it is mounted where.
    mount: String,
    /// Bytes of the largest file.
    pub(crate) bulk: usize,
}

/// Every name below a directory, "" for itself, with all that can be told of it.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

impl Service {
    /// Starts one on a volume of its own.
    pub(crate) async fn start() -> Self {
        let world = World::new().await;
        let volume = world.name("data");
        docker(&["volume", "create", &volume]);
        let root = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]);
        let (mount, target) = (format!("{volume}:/data"), format!("volume:{volume}"));
        Self::on(world, &mount, target, root.into())
    }

    /// Starts one on a directory.
    pub(crate) async fn start_in(directory: &Path) -> Self {
        let path = directory.to_str().unwrap();
        let (mount, target) = (format!("{path}:/data"), format!("path:{path}"));
        Self::on(World::new().await, &mount, target, directory.to_owned())
    }

    fn on(world: World, mount: &str, target: String, root: PathBuf) -> Self {
        let (container, mount) = (world.name("service"), mount.to_owned());
        let service = Self { container, world, target, root, mount, bulk: 3 << 19 };
        service.fill("first");
        service.run();
        service
    }

    /// Runs its container, which is not there.
    pub(crate) fn run(&self) {
        // It ends at once; whoever comes back to it waits no longer than it may take.
        self.world.run_service("service", &["-v", &self.mount, "--stop-timeout", "2"], SCRIPT);
    }

    /// Gives it other data, whatever is there.
    pub(crate) fn fill(&self, word: &str) {
        for entry in std::fs::read_dir(&self.root).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == "lost+found" {
                continue;
            }
            if path.symlink_metadata().unwrap().is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        let at = |name: &str| self.root.join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::create_dir(at(&format!("only {word}"))).unwrap();
        std::fs::write(at("a/word"), word).unwrap();
        // Above and below what is written past the cache.
        std::fs::write(at("a/b/large"), word.repeat(self.bulk / word.len())).unwrap();
        std::fs::write(at("small"), word.repeat(100)).unwrap();
        std::fs::hard_link(at("small"), at("a/same")).unwrap();
        symlink("a/word", at("link")).unwrap();
        std::os::unix::fs::chown(at("small"), Some(70), Some(70)).unwrap();
        std::fs::set_permissions(at("a/b"), PermissionsExt::from_mode(0o2750)).unwrap();
    }

    /// Returns what is there now.
    pub(crate) fn tree(&self) -> Tree {
        tree(&self.root)
    }

    /// It runs, and its data is this one's, whole. Nothing else is there.
    #[track_caller]
    pub(crate) fn assert_runs_on(&self, expected: &Tree, context: &str) {
        let tree = self.tree();
        assert_eq!(differences(&tree, expected), Vec::<String>::new(), "{context}");
        assert_eq!(self.state(), "running", "{context}");
        let filter = "label=volsnap.run";
        let helpers = docker(&["ps", "-a", "--filter", filter, "--format", "{{.Mounts}}"]);
        let target = self.target.split_once(':').unwrap().1;
        assert!(!helpers.contains(target), "{context}: a helper is left");
    }

    pub(crate) fn state(&self) -> String {
        docker(&["inspect", "--format", "{{.State.Status}}", &self.container])
    }
}

/// Returns where two trees are not the same.
pub(crate) fn differences(found: &Tree, expected: &Tree) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differs = |name: &&&PathBuf| found.get(**name) != expected.get(**name);
    let shown = |name: &PathBuf| {
        format!("{}: {:?} in place of {:?}", name.display(), found.get(name), expected.get(name))
    };
    names.iter().filter(differs).map(|name| shown(name)).collect()
}

/// Returns every name below a directory with what it is, and the digest of its content.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::from([(PathBuf::new(), described(root))]);
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == "lost+found" {
                continue;
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned(), described(&path));
            if path.symlink_metadata().unwrap().is_dir() {
                directories.push(path);
            }
        }
    }
    found
}

/// Returns what can be told of a file: all of it but where it lies on the disk.
pub(crate) fn described(path: &Path) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let content = if metadata.is_file() {
        blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string()
    } else if metadata.is_symlink() {
        std::fs::read_link(path).unwrap().display().to_string()
    } else {
        String::new()
    };
    let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    format!("{mode:o} {uid}:{gid} {links} {}.{} {content}", metadata.mtime(), metadata.mtime_nsec())
}
