//! The way to the server: TLS by one library alone, and what the retries of the library above must not see.
//!
//! The library retries every answer of 500 and above. 501 says that the server never will, so it becomes 400 here. A
//! server that was never reached is given up soon: its name or port is wrong more often than it starts just then.
//!
//! What goes to this machine without TLS does not go through a proxy, which would be told the token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use http::StatusCode;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};

use super::{AGENT, CONNECT, REQUEST};
use crate::store::address::is_this_machine;

/// How often a server that never answered is called.
const CALLS: u32 = 3;

/// Connects to servers.
#[derive(Debug, Default, Clone)]
pub(super) struct Connector;

/// Returns who speaks to this machine itself.
fn direct() -> object_store::Result<HttpClient> {
    let client = reqwest::Client::builder()
        .timeout(REQUEST)
        .connect_timeout(CONNECT)
        .user_agent(AGENT)
        .http1_only()
        .no_proxy()
        .build();
    let client =
        client.map_err(|error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) })?;
    Ok(HttpClient::new(client))
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The first in the process decides; there is no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(options)?;
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let direct = allows_http.is_some_and(|allows| allows == "true").then(direct).transpose()?;
        Ok(HttpClient::new(Way { client, direct, reached: Arc::default(), calls: Arc::default() }))
    }
}

#[derive(Debug)]
struct Way {
    client: HttpClient,
    /// Who speaks to this machine, where TLS may be left out.
    direct: Option<HttpClient>,
    /// Whether the server has ever answered.
    reached: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

#[async_trait]
impl HttpService for Way {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        let is_here = uri.scheme_str() == Some("http") && uri.host().is_some_and(is_this_machine);
        let client = self.direct.as_ref().filter(|_| is_here).unwrap_or(&self.client);
        match client.execute(request).await {
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
