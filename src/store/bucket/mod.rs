//! A folder of a bucket: at Amazon or at any server that speaks as S3 does, at Google, or a container of Azure's.
//!
//! An object is whole or not there: a small one is one request, and the parts of a big one become an object by the last
//! request. Nothing is overwritten: keys are unique by themselves, each is looked for before it is written, and where the
//! server has proved that it heeds `If-None-Match`, it is asked to. Safety rests on none of these alone: what was written
//! is read back (small objects) or measured (big ones) before anybody believes it.
//!
//! A server is asked for bounded pieces only, so memory is bounded and a failed request costs little: parts of 16 MiB are
//! written, pieces of 8 MiB are read, four at a time.
//!
//! Parts of an object that was never finished are invisible and cost money.
//! [`delete_partial`](crate::store::Store::delete_partial) finds them by the object's name, whoever began them; so
//! whoever has the journal of a dead run removes them.

mod amazon;
mod azure;
mod google;
mod http;
mod reader;
mod s3;
#[cfg(test)]
pub(super) mod tests;
mod trouble;
mod uploads;
mod url;
mod writer;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ::http::HeaderValue;
use async_trait::async_trait;
use bytes::Bytes;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};

use super::surroundings::Surroundings;
use super::tickets::Tickets;
use super::trouble::{Failure, Trouble};
use super::{
    ByteStream, Capabilities, Key, ObjectKind, ObjectMeta, ObjectWriter, OpenError, Probed, Store,
    StoreAddress, TRIAL,
};
use trouble::{failed, without_request};
use uploads::Uploads;
use url::Parts;
use writer::ObjectUpload;

/// How long one request may take. It moves at most one part.
const REQUEST: Duration = Duration::from_secs(300);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// Who volsnap says it is.
const AGENT: &str = concat!("volsnap/", env!("CARGO_PKG_VERSION"));
/// How often a request that failed is made again.
const RETRIES: usize = 8;
/// How often a listing is asked for again if its answer is cut off.
const LIST_AGAIN: u32 = 3;
/// How long a request is made again.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// A folder of a bucket.
#[derive(Clone)]
pub struct BucketStore {
    address: StoreAddress,
    shared: Arc<Shared>,
}

/// What the store and its writers share.
struct Shared {
    bucket: Arc<dyn Bucket>,
    prefix: String,
    uploads: Option<Uploads>,
    /// Whether the server is told that an upload begins.
    hears_of_uploads: bool,
    /// What the server has proved, once that is known.
    probed: Mutex<Option<Probed>>,
    /// The objects that this store is writing.
    tickets: Tickets,
}

impl fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketStore").field("address", &self.address).finish_non_exhaustive()
    }
}

impl BucketStore {
    /// Opens the store that a URL names, with the credentials that are found around; asks the server nothing.
    ///
    /// # Errors
    /// When the URL or the credentials cannot be right.
    pub async fn open(url: &str, around: &dyn Surroundings) -> Result<Self, OpenError> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        // At Azure an upload is nothing before its first part.
        let hears_of_uploads = scheme != "az";
        let opened = match scheme {
            "gs" => google::open(url, around)?,
            "az" => azure::open(url, around)?,
            _ => s3::open(url, around).await?,
        };
        let Opened { bucket, prefix, uploads, url } = opened;
        let shared = Shared {
            bucket,
            prefix,
            uploads,
            hears_of_uploads,
            probed: Mutex::default(),
            tickets: Tickets::default(),
        };
        Ok(Self { address: StoreAddress::Url(url), shared: Arc::new(shared) })
    }
}

/// What speaks to a bucket.
trait Bucket: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Bucket for T {}

/// A bucket that was opened.
struct Opened {
    bucket: Arc<dyn Bucket>,
    /// The folder in it, without slashes around.
    prefix: String,
    /// Who asks which uploads were never finished; nobody, where that cannot be asked.
    uploads: Option<Uploads>,
    /// The URL that means it wherever it is read.
    url: String,
}

/// Returns a bucket whose URL, with this scheme, says all.
fn connected(bucket: impl Bucket, scheme: &str, parts: &Parts) -> Opened {
    let mut url = format!("{scheme}{}", parts.place);
    if !parts.prefix.is_empty() {
        url.push('/');
        url.push_str(&parts.prefix);
    }
    if let Some(endpoint) = &parts.endpoint {
        url.push_str("?endpoint=");
        url.push_str(endpoint);
    }
    Opened { bucket: Arc::new(bucket), prefix: parts.prefix.clone(), uploads: None, url }
}

/// Returns how requests are made, and made again.
fn ways(endpoint: Option<&str>) -> (ClientOptions, RetryConfig) {
    let options = ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT)
        .with_user_agent(HeaderValue::from_static(AGENT));
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(15),
        base: 2.0,
    };
    (options, RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR })
}

impl Shared {
    /// Returns the name of an object in the bucket.
    fn path(&self, key: &Key) -> io::Result<Path> {
        let name = match (self.prefix.as_str(), key.is_root()) {
            (prefix, true) => prefix.to_owned(),
            ("", false) => key.to_string(),
            (prefix, false) => format!("{prefix}/{key}"),
        };
        Path::parse(&name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
    }

    /// Returns the key of a name in the bucket; `None` if it is none, as that of the folder itself.
    fn key(&self, path: &Path) -> Option<Key> {
        let name = path.as_ref().strip_prefix(self.prefix.as_str())?;
        Key::new(name.trim_start_matches('/')).ok()
    }

    fn probed(&self) -> Option<Probed> {
        locked(&self.probed).clone()
    }

    /// Returns whether the server refuses to overwrite if it is asked to.
    fn heeds_conditions(&self) -> bool {
        self.probed().is_some_and(|probed| probed.conditional_create)
    }

    /// Returns what has a key.
    async fn head(&self, key: &Key) -> io::Result<object_store::ObjectMeta> {
        self.bucket.head(&self.path(key)?).await.map_err(|error| failed(&error))
    }

    /// Removes unfinished parts of an object. A server that does not tell of them, or not to us, has none that we know
    /// of.
    async fn abort_uploads(&self, key: &Key) -> io::Result<usize> {
        let path = self.path(key)?;
        let Some(uploads) = &self.uploads else { return Ok(0) };
        let found = match uploads.of(path.as_ref()).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
            {
                tracing::debug!(%key, %error, "unfinished uploads cannot be listed");
                return Ok(0);
            }
            found => found?,
        };
        for upload in &found {
            self.abort(&path, &upload.id).await?;
        }
        Ok(found.len())
    }

    /// Stores a small object and deletes it.
    async fn try_out(&self, path: &Path) -> io::Result<()> {
        let stored = self.bucket.put(path, Bytes::from_static(b"volsnap").into()).await;
        stored.map_err(|error| failed(&error))?;
        match self.bucket.delete(path).await.map_err(|error| failed(&error)) {
            // Writing is what was to be proved.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "what was stored to try it may not be deleted");
                Ok(())
            }
            // Another run has tried it at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    async fn abort(&self, path: &Path, upload: &str) -> io::Result<()> {
        match self.bucket.abort_multipart(path, &upload.to_owned()).await.map_err(|error| failed(&error)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            aborted => aborted,
        }
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for BucketStore {
    fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_local: false,
            never_overwrites: self.shared.heeds_conditions(),
            knows_free_space: false,
        }
    }

    /// Nothing is stored, not even for a moment: an object is begun, which takes the same right, and given up. So a key
    /// that may not delete leaves nothing. Azure is not asked by that, so a small object is stored there and deleted.
    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        let path = self.shared.path(&folder.join(TRIAL)?)?;
        if !self.shared.hears_of_uploads {
            return self.shared.try_out(&path).await;
        }
        let upload = self.shared.bucket.create_multipart(&path).await.map_err(|error| failed(&error))?;
        match self.shared.abort(&path, &upload).await {
            // Writing is what was to be proved.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "an upload that was begun may not be given up: allow s3:AbortMultipartUpload");
                Ok(())
            }
            aborted => aborted,
        }
    }

    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        if key.is_root() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = self.shared.path(key)?;
        let ticket = self.shared.tickets.take(key)?;
        match self.shared.head(key).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Box::new(ObjectUpload::new(&self.shared, ticket, path)))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        reader::open(&self.shared, &self.shared.path(key)?, range).await
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        let found = self.shared.head(key).await?;
        Ok(object(key.clone(), &found))
    }

    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        let path = self.shared.path(folder)?;
        // What makes requests again does so until the answer begins, and not for one that is cut off.
        let mut again = LIST_AGAIN;
        let found = loop {
            match self.shared.bucket.list_with_delimiter(Some(&path)).await.map_err(|error| failed(&error)) {
                Ok(found) => break found,
                Err(error)
                    if again == 0 || Failure::of(&error).is_some_and(|one| one.trouble != Trouble::Other) =>
                {
                    return Err(error);
                }
                Err(_) => again -= 1,
            }
        };
        let objects =
            found.objects.iter().filter_map(|meta| Some(object(self.shared.key(&meta.location)?, meta)));
        let folders = found.common_prefixes.iter().filter_map(|path| {
            let (key, modified) = (self.shared.key(path)?, SystemTime::UNIX_EPOCH);
            Some(ObjectMeta { key, kind: ObjectKind::Folder, bytes: 0, modified, tag: None })
        });
        Ok(objects.chain(folders).filter(|meta| meta.key != *folder).collect())
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        // The server says of a missing object, too, that it is deleted.
        self.shared.head(key).await?;
        self.shared.bucket.delete(&self.shared.path(key)?).await.map_err(|error| failed(&error))
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        let was_ours = self.shared.tickets.revoke(key);
        let aborted = self.shared.abort_uploads(key).await?;
        if was_ours || aborted > 0 { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    async fn probe(&self, token: &str) -> io::Result<Option<Probed>> {
        let probed = uploads::probe(&self.shared, &Key::new(format!("{}{token}", super::PROBE))?).await?;
        Ok(Some(probed))
    }

    fn trust(&self, probed: &Probed) {
        *locked(&self.shared.probed) = Some(probed.clone());
    }
}

fn object(key: Key, meta: &object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        key,
        kind: ObjectKind::Object,
        bytes: meta.size,
        modified: meta.last_modified.into(),
        tag: meta.e_tag.clone(),
    }
}

/// Stores a small object in one request, reads it back and compares.
async fn put(shared: &Shared, path: &Path, contents: Bytes) -> io::Result<()> {
    use object_store::{PutMode, PutOptions};
    let mode = if shared.heeds_conditions() { PutMode::Create } else { PutMode::Overwrite };
    let options = PutOptions { mode, ..PutOptions::default() };
    let stored = shared.bucket.put_opts(path, contents.clone().into(), options).await;
    match stored.map_err(|error| failed(&error)) {
        Ok(_) => {}
        // A request that is made again after its answer was lost finds its own object.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        Err(error) => {
            // It may have been stored all the same.
            return match reads_as(shared, path, &contents).await {
                Ok(true) => Ok(()),
                _ => Err(error),
            };
        }
    }
    match reads_as(shared, path, &contents).await? {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "what is there is not what was written: somebody else has written it",
        )),
    }
}

async fn reads_as(shared: &Shared, path: &Path, contents: &Bytes) -> io::Result<bool> {
    let found = reader::open_shared(shared, path).await?;
    Ok(found == *contents)
}
