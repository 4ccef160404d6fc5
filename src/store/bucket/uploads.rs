//! What the library does not ask a server: which uploads were never finished, and what it does with conditions.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, HttpRequestBody};
use object_store::{ClientOptions, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};

use super::amazon::Settings;
use super::http::Connector;
use super::trouble::{answered, failed, tag};
use super::{Shared, reader};
use crate::store::{Key, Probed};

/// How often a list is asked for.
const ATTEMPTS: u32 = 4;

/// An upload that was begun, and neither finished nor given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    /// The object's name in the bucket.
    pub(super) name: String,
    /// What the server calls the upload.
    pub(super) id: String,
    /// When it began, by the server's clock.
    pub(super) begun: Option<DateTime<Utc>>,
}

/// Asks which uploads there are.
pub(super) struct Uploads {
    bucket: String,
    region: String,
    credentials: AwsCredentialProvider,
    client: HttpClient,
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Uploads {
    pub(super) fn new(
        settings: &Settings,
        credentials: &AwsCredentialProvider,
        options: &ClientOptions,
    ) -> object_store::Result<Self> {
        Ok(Self {
            bucket: settings.bucket_address(),
            region: settings.region.clone(),
            credentials: Arc::clone(credentials),
            client: Connector.connect(options)?,
        })
    }

    /// Returns the uploads of the object with this name.
    pub(super) async fn of(&self, name: &str) -> io::Result<Vec<Upload>> {
        let mut found = self.below(name).await?;
        found.retain(|upload| upload.name == name);
        Ok(found)
    }

    /// Returns the uploads of all objects whose names begin so.
    pub(super) async fn below(&self, prefix: &str) -> io::Result<Vec<Upload>> {
        let mut found = Vec::new();
        let mut from: Option<(String, String)> = None;
        loop {
            let mut query = format!("uploads=&prefix={}", escaped(prefix));
            if let Some((key, id)) = &from {
                query = format!("key-marker={}&{query}&upload-id-marker={}", escaped(key), escaped(id));
            }
            let page = self.ask(&query).await?;
            found.extend(uploads_in(&page));
            let next = tag(&page, "NextKeyMarker").zip(tag(&page, "NextUploadIdMarker"));
            let next = next.map(|(key, id)| (unescaped(key), unescaped(id)));
            if tag(&page, "IsTruncated") != Some("true") || next.is_none() || next == from {
                return Ok(found);
            }
            from = next;
        }
    }

    async fn ask(&self, query: &str) -> io::Result<String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.ask_once(query).await {
                Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                    tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
                }
                asked => return asked,
            }
        }
    }

    async fn ask_once(&self, query: &str) -> io::Result<String> {
        let credential = self.credentials.get_credential().await.map_err(|error| failed(&error))?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = format!("{}?{query}", self.bucket).parse().map_err(io::Error::other)?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| failed(&error))?;
        let response = self.client.execute(request).await.map_err(|error| {
            failed(&object_store::Error::Generic { store: "S3", source: Box::new(error) })
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        if head.status == StatusCode::OK { Ok(body) } else { Err(answered(head.status, &body)) }
    }
}

/// Returns whether a failure may be over the next time.
fn may_pass(error: &io::Error) -> bool {
    use super::Trouble::{Busy, Other, Server, Silent};
    super::Failure::of(error).is_none_or(|failure| matches!(failure.trouble, Busy | Server | Silent | Other))
}

fn uploads_in(page: &str) -> Vec<Upload> {
    let each = page.split("<Upload>").skip(1);
    each.filter_map(|upload| {
        Some(Upload {
            name: unescaped(tag(upload, "Key")?),
            id: unescaped(tag(upload, "UploadId")?),
            begun: tag(upload, "Initiated").and_then(|time| time.parse().ok()),
        })
    })
    .collect()
}

/// Returns a text as part of a query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Returns a text as it was before it was put into XML.
fn unescaped(text: &str) -> String {
    ["&quot;\"", "&apos;'", "&lt;<", "&gt;>", "&amp;&"].iter().fold(text.to_owned(), |text, pair| {
        let (escape, plain) = pair.split_at(pair.len() - 1);
        text.replace(escape, plain)
    })
}

/// Finds out what a server does, with an object that is gone afterwards.
pub(super) async fn probe(shared: &Shared, key: &Key) -> io::Result<Probed> {
    let path = shared.path(key)?;
    let put = async |contents: &'static [u8]| {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        shared.bucket.put_opts(&path, Bytes::from_static(contents).into(), options).await
    };
    let (first, second): (&[u8], &[u8]) = (b"volsnap 1", b"volsnap 2");
    let understood = match put(first).await.map_err(|error| failed(&error)) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        // It does not know the condition, and perhaps knows the rest.
        Err(error)
            if super::Failure::of(&error).is_some_and(|failure| {
                failure.trouble == super::Trouble::Unable || failure.trouble == super::Trouble::Other
            }) =>
        {
            let stored = shared.bucket.put(&path, Bytes::from_static(first).into()).await;
            stored.map_err(|error| failed(&error))?;
            false
        }
        Err(error) => return Err(error),
    };
    let refuses = understood
        && put(second).await.is_err_and(|error| failed(&error).kind() == io::ErrorKind::AlreadyExists);
    let read = reader::open_shared(shared, &path).await;
    let deleted = shared.bucket.delete(&path).await.map_err(|error| failed(&error));
    let deletes = match deleted {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
        Err(error) => return Err(error),
    };
    let conditional_create = refuses && read? == Bytes::from_static(first);
    let listed = match &shared.uploads {
        Some(uploads) => uploads.of(path.as_ref()).await.map(drop),
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    let lists_uploads = match listed {
        Ok(()) => true,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
        {
            false
        }
        Err(error) => return Err(error),
    };
    Ok(Probed { conditional_create, deletes, lists_uploads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uploads_of_a_page_are_read_with_their_names_as_they_were() {
        let page = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Initiator/>\
                    <Key>a/b&amp;amp;c.tar.zst</Key><UploadId>x&lt;1</UploadId>\
                    <Initiated>2026-11-30T04:00:00.000Z</Initiated></Upload><Upload><Key>d</Key>\
                    <UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
        let found = uploads_in(page);
        assert_eq!((found[0].name.as_str(), found[0].id.as_str()), ("a/b&amp;c.tar.zst", "x<1"));
        assert_eq!(found[0].begun, Some("2026-11-30T04:00:00Z".parse().unwrap()));
        assert_eq!(found[1], Upload { name: "d".to_owned(), id: "2".to_owned(), begun: None });
        assert_eq!(escaped("a/b c+"), "a%2Fb%20c%2B");
    }
}
