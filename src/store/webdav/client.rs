//! Requests to a WebDAV server: made, made again where that may help, and judged.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use reqwest::tls::Certificate;
use reqwest::{Body, Client, Response, Url};
use tokio::sync::Semaphore;

use super::properties::{ASKED, Found, found_in};
use super::settings::Settings;
use crate::store::surroundings::Surroundings;
use crate::store::trouble::{Failure, Service, Trouble, unanswered};
use crate::store::{Key, OpenError};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one request may take; it moves at most some MiB.
pub(super) const REQUEST: Duration = Duration::from_secs(300);
/// How long a server may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// The pauses before a request that failed is made again: two minutes in all.
pub(super) const PAUSES: [Duration; 8] = {
    let ms = Duration::from_millis;
    [ms(200), ms(500), ms(1000), ms(3000), ms(10_000), ms(20_000), ms(40_000), ms(45_000)]
};
/// How many requests are on their way at a time: many a server is a small one.
const AT_ONCE: usize = 24;
/// How often a server that never answered is called.
const CALLS: usize = 3;
/// More than any answer that is not a file.
const ANSWER_MAX: usize = 256 << 20;

/// A server and the folder of the store there.
pub(super) struct Server {
    client: Client,
    root: Url,
    login: Option<(String, String)>,
    /// Whether the server has ever answered.
    reached: AtomicBool,
    requests: Semaphore,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

/// A request that can be made again.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl Server {
    pub(super) fn new(settings: &Settings, around: &dyn Surroundings) -> Result<Self, OpenError> {
        // The first in the process decides; there is no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let refused = |error: reqwest::Error| OpenError::Refused(error.to_string());
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_user_timeout(REQUEST)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("volsnap/", env!("CARGO_PKG_VERSION")));
        if settings.root.scheme() == "http" {
            // To this machine alone: a proxy would be told the password.
            builder = builder.no_proxy();
        }
        if let Some(bundle) = &settings.ca_bundle {
            let named = |error: &dyn fmt::Display| {
                OpenError::Refused(format!("WEBDAV_CA_BUNDLE names {}: {error}", bundle.display()))
            };
            let pem = around.read(bundle).map_err(|error| named(&error))?;
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| named(&error))?;
            if certificates.is_empty() {
                return Err(named(&"there is no certificate in it"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        Ok(Self {
            client: builder.build().map_err(refused)?,
            root: settings.root.clone(),
            login: settings.login.clone(),
            reached: AtomicBool::new(false),
            requests: Semaphore::new(AT_ONCE),
        })
    }

    /// Returns the address of an object.
    pub(super) fn url(&self, key: &Key) -> io::Result<Url> {
        let mut url = self.root.clone();
        let cannot = || io::Error::new(io::ErrorKind::InvalidInput, "the address cannot have a folder");
        let mut parts = url.path_segments_mut().map_err(|()| cannot())?;
        parts.pop_if_empty();
        if !key.is_root() {
            parts.extend(key.as_str().split('/'));
        }
        drop(parts);
        Ok(url)
    }

    /// Returns the same for a folder: some servers send one without the slash elsewhere.
    pub(super) fn folder_url(&self, key: &Key) -> io::Result<Url> {
        let mut url = self.url(key)?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(url)
    }

    fn begin(&self, method: &str, url: Url) -> io::Result<reqwest::RequestBuilder> {
        let method = Method::from_bytes(method.as_bytes()).map_err(io::Error::other)?;
        let request = self.client.request(method, url);
        Ok(match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        })
    }

    /// Makes a request once, with a body that can be had only once.
    pub(super) async fn once(&self, method: &str, url: Url, body: Body) -> io::Result<Response> {
        let sent = self.begin(method, url)?.body(body).send().await;
        sent.inspect(|_| self.reached.store(true, Ordering::Relaxed)).map_err(|error| unsent(&error))
    }

    /// Makes a request, again if it may help; returns the status, the headers and the body of the answer, whatever the
    /// status is.
    pub(super) async fn answer(&self, request: &Request<'_>) -> io::Result<(StatusCode, HeaderMap, Bytes)> {
        let mut pauses = PAUSES.iter();
        let mut calls = 0;
        loop {
            calls += 1;
            let outcome = self.answer_once(request).await;
            let may_pass = self.may_pass(&outcome, calls);
            match pauses.next().filter(|_| may_pass) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return outcome,
            }
        }
    }

    /// Returns whether a request may have another outcome if it is made again.
    pub(super) fn may_pass<T, U>(&self, outcome: &io::Result<(StatusCode, T, U)>, calls: usize) -> bool {
        match outcome {
            Ok((status, ..)) => is_passing(*status),
            Err(error) => {
                let trouble = Failure::of(error).map(|failure| &failure.trouble);
                let wrong =
                    matches!(trouble, Some(Trouble::Certificate | Trouble::NoTls | Trouble::UnknownHost));
                !wrong && (self.reached.load(Ordering::Relaxed) || calls < CALLS)
            }
        }
    }

    /// Makes a request once.
    pub(super) async fn answer_once(
        &self,
        request: &Request<'_>,
    ) -> io::Result<(StatusCode, HeaderMap, Bytes)> {
        let _may = self.requests.acquire().await.map_err(io::Error::other)?;
        let mut sent = self.begin(request.method, request.url.clone())?.timeout(REQUEST);
        for (name, value) in &request.headers {
            sent = sent.header(*name, value);
        }
        let mut response = sent.body(request.body.clone()).send().await.map_err(|error| unsent(&error))?;
        self.reached.store(true, Ordering::Relaxed);
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unsent(&error))? {
            if body.len() + piece.len() > ANSWER_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server's answer has no end"));
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, headers, body.into()))
    }

    /// Makes a request that has to succeed.
    pub(super) async fn expect(&self, request: &Request<'_>) -> io::Result<(StatusCode, HeaderMap, Bytes)> {
        let (status, headers, body) = self.answer(request).await?;
        if status.is_success() { Ok((status, headers, body)) } else { Err(self.refused(status)) }
    }

    /// Returns what the server says of a file, or of a folder and what is in it.
    pub(super) async fn find(&self, url: Url, depth: &str) -> io::Result<Vec<Found>> {
        let headers = vec![("Depth", depth.to_owned()), ("Content-Type", "application/xml".to_owned())];
        let body = Bytes::from_static(ASKED.as_bytes());
        let (_, _, answer) = self.expect(&Request { method: "PROPFIND", url, headers, body }).await?;
        found_in(&String::from_utf8_lossy(&answer))
    }

    /// Deletes a file.
    pub(super) async fn delete(&self, key: &Key) -> io::Result<()> {
        self.expect(&plain("DELETE", self.url(key)?)).await.map(drop)
    }

    /// Returns the error for an answer.
    pub(super) fn refused(&self, status: StatusCode) -> io::Error {
        let (kind, trouble) = match status {
            StatusCode::UNAUTHORIZED if self.login.is_none() => {
                (io::ErrorKind::PermissionDenied, Trouble::NoCredentials)
            }
            StatusCode::UNAUTHORIZED => (io::ErrorKind::PermissionDenied, Trouble::NotLetIn),
            StatusCode::FORBIDDEN => (io::ErrorKind::PermissionDenied, Trouble::Forbidden),
            StatusCode::NOT_FOUND | StatusCode::GONE => (io::ErrorKind::NotFound, Trouble::Other),
            StatusCode::PRECONDITION_FAILED => (io::ErrorKind::AlreadyExists, Trouble::Other),
            StatusCode::INSUFFICIENT_STORAGE => (io::ErrorKind::StorageFull, Trouble::Other),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                (io::ErrorKind::Unsupported, Trouble::Unable)
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::LOCKED => {
                (io::ErrorKind::Other, Trouble::Busy)
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => {
                (io::ErrorKind::TimedOut, Trouble::Silent)
            }
            status if status.is_redirection() => (io::ErrorKind::Other, Trouble::Region { there: None }),
            status if status.is_server_error() => (io::ErrorKind::Other, Trouble::Server),
            _ => (io::ErrorKind::Other, Trouble::Other),
        };
        Failure { trouble, service: Service::WebDav, said: status.to_string() }.into_error(kind)
    }
}

/// Returns a request without headers and body.
pub(super) fn plain(method: &str, url: Url) -> Request<'_> {
    Request { method, url, headers: Vec::new(), body: Bytes::new() }
}

/// Returns whether an answer may be another one the next time.
fn is_passing(status: StatusCode) -> bool {
    let never = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE);
    let later =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::LOCKED);
    later || (status.is_server_error() && !never)
}

/// Returns the error for a request that nobody answered.
fn unsent(error: &reqwest::Error) -> io::Error {
    let mut said = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    let trouble = if error.is_timeout() { Trouble::Silent } else { unanswered(&said.join("\n")) };
    let kind = if trouble == Trouble::Silent { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
    let said = said.pop().unwrap_or_else(|| "the request failed".to_owned());
    Failure { trouble, service: Service::WebDav, said }.into_error(kind)
}
