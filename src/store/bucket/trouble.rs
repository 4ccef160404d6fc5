//! What an answer of the library or of the server means.
//!
//! A server's answer has a status and a word for it, as `NoSuchBucket`. What stands between is said by the system and by
//! TLS.

use std::error::Error as StdError;
use std::io;

use http::StatusCode;

use crate::store::trouble::{Failure, Service, Trouble, unanswered};

/// Returns the error for an attempt that failed before a request was made.
pub(super) fn without_request(trouble: Trouble) -> io::Error {
    Failure::without_request(Service::S3, trouble)
}

/// Returns the error for an answer.
pub(super) fn answered(status: StatusCode, body: &str) -> io::Error {
    judged(Service::S3, None, Some(status), body, "")
}

/// Returns an error of the library, with its kind as [`Store`](crate::store::Store) promises it.
pub(super) fn failed(error: &object_store::Error) -> io::Error {
    let service = service_of(error);
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
        return Failure::without_request(service, Trouble::NoCredentials);
    }
    match answer_in(&said) {
        Some((status, body)) => judged(service, kind, Some(status), body, ""),
        None => judged(service, kind, None, &said, &all_said(&chain, &said)),
    }
}

/// Returns whose words the library's error has.
fn service_of(error: &object_store::Error) -> Service {
    let of = |store: &str| match store {
        "GCS" => Service::Google,
        "MicrosoftAzure" => Service::Azure,
        _ => Service::S3,
    };
    // Of the others nobody hears but their kind.
    if let object_store::Error::Generic { store, .. } = error { of(store) } else { Service::S3 }
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

fn judged(
    service: Service,
    kind: Option<io::ErrorKind>,
    status: Option<StatusCode>,
    body: &str,
    said: &str,
) -> io::Error {
    let code = tag(body, "Code").unwrap_or_default();
    let trouble = match (code, status) {
        ("NoSuchBucket" | "ContainerNotFound", _) => Trouble::NoBucket,
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
    Failure { trouble, service, said: shown }.into_error(kind)
}

/// Returns whether an error is of the addresses at which roles are asked for.
fn is_about_a_role(said: &str) -> bool {
    ["169.254.169.254", "169.254.170.2", "latest/api/token"].iter().any(|address| said.contains(address))
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
