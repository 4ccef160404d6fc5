//! What a server says of its files: the answer to PROPFIND.

use std::io;
use std::time::SystemTime;

use chrono::DateTime;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::store::address::percent_decoded;

/// What is asked for.
pub(super) const ASKED: &str = r#"<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>"#;

/// A file or a folder, as the server tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its path at the server, without slashes around, with nothing escaped.
    pub(super) path: Vec<String>,
    pub(super) is_folder: bool,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    pub(super) tag: Option<String>,
}

#[derive(Deserialize)]
struct Multistatus {
    #[serde(default, rename = "response")]
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    href: String,
    #[serde(default, rename = "propstat")]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    prop: Properties,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct Properties {
    resourcetype: Option<Kind>,
    getcontentlength: Option<String>,
    getlastmodified: Option<String>,
    getetag: Option<String>,
}

#[derive(Deserialize)]
struct Kind {
    collection: Option<IgnoredAny>,
}

/// Returns what an answer tells of.
///
/// # Errors
/// When it is no such answer, or does not say of a file how long it is and when it was written.
pub(super) fn found_in(answer: &str) -> io::Result<Vec<Found>> {
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let answer: Multistatus = quick_xml::de::from_str(answer)
        .map_err(|error| refused(format!("the server's answer is none of WebDAV's: {error}")))?;
    let found = answer.responses.into_iter().map(|response| {
        let href = response.href.trim();
        let path =
            path_of(href).ok_or_else(|| refused(format!("the server names {href:?}, which is no path")))?;
        let known =
            response.parts.into_iter().filter(|part| part.status.is_empty() || part.status.contains(" 200"));
        let mut all =
            Properties { resourcetype: None, getcontentlength: None, getlastmodified: None, getetag: None };
        for Part { prop, .. } in known {
            all.resourcetype = all.resourcetype.or(prop.resourcetype);
            all.getcontentlength = all.getcontentlength.or(prop.getcontentlength);
            all.getlastmodified = all.getlastmodified.or(prop.getlastmodified);
            all.getetag = all.getetag.or(prop.getetag);
        }
        let is_folder = all.resourcetype.is_some_and(|kind| kind.collection.is_some());
        let bytes = all.getcontentlength.and_then(|length| length.trim().parse().ok());
        let modified = all.getlastmodified.and_then(|time| DateTime::parse_from_rfc2822(time.trim()).ok());
        let of_file = |missing: &str| refused(format!("the server does not say {missing} of {href}"));
        Ok(Found {
            path,
            is_folder,
            bytes: match bytes {
                Some(bytes) => bytes,
                None if is_folder => 0,
                None => return Err(of_file("the length")),
            },
            modified: match modified {
                Some(modified) => modified.into(),
                None if is_folder => SystemTime::UNIX_EPOCH,
                None => return Err(of_file("the time")),
            },
            tag: all.getetag.filter(|tag| !tag.is_empty()),
        })
    });
    found.collect()
}

/// Returns the parts of the path in a name that a server gives: a path, or a whole URL.
fn path_of(href: &str) -> Option<Vec<String>> {
    let path = match href.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => href,
    };
    path.split('/').filter(|part| !part.is_empty()).map(percent_decoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_several_servers_are_understood() {
        let answer = r#"<?xml version="1.0" encoding="utf-8"?>
            <D:multistatus xmlns:D="DAV:" xmlns:x="http://other">
            <D:response><D:href>/dav/back%20ups/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>
            <D:getlastmodified>Mon, 30 Nov 2026 05:00:00 GMT</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
            <D:propstat><D:prop><D:getcontentlength/><D:getetag/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
            </D:response>
            <D:response><D:href>https://nas.example/dav/back%20ups/a%26b.json</D:href><D:propstat><D:prop><D:resourcetype/>
            <D:getcontentlength>12</D:getcontentlength><D:getlastmodified>Mon, 30 Nov 2026 05:00:01 GMT</D:getlastmodified>
            <D:getetag>"17-&amp;"</D:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
            </D:multistatus>"#;
        let found = found_in(answer).unwrap();
        let time = |text: &str| SystemTime::from(text.parse::<DateTime<chrono::Utc>>().unwrap());
        assert_eq!(
            found,
            [
                Found {
                    path: vec!["dav".to_owned(), "back ups".to_owned()],
                    is_folder: true,
                    bytes: 0,
                    modified: time("2026-11-30T05:00:00Z"),
                    tag: None,
                },
                Found {
                    path: vec!["dav".to_owned(), "back ups".to_owned(), "a&b.json".to_owned()],
                    is_folder: false,
                    bytes: 12,
                    modified: time("2026-11-30T05:00:01Z"),
                    tag: Some("\"17-&\"".to_owned()),
                },
            ]
        );
    }

    #[test]
    fn an_answer_that_leaves_out_what_counts_is_refused() {
        let of = |properties: &str| {
            format!(
                "<multistatus xmlns='DAV:'><response><href>/a</href><propstat><prop>{properties}</prop><status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
            )
        };
        for (answer, why) in [
            ("<html><body>Sign in</body>".to_owned(), "none of WebDAV's"),
            (of("<getlastmodified>Mon, 30 Nov 2026 05:00:01 GMT</getlastmodified>"), "the length"),
            (of("<getcontentlength>1</getcontentlength>"), "the time"),
            (of("<getcontentlength>1</getcontentlength><getlastmodified>now</getlastmodified>"), "the time"),
        ] {
            let error = found_in(&answer).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
