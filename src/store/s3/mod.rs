//! A folder of a bucket, at Amazon or at any server that speaks as S3 does.
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

mod http;
mod reader;
mod settings;
#[cfg(test)]
mod tests;
mod trouble;
mod uploads;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ::http::HeaderValue;
use async_trait::async_trait;
use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore as _, ObjectStoreExt as _, RetryConfig,
};

use super::{
    ByteStream, Capabilities, Key, ObjectKind, ObjectMeta, ObjectWriter, OpenError, Probed, Store,
    StoreAddress,
};
use settings::{ContainerCredentials, Credentials, Settings};
pub use settings::{Process, Surroundings};
pub use trouble::{Failure, Trouble};
use trouble::{failed, without_request};
use uploads::Uploads;
use writer::ObjectUpload;

/// How long one request may take. It moves at most one part.
const REQUEST: Duration = Duration::from_secs(300);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a request that failed is made again.
const RETRIES: usize = 8;
/// How often a listing is asked for again if its answer is cut off.
const LIST_AGAIN: u32 = 3;
/// How long a request is made again.
const RETRY_FOR: Duration = Duration::from_secs(120);
/// Where the role of a machine of Amazon's is asked for.
const MACHINE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);
/// How long that may take to answer: it is not far away.
const MACHINE_ANSWERS: Duration = Duration::from_secs(2);

/// A folder of a bucket.
#[derive(Clone)]
pub struct S3Store {
    address: StoreAddress,
    shared: Arc<Shared>,
}

/// What the store and its writers share.
struct Shared {
    s3: AmazonS3,
    prefix: String,
    uploads: Uploads,
    /// What the server has proved, once that is known.
    probed: Mutex<Option<Probed>>,
    /// The objects that this store is writing, each by its writer's number.
    writing: Mutex<HashMap<Key, u64>>,
    next: Mutex<u64>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("address", &self.address).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Opens the store that a URL names, with the credentials that are found around; asks the server nothing.
    ///
    /// # Errors
    /// When the URL or the credentials cannot be right.
    pub async fn open(url: &str, around: &dyn Surroundings) -> Result<Self, OpenError> {
        let settings = Settings::of(url, around).map_err(OpenError::Refused)?;
        match settings.credentials {
            Credentials::Nobody => return Err(OpenError::Io(without_request(Trouble::NoCredentials))),
            Credentials::Machine if !has_role().await => {
                return Err(OpenError::Io(without_request(Trouble::NoCredentials)));
            }
            _ => {}
        }
        let options = client_options(&settings, around)?;
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(15),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: RETRY_FOR,
        };
        let refused = |error: object_store::Error| OpenError::Refused(error.to_string());
        let s3 = builder(&settings)
            .with_client_options(options.clone())
            .with_retry(retry)
            .with_http_connector(http::Connector)
            .build()
            .map_err(refused)?;
        let uploads = Uploads::new(&settings, s3.credentials(), &options).map_err(refused)?;
        let address = StoreAddress::Url(settings.url());
        let shared = Shared {
            s3,
            prefix: settings.prefix,
            uploads,
            probed: Mutex::default(),
            writing: Mutex::default(),
            next: Mutex::default(),
        };
        Ok(Self { address, shared: Arc::new(shared) })
    }
}

/// Returns whether this machine has a role to ask for, so that nobody waits long for one where there is none.
async fn has_role() -> bool {
    let connected = tokio::net::TcpStream::connect(MACHINE);
    matches!(tokio::time::timeout(MACHINE_ANSWERS, connected).await, Ok(Ok(_)))
}

fn client_options(settings: &Settings, around: &dyn Surroundings) -> Result<ClientOptions, OpenError> {
    let may_be_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let agent = HeaderValue::from_static(concat!("volsnap/", env!("CARGO_PKG_VERSION")));
    let mut options = ClientOptions::new()
        .with_allow_http(may_be_plain)
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT)
        .with_user_agent(agent);
    if let Some(bundle) = &settings.ca_bundle {
        let named = |error: &dyn fmt::Display| {
            OpenError::Refused(format!("AWS_CA_BUNDLE names {}: {error}", bundle.display()))
        };
        let pem = around.read(bundle).map_err(|error| named(&error))?;
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| named(&error))?;
        if certificates.is_empty() {
            return Err(named(&"there is no certificate in it"));
        }
        options = certificates.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

fn builder(settings: &Settings) -> AmazonS3Builder {
    // A single deletion is a request that every server knows; that for many is not.
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_disable_bulk_delete(true);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    match &settings.credentials {
        Credentials::Key { id, secret, token } => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            if let Some(token) = token {
                builder = builder.with_token(token);
            }
        }
        Credentials::WebIdentity { token_file, role, session } => {
            builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                .with_config(AmazonS3ConfigKey::RoleArn, role);
            if let Some(session) = session {
                builder = builder.with_config(AmazonS3ConfigKey::RoleSessionName, session);
            }
        }
        Credentials::Container(ContainerCredentials::Relative(path)) => {
            builder = builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, path);
        }
        Credentials::Container(ContainerCredentials::Full { uri, token_file }) => {
            builder = builder
                .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, uri)
                .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, token_file);
        }
        Credentials::Machine | Credentials::Nobody => {}
    }
    builder
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
        self.s3.head(&self.path(key)?).await.map_err(|error| failed(&error))
    }

    /// Removes unfinished parts of an object. A server that does not tell of them, or not to us, has none that we know
    /// of.
    async fn abort_uploads(&self, key: &Key) -> io::Result<usize> {
        let path = self.path(key)?;
        let found = match self.uploads.of(path.as_ref()).await {
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

    async fn abort(&self, path: &Path, upload: &str) -> io::Result<()> {
        use object_store::multipart::MultipartStore as _;
        match self.s3.abort_multipart(path, &upload.to_owned()).await.map_err(|error| failed(&error)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            aborted => aborted,
        }
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for S3Store {
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
    /// that may not delete leaves nothing.
    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        use object_store::multipart::MultipartStore as _;
        let path = self.shared.path(&folder.join(".writable")?)?;
        let upload = self.shared.s3.create_multipart(&path).await.map_err(|error| failed(&error))?;
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
        let ticket = writer::Ticket::take(&self.shared, key)?;
        match self.shared.head(key).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Box::new(ObjectUpload::new(ticket, path)))
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
            match self.shared.s3.list_with_delimiter(Some(&path)).await.map_err(|error| failed(&error)) {
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
            Some(ObjectMeta { key, kind: ObjectKind::Folder, bytes: 0, modified })
        });
        Ok(objects.chain(folders).filter(|meta| meta.key != *folder).collect())
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        // The server says of a missing object, too, that it is deleted.
        self.shared.head(key).await?;
        self.shared.s3.delete(&self.shared.path(key)?).await.map_err(|error| failed(&error))
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        let was_ours = locked(&self.shared.writing).remove(key).is_some();
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
    ObjectMeta { key, kind: ObjectKind::Object, bytes: meta.size, modified: meta.last_modified.into() }
}

/// Stores a small object in one request, reads it back and compares.
async fn put(shared: &Shared, path: &Path, contents: Bytes) -> io::Result<()> {
    use object_store::{PutMode, PutOptions};
    let mode = if shared.heeds_conditions() { PutMode::Create } else { PutMode::Overwrite };
    let options = PutOptions { mode, ..PutOptions::default() };
    let stored = shared.s3.put_opts(path, contents.clone().into(), options).await;
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
