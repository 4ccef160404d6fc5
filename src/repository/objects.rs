//! The names of a snapshot's objects. A journal holds them, so that whoever holds the journal can remove the objects.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::error::RepositoryError;
use super::open_store;
use super::tarball::layout::SNAPSHOTS;
use crate::store::{Key, KeyError, Store, StoreAddress, shield};

/// Every object that a snapshot has, or may yet have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenObjects")]
pub struct SnapshotObjects {
    /// The store that holds them.
    pub store: StoreAddress,
    /// The manifest, whose existence makes the snapshot one.
    pub manifest_key: Key,
    /// All of them, in the order in which they must be deleted: the manifest before what it needs.
    pub keys: Vec<Key>,
}

/// Their written form.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenObjects {
    Keys {
        store: StoreAddress,
        manifest_key: Key,
        keys: Vec<Key>,
    },
    /// From journals of format 1; each partial file has a path of its own.
    Paths {
        #[serde(alias = "manifest_path")]
        manifest: PathBuf,
        files: Vec<PathBuf>,
    },
}

impl TryFrom<WrittenObjects> for SnapshotObjects {
    type Error = KeyError;

    fn try_from(written: WrittenObjects) -> Result<Self, KeyError> {
        match written {
            WrittenObjects::Keys { store, manifest_key, keys } => Ok(Self { store, manifest_key, keys }),
            WrittenObjects::Paths { manifest, files } => {
                let root = root_of(&manifest).filter(|root| files.iter().all(|file| file.starts_with(root)));
                let root = root.unwrap_or(Path::new("/"));
                let key = |path: &Path| {
                    let below = path.strip_prefix(root).unwrap_or(path);
                    Key::new(below.to_string_lossy())
                };
                Ok(Self {
                    store: StoreAddress::Directory(root.to_owned()),
                    manifest_key: key(&manifest)?,
                    keys: files.iter().map(|file| key(file)).collect::<Result<_, _>>()?,
                })
            }
        }
    }
}

/// Returns the repository directory that a manifest lies in.
fn root_of(manifest: &Path) -> Option<&Path> {
    let snapshots = manifest.parent()?.parent()?;
    snapshots.ends_with(SNAPSHOTS.as_str()).then(|| snapshots.parent()).flatten()
}

impl SnapshotObjects {
    /// Returns where the manifest lies, or would lie, for messages.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.store.locate(&self.manifest_key)
    }

    /// Removes all of them, unless the snapshot is published: see
    /// [`discard_unpublished_from`](Self::discard_unpublished_from).
    ///
    /// # Errors
    /// When the store cannot be opened, or as described there.
    pub async fn discard_unpublished(&self, patience: Duration) -> Result<bool, RepositoryError> {
        self.discard_unpublished_from(&*self.open().await?, patience).await
    }

    /// Removes all of them, unless the snapshot is published; returns whether it is. If this process is just
    /// publishing it, this waits for that as long as `patience` lasts; so does it for a store that does not answer.
    ///
    /// # Errors
    /// When something cannot be looked at or removed in that time, or it is still being published.
    pub async fn discard_unpublished_from(
        &self,
        store: &dyn Store,
        patience: Duration,
    ) -> Result<bool, RepositoryError> {
        let timed_out = |why: &str| {
            let error = io::Error::new(io::ErrorKind::TimedOut, why.to_owned());
            RepositoryError::io("remove", self.manifest_path())(error)
        };
        if timeout(patience, shield::ended(&self.store, &self.manifest_key)).await.is_err() {
            return Err(timed_out("it is still being written"));
        }
        let discarded = timeout(patience, self.discard_unless_published(store)).await;
        discarded.unwrap_or_else(|_| Err(timed_out("the repository does not answer")))
    }

    async fn discard_unless_published(&self, store: &dyn Store) -> Result<bool, RepositoryError> {
        let failed = RepositoryError::io("remove", self.manifest_path());
        match store.head(&self.manifest_key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.discard_from(store).await?;
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes all of them, whatever exists.
    ///
    /// # Errors
    /// The first failure; everything that can be removed is removed all the same.
    pub(super) async fn discard_from(&self, store: &dyn Store) -> Result<(), RepositoryError> {
        let mut outcome = Ok(());
        for key in &self.keys {
            let removed = store.delete_all_of(key).await;
            outcome = outcome.and(removed.map_err(RepositoryError::io("remove", self.store.locate(key))));
        }
        outcome
    }

    async fn open(&self) -> Result<Arc<dyn Store>, RepositoryError> {
        open_store(&self.store).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn files_of(root: &Path) -> Vec<PathBuf> {
        let folder = root.join("snapshots/db");
        ["db-1.json", "db-1.tar.zst", "db-1.files.jsonl.zst"]
            .iter()
            .flat_map(|name| [folder.join(format!("{name}.partial")), folder.join(name)])
            .collect()
    }

    /// Returns what journals of format 1 hold about a snapshot in this repository.
    fn format_1(root: &Path) -> serde_json::Value {
        json!({"manifest": root.join("snapshots/db/db-1.json"), "files": files_of(root)})
    }

    #[tokio::test]
    async fn what_a_journal_of_format_1_names_by_paths_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("snapshots/db")).unwrap();
        let objects: SnapshotObjects = serde_json::from_value(format_1(&root)).unwrap();
        assert_eq!(objects.store, StoreAddress::Directory(root.clone()));
        assert_eq!(objects.manifest_key.as_str(), "snapshots/db/db-1.json");
        assert_eq!(objects.keys.len(), 6);
        assert_eq!(objects.manifest_path(), root.join("snapshots/db/db-1.json"));
        // In format 1 the safety snapshot has another name for it.
        let mut safety = format_1(&root);
        safety["manifest_path"] = safety["manifest"].take();
        safety.as_object_mut().unwrap().remove("manifest");
        safety["repository"] = json!(root);
        assert_eq!(serde_json::from_value::<SnapshotObjects>(safety).unwrap(), objects);

        let files = files_of(&root);
        for file in [&files[0], &files[2], &files[3], &files[5]] {
            std::fs::write(file, "x").unwrap();
        }
        assert!(!objects.discard_unpublished(PATIENCE).await.unwrap());
        assert!(files.iter().all(|file| !file.exists()));
        assert!(!objects.discard_unpublished(PATIENCE).await.unwrap(), "a second time harms nothing");
        for file in [&files[1], &files[3]] {
            std::fs::write(file, "x").unwrap();
        }
        assert!(objects.discard_unpublished(PATIENCE).await.unwrap(), "it is published");
        assert!(files[1].exists() && files[3].exists());
        std::fs::remove_dir_all(root.join("snapshots")).unwrap();
        assert!(!objects.discard_unpublished(PATIENCE).await.unwrap(), "nothing is there to be removed");
    }

    #[tokio::test]
    async fn paths_of_any_other_shape_are_names_from_the_root_on() {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, archive) = (folder.path().join("s.json"), folder.path().join("s.tar.zst"));
        std::fs::write(&archive, "x").unwrap();
        let written = json!({"manifest": manifest, "files": [archive, folder.path().join("never-written")]});
        let objects: SnapshotObjects = serde_json::from_value(written).unwrap();
        assert_eq!(objects.manifest_path(), manifest);
        assert!(!objects.discard_unpublished(PATIENCE).await.unwrap());
        assert!(!archive.exists());
        let relative = json!({"manifest": "../s.json", "files": []});
        assert!(serde_json::from_value::<SnapshotObjects>(relative).is_err());
    }

    #[test]
    fn it_is_written_as_an_address_and_keys_and_read_back() {
        let written = json!({
            "store": "s3://bucket/here",
            "manifest_key": "snapshots/db/db-1.json",
            "keys": ["snapshots/db/db-1.json", "snapshots/db/db-1.tar.zst"],
        });
        let objects: SnapshotObjects = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&objects).unwrap(), written);
        let mut elsewhere = written;
        elsewhere["keys"][1] = "../../etc/passwd".into();
        assert!(serde_json::from_value::<SnapshotObjects>(elsewhere).is_err());
    }
}
