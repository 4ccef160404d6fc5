//! What is wrong with a server, said so that the user knows what to do.
//!
//! A server's answer has a status and a word for it, as `NoSuchBucket`. What stands between is said by the system and by
//! TLS. Here each becomes one [`Trouble`], which travels inside the `io::Error`.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use http::StatusCode;

use crate::model::hint::Hint;

/// Why a server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such bucket.
    NoBucket,
    /// The server does not know the key.
    UnknownKey,
    /// The secret does not belong to the key.
    WrongSecret,
    /// The token of the session has run out.
    Expired,
    /// The key may not do it.
    Forbidden,
    /// There is no key, and no role to ask for.
    NoCredentials,
    /// The clocks differ too much.
    ClockSkew {
        /// The server's time and ours, if the server has told.
        times: Option<(String, String)>,
    },
    /// The bucket is in another region.
    Region {
        /// Where, if the server has told.
        there: Option<String>,
    },
    /// No host has the name.
    UnknownHost,
    /// Nothing listens there.
    Refused,
    /// The server's certificate is not believed.
    Certificate,
    /// What answers speaks no TLS, or only TLS.
    NoTls,
    /// It did not answer in time.
    Silent,
    /// It asks to come back later.
    Busy,
    /// It failed, and said so.
    Server,
    /// It cannot do that at all.
    Unable,
    /// The object is no longer what it was when the reading began.
    Changed,
    /// Anything else.
    Other,
}

/// A failed request.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub trouble: Trouble,
    /// What the server, the system or the library said; no secrets.
    said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.trouble {
            Trouble::NoBucket => "the server has no such bucket",
            Trouble::UnknownKey => "the server does not know the access key",
            Trouble::WrongSecret => "the secret is not that of the access key",
            Trouble::Expired => "the session token has expired",
            Trouble::Forbidden => "the access key may not do this",
            Trouble::NoCredentials => {
                "there is no access key: none in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                                       none in a profile, and no role of this machine"
            }
            Trouble::ClockSkew { times: Some((there, here)) } => {
                return write!(f, "the clocks differ too much: it is {there} there and {here} here");
            }
            Trouble::ClockSkew { times: None } => "the clocks here and there differ too much",
            Trouble::Region { there: Some(there) } => {
                return write!(f, "the bucket is in the region {there}");
            }
            Trouble::Region { there: None } => "the bucket is in another region, or at another server",
            Trouble::UnknownHost => "no server has that name",
            Trouble::Refused => "nothing listens there",
            Trouble::Certificate => "the server's certificate is not believed",
            Trouble::NoTls => "what listens there does not speak this protocol",
            Trouble::Silent => "the server did not answer in time",
            Trouble::Busy => {
                "the server is overloaded and asks for a pause, and did so for as long as volsnap tried"
            }
            Trouble::Server => "the server failed, again and again",
            Trouble::Unable => "the server cannot do this",
            Trouble::Changed => "it was replaced while it was read",
            Trouble::Other => return f.write_str(&self.said),
        };
        f.write_str(what)?;
        if !self.said.is_empty() {
            write!(f, " ({})", self.said)?;
        }
        Ok(())
    }
}

impl StdError for Failure {}

impl Failure {
    /// Returns the failure that an error carries.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn hints(&self) -> Vec<Hint> {
        let keys = "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or name a profile with AWS_PROFILE; each \
                    variable may name a file instead, with _FILE behind its name";
        let advice = match &self.trouble {
            Trouble::NoBucket => "make the bucket, or mend its name behind s3://",
            Trouble::UnknownKey | Trouble::WrongSecret | Trouble::NoCredentials => keys,
            Trouble::Expired => "get a new session token, and export it as AWS_SESSION_TOKEN with its key",
            Trouble::Forbidden => {
                "allow the key s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, \
                 s3:DeleteObject and s3:AbortMultipartUpload there; is it the key that is meant?"
            }
            Trouble::ClockSkew { .. } => {
                "set this machine's clock; chrony or systemd-timesyncd keep it right"
            }
            Trouble::Region { there: Some(there) } => {
                return vec![Hint::advice(format!("add region={there} to the URL"))];
            }
            Trouble::Region { there: None } => "name the region with region= in the URL, or AWS_REGION",
            Trouble::UnknownHost | Trouble::Refused | Trouble::NoTls => {
                "mend endpoint= in the URL, or AWS_ENDPOINT_URL: scheme, name and port, as https://minio.example:9000"
            }
            Trouble::Certificate => {
                "name the file of the certificate authority in AWS_CA_BUNDLE, if it is one of your own; else mend endpoint="
            }
            Trouble::Silent | Trouble::Busy | Trouble::Server => {
                "type it again later; nothing has to be cleaned up first"
            }
            Trouble::Unable | Trouble::Changed | Trouble::Other => return Vec::new(),
        };
        vec![Hint::advice(advice)]
    }
}

/// Returns the error for an attempt that failed before a request was made.
pub(super) fn without_request(trouble: Trouble) -> io::Error {
    io::Error::other(Failure { trouble, said: String::new() })
}

/// Returns the error for an answer.
pub(super) fn answered(status: StatusCode, body: &str) -> io::Error {
    judged(None, Some(status), body, "")
}

/// Returns an error of the library, with its kind as [`Store`](crate::store::Store) promises it.
pub(super) fn failed(error: &object_store::Error) -> io::Error {
    let chain = chain_of(error);
    let kind = match error {
        object_store::Error::NotFound { .. } => Some(io::ErrorKind::NotFound),
        object_store::Error::AlreadyExists { .. } => Some(io::ErrorKind::AlreadyExists),
        object_store::Error::Precondition { .. } => Some(io::ErrorKind::InvalidData),
        _ => None,
    };
    // The innermost says it in the server's or the system's words; those around it repeat the address, and each other.
    let said = chain.last().map(ToString::to_string).unwrap_or_default();
    // What it says there is about the role of the machine, and not about the bucket.
    if chain.iter().any(|error| is_about_a_role(&error.to_string())) {
        return without_request(Trouble::NoCredentials);
    }
    match answer_in(&said) {
        Some((status, body)) => judged(kind, Some(status), body, ""),
        None => judged(kind, None, &said, &all_said(&chain, &said)),
    }
}

/// Returns the answer that the library's words tell of: it keeps its type to itself.
fn answer_in(said: &str) -> Option<(StatusCode, &str)> {
    let rest = said.split_once("non-2xx status code: ")?.1;
    Some((rest.get(..3)?.parse().ok()?, rest.split_once(": ").map_or("", |(_, body)| body)))
}

/// Returns an error and what caused it, the innermost last.
fn chain_of<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut chain = vec![error];
    let mut cause = error.source();
    while let Some(error) = cause {
        chain.push(error);
        cause = error.source();
    }
    chain
}

/// Returns what all of a chain say, for the judgement alone, with the innermost words at the end.
fn all_said(chain: &[&(dyn StdError + 'static)], last: &str) -> String {
    let all: Vec<_> = chain.iter().map(ToString::to_string).filter(|said| said != last).collect();
    format!("{}\n{last}", all.join("\n"))
}

fn judged(kind: Option<io::ErrorKind>, status: Option<StatusCode>, body: &str, said: &str) -> io::Error {
    let code = tag(body, "Code").unwrap_or_default();
    let trouble = match (code, status) {
        ("NoSuchBucket", _) => Trouble::NoBucket,
        ("InvalidAccessKeyId" | "InvalidClientTokenId", _) => Trouble::UnknownKey,
        ("SignatureDoesNotMatch", _) => Trouble::WrongSecret,
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => Trouble::Expired,
        ("RequestTimeTooSkewed" | "RequestExpired", _) => {
            let times = tag(body, "ServerTime").zip(tag(body, "RequestTime"));
            Trouble::ClockSkew { times: times.map(|(there, here)| (there.to_owned(), here.to_owned())) }
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) => {
            Trouble::Region { there: tag(body, "Region").map(str::to_owned) }
        }
        ("SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "RequestLimitExceeded", _) => Trouble::Busy,
        ("NotImplemented", _) => Trouble::Unable,
        (_, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => Trouble::Forbidden,
        (_, Some(StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT)) => {
            Trouble::Region { there: None }
        }
        (_, Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => Trouble::Busy,
        (_, Some(StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT)) => Trouble::Silent,
        (_, Some(status)) if status.is_server_error() => Trouble::Server,
        (_, Some(_)) => Trouble::Other,
        (_, None) => unanswered(said),
    };
    let kind = match (&trouble, kind) {
        // There is more wrong than that the object is missing.
        (Trouble::NoBucket, _) => io::ErrorKind::Other,
        (Trouble::UnknownKey | Trouble::WrongSecret | Trouble::Expired | Trouble::Forbidden, _) => {
            io::ErrorKind::PermissionDenied
        }
        (Trouble::Silent, _) => io::ErrorKind::TimedOut,
        (Trouble::Unable, _) => io::ErrorKind::Unsupported,
        (_, Some(kind)) => kind,
        (_, None)
            if code == "NoSuchKey" || code == "NoSuchUpload" || status == Some(StatusCode::NOT_FOUND) =>
        {
            io::ErrorKind::NotFound
        }
        (_, None) => io::ErrorKind::Other,
    };
    let trouble = if kind == io::ErrorKind::InvalidData { Trouble::Changed } else { trouble };
    let shown = match status {
        Some(status) if code.is_empty() => status.to_string(),
        Some(status) => format!("{} {code}", status.as_u16()),
        None => said.lines().last().unwrap_or_default().to_owned(),
    };
    io::Error::new(kind, Failure { trouble, said: shown })
}

/// Returns whether an error is of the addresses at which roles are asked for.
fn is_about_a_role(said: &str) -> bool {
    ["169.254.169.254", "169.254.170.2", "latest/api/token"].iter().any(|address| said.contains(address))
}

/// Returns what kept a request from being answered.
fn unanswered(said: &str) -> Trouble {
    let said = said.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["redirect without location"]) {
        Trouble::Region { there: None }
    } else if any(&["dns error", "failed to lookup address", "name or service not known"]) {
        Trouble::UnknownHost
    } else if any(&["certificate", "unknownissuer"]) {
        Trouble::Certificate
    } else if any(&["corrupt message", "invalidcontenttype", "invalid http version", "received fatal alert"])
    {
        Trouble::NoTls
    } else if any(&["connection refused", "no route to host", "network is unreachable"]) {
        Trouble::Refused
    } else if any(&["timed out", "timeout"]) {
        Trouble::Silent
    } else {
        Trouble::Other
    }
}

/// Returns the text of the first element of a name.
pub(super) fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = xml.split_once(&format!("<{name}>"))?.1;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(code: &str, more: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message>{more}</Error>")
    }

    #[test]
    fn each_answer_says_what_is_wrong_and_what_to_do() {
        let forbidden = StatusCode::FORBIDDEN;
        let skew = "<RequestTime>20261130T100000Z</RequestTime><ServerTime>2026-11-30T09:00:00Z</ServerTime>";
        for (status, body, expected, hint) in [
            (
                StatusCode::NOT_FOUND,
                xml("NoSuchBucket", ""),
                "the server has no such bucket (404 NoSuchBucket)",
                "make the bucket",
            ),
            (
                forbidden,
                xml("InvalidAccessKeyId", ""),
                "the server does not know the access key (403 InvalidAccessKeyId)",
                "AWS_ACCESS_KEY_ID",
            ),
            (
                forbidden,
                xml("SignatureDoesNotMatch", ""),
                "the secret is not that of the access key (403 SignatureDoesNotMatch)",
                "AWS_SECRET",
            ),
            (
                forbidden,
                xml("AccessDenied", ""),
                "the access key may not do this (403 AccessDenied)",
                "s3:PutObject",
            ),
            (forbidden, String::new(), "the access key may not do this (403 Forbidden)", "s3:PutObject"),
            (
                forbidden,
                xml("RequestTimeTooSkewed", skew),
                "the clocks differ too much: it is 2026-11-30T09:00:00Z there and 20261130T100000Z here",
                "clock",
            ),
            (
                StatusCode::BAD_REQUEST,
                xml("AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
                "the bucket is in the region eu-1",
                "region=eu-1",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                xml("SlowDown", ""),
                "the server is overloaded and asks for a pause, and did so for as long as volsnap tried (503 SlowDown)",
                "later",
            ),
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                xml("InternalError", ""),
                "the server failed, again and again (500 InternalError)",
                "later",
            ),
        ] {
            let error = answered(status, &body);
            assert_eq!(error.to_string(), expected);
            let hints = Failure::of(&error).unwrap().hints();
            assert!(format!("{hints:?}").contains(hint), "{hints:?}");
        }
    }

    #[test]
    fn what_the_machine_says_of_its_role_is_not_about_the_bucket() {
        let said = "Error performing PUT http://169.254.169.254/latest/api/token in 1ms - Server returned non-2xx status code: 403 Forbidden: ";
        let error = failed(&object_store::Error::Generic { store: "S3", source: said.into() });
        assert_eq!(Failure::of(&error).unwrap().trouble, Trouble::NoCredentials);
    }

    #[test]
    fn a_bucket_that_is_missing_is_no_missing_object() {
        assert_eq!(answered(StatusCode::NOT_FOUND, &xml("NoSuchBucket", "")).kind(), io::ErrorKind::Other);
        assert_eq!(answered(StatusCode::NOT_FOUND, &xml("NoSuchKey", "")).kind(), io::ErrorKind::NotFound);
        assert_eq!(answered(StatusCode::NOT_FOUND, "").kind(), io::ErrorKind::NotFound);
        assert_eq!(answered(StatusCode::FORBIDDEN, "").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            answered(StatusCode::BAD_REQUEST, &xml("NotImplemented", "")).kind(),
            io::ErrorKind::Unsupported
        );
    }
}
