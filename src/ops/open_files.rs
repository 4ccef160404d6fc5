//! What the processes of a container have open, and where they work: what a container does decides whether it uses a
//! source, and its mounts do not tell.
//!
//! The engine names the processes, and this machine's `/proc` what they have open, as the container itself calls it. A
//! process counts only if `/proc` says that it is of that very container: the engine may be on another machine, or in
//! another process namespace. Where one process cannot be looked at, nothing is known of its container.

use std::path::{Path, PathBuf};

use super::Context;
use crate::model::container::Process;
use crate::model::source::{Onlooker, Source};
use crate::selector::EngineInventory;

impl Context {
    /// Asks of the onlookers of a source what they have open, as far as this can be known.
    pub(super) async fn ask_onlookers(&self, source: &Source, world: &mut EngineInventory) {
        for onlooker in source.onlookers.iter().filter(|onlooker| !onlooker.ignored) {
            if let Some(open) = self.open_files(onlooker).await {
                world.open_files.insert(onlooker.id.clone(), open);
            }
        }
    }

    async fn open_files(&self, onlooker: &Onlooker) -> Option<Vec<PathBuf>> {
        let processes = self.docker.processes(&onlooker.id).await.ok()?;
        let look =
            |Process { pid, .. }: Process| of_process(&PathBuf::from(format!("/proc/{pid}")), &onlooker.id);
        all_of(processes.into_iter().map(look))
    }
}

/// Returns what all these have open. One that has ended says nothing; where nothing else is seen, the processes may be
/// those of another machine.
fn all_of(processes: impl Iterator<Item = Looked>) -> Option<Vec<PathBuf>> {
    let mut open = None;
    for looked in processes {
        match looked {
            Looked::Open(paths) => open.get_or_insert_with(Vec::new).extend(paths),
            Looked::Gone => {}
            Looked::Denied => return None,
        }
    }
    open
}

/// What could be seen of a process.
enum Looked {
    /// Its working directory and its files.
    Open(Vec<PathBuf>),
    /// It has ended.
    Gone,
    /// It may not be looked at, or is another container's.
    Denied,
}

fn of_process(process: &Path, container: &str) -> Looked {
    if !process.exists() {
        return Looked::Gone;
    }
    let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    if !groups.contains(container) {
        return if process.exists() { Looked::Denied } else { Looked::Gone };
    }
    let seen = std::fs::read_link(process.join("cwd")).and_then(|directory| {
        let mut open = vec![directory];
        // A file that was closed meanwhile is nobody's any more.
        let files = std::fs::read_dir(process.join("fd"))?.flatten();
        open.extend(files.filter_map(|file| std::fs::read_link(file.path()).ok()));
        Ok(open)
    });
    match seen {
        Ok(open) => Looked::Open(open.into_iter().filter(|path| path.is_absolute()).collect()),
        Err(_) if !process.exists() => Looked::Gone,
        Err(_) => Looked::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_of_the_container_tells_nothing() {
        assert!(matches!(of_process(Path::new("/proc/self"), "0123456789abcdef"), Looked::Denied));
        assert!(matches!(of_process(Path::new("/proc/0"), "0123456789abcdef"), Looked::Gone));
    }

    #[test]
    fn nothing_is_known_where_one_may_not_be_looked_at_or_none_is_there() {
        let open = || Looked::Open(vec!["/a".into()]);
        assert_eq!(all_of([open(), Looked::Gone, open()].into_iter()).unwrap().len(), 2);
        assert!(all_of([open(), Looked::Denied].into_iter()).is_none());
        assert!(all_of([Looked::Gone].into_iter()).is_none() && all_of([].into_iter()).is_none());
    }

    #[test]
    fn a_process_tells_its_files_and_its_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Every process has a line with this in it.
        let Looked::Open(open) = of_process(Path::new("/proc/self"), ":") else { panic!("not looked at") };
        assert!(open.contains(&file.path().to_owned()) && open.contains(&std::env::current_dir().unwrap()));
    }
}
