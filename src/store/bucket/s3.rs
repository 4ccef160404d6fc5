//! Opens a bucket at Amazon, or at a server that speaks as S3 does.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{Certificate, ClientOptions};

use super::amazon::{ContainerCredentials, Credentials, Settings};
use super::trouble::without_request;
use super::uploads::Uploads;
use super::{Opened, http, ways};
use crate::store::OpenError;
use crate::store::surroundings::Surroundings;
use crate::store::trouble::Trouble;

/// Where the role of a machine of Amazon's is asked for.
const MACHINE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);
/// How long that may take to answer: it is not far away.
const MACHINE_ANSWERS: Duration = Duration::from_secs(2);

/// Opens the bucket that a URL names.
///
/// # Errors
/// When the URL or the credentials cannot be right.
pub(super) async fn open(url: &str, around: &dyn Surroundings) -> Result<Opened, OpenError> {
    let settings = Settings::of(url, around).map_err(OpenError::Refused)?;
    match settings.credentials {
        Credentials::Nobody => return Err(OpenError::Io(without_request(Trouble::NoCredentials))),
        Credentials::Machine if !has_role().await => {
            return Err(OpenError::Io(without_request(Trouble::NoCredentials)));
        }
        _ => {}
    }
    let (options, retry) = ways(settings.endpoint.as_deref());
    let options = with_certificates(options, &settings, around)?;
    let refused = |error: object_store::Error| OpenError::Refused(error.to_string());
    let s3 = builder(&settings)
        .with_client_options(options.clone())
        .with_retry(retry)
        .with_http_connector(http::Connector)
        .build()
        .map_err(refused)?;
    let uploads = Some(Uploads::new(&settings, s3.credentials(), &options).map_err(refused)?);
    let url = settings.url();
    Ok(Opened { bucket: Arc::new(s3), prefix: settings.prefix, uploads, url })
}

/// Returns whether this machine has a role to ask for, so that nobody waits long for one where there is none.
async fn has_role() -> bool {
    let connected = tokio::net::TcpStream::connect(MACHINE);
    matches!(tokio::time::timeout(MACHINE_ANSWERS, connected).await, Ok(Ok(_)))
}

/// Returns the options with the certificates that are believed besides the system's.
fn with_certificates(
    mut options: ClientOptions,
    settings: &Settings,
    around: &dyn Surroundings,
) -> Result<ClientOptions, OpenError> {
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
