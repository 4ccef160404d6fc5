//! The way to the server: TLS by one library alone, and what the retries of the library above must not see.
//!
//! The library retries every answer of 500 and above. 501 says that the server never will, so it becomes 400 here. A
//! server that was never reached is given up soon: its name or port is wrong more often than it starts just then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use http::StatusCode;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

/// How often a server that never answered is called.
const CALLS: u32 = 3;

/// Connects to servers.
#[derive(Debug, Default, Clone)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The first in the process decides; there is no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Way { client, reached: Arc::default(), calls: Arc::default() }))
    }
}

#[derive(Debug)]
struct Way {
    client: HttpClient,
    /// Whether the server has ever answered.
    reached: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

#[async_trait]
impl HttpService for Way {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match self.client.execute(request).await {
            Ok(mut response) => {
                self.reached.store(true, Ordering::Relaxed);
                if response.status() == StatusCode::NOT_IMPLEMENTED {
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                }
                Ok(response)
            }
            Err(error) if self.is_in_vain(&error) => {
                Err(HttpError::new_boxed(HttpErrorKind::Unknown, Box::new(error)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Way {
    fn is_in_vain(&self, error: &HttpError) -> bool {
        error.kind() == HttpErrorKind::Connect
            && !self.reached.load(Ordering::Relaxed)
            && self.calls.fetch_add(1, Ordering::Relaxed) + 1 >= CALLS
    }
}
