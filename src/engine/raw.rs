//! The engine's API as plain JSON, for fields that nobody here knows but that must not be lost on the way.
//!
//! A typed model drops what it has no name for. So whatever is read in order to be written again, such as a
//! container's configuration, goes through here untouched: one request per connection, over the same address.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{DockerError, DockerErrorKind, Result};
use crate::model::container::ApiVersion;

/// More than any object's description has.
const BODY_MAX: usize = 16 << 20;

/// Where an engine listens, and what it speaks.
#[derive(Debug, Clone)]
pub(super) struct RawApi {
    /// The socket's path; `None` for a host and port.
    pub(super) socket: Option<String>,
    /// The host and port; for a socket, a name in their place.
    pub(super) authority: String,
    pub(super) version: ApiVersion,
}

impl RawApi {
    /// Asks for an object.
    pub(super) async fn get(&self, doing: &str, path: &str) -> Result<Value> {
        self.send(doing, Method::GET, path, None).await
    }

    /// Sends an object; returns the engine's answer, or nothing if it says nothing.
    pub(super) async fn post(&self, doing: &str, path: &str, body: &Value) -> Result<Value> {
        self.send(doing, Method::POST, path, Some(body)).await
    }

    async fn send(&self, doing: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let failed = |kind, message: String| DockerError { kind, doing: doing.to_owned(), message };
        let lost = |error: String| failed(DockerErrorKind::Unreachable, error);
        let content = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("/v{}{path}", self.version))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(content)))
            .map_err(|error| failed(DockerErrorKind::Other, error.to_string()))?;
        let stream = self.connect().await.map_err(|error| lost(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(error.to_string()))?;
        // It ends with the sender, or with the engine.
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| lost(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        driver.abort();
        let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
        if status.is_success() {
            let parsed = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body) };
            return parsed.map_err(|error| failed(DockerErrorKind::Other, error.to_string()));
        }
        let kind = match status {
            StatusCode::NOT_FOUND => DockerErrorKind::NotFound,
            StatusCode::CONFLICT => DockerErrorKind::Conflict,
            _ => DockerErrorKind::Other,
        };
        let said = serde_json::from_slice::<Value>(&body).ok();
        let message = said.as_ref().and_then(|said| said["message"].as_str()).map(str::trim);
        Err(failed(kind, message.map_or_else(|| format!("the engine answers {status}"), str::to_owned)))
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.socket {
            Some(path) => Box::new(UnixStream::connect(path).await?),
            None => Box::new(TcpStream::connect(&self.authority).await?),
        })
    }
}

/// A connection, of whatever kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
