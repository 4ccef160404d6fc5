//! Where an engine listens.

use bollard::errors::Error as ClientError;

use crate::engine::raw::RawApi;
use crate::model::container::ApiVersion;

/// The client's own timeout: longer than any stop, so that only our limits count.
const CLIENT_TIMEOUT_SECS: u64 = 7 * 24 * 3600;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(String),
    Tcp(String),
}

impl Address {
    /// Returns a [chosen](crate::engine::context::choose) address.
    pub(super) fn of(address: &str) -> Self {
        match address.split_once("://") {
            Some(("unix", path)) => Self::Unix(path.to_owned()),
            Some((_, authority)) => Self::Tcp(authority.to_owned()),
            None => Self::Tcp(address.to_owned()),
        }
    }

    pub(super) fn raw(&self, version: ApiVersion) -> RawApi {
        match self {
            Self::Unix(path) => {
                RawApi { socket: Some(path.clone()), authority: "localhost".to_owned(), version }
            }
            Self::Tcp(authority) => RawApi { socket: None, authority: authority.clone(), version },
        }
    }

    pub(super) fn client(&self) -> Result<bollard::Docker, ClientError> {
        let version = bollard::API_DEFAULT_VERSION;
        match self {
            Self::Unix(path) => bollard::Docker::connect_with_unix(path, CLIENT_TIMEOUT_SECS, version),
            Self::Tcp(authority) => {
                bollard::Docker::connect_with_http(authority, CLIENT_TIMEOUT_SECS, version)
            }
        }
    }
}
