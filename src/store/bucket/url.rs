//! What the URL of a bucket says.

use reqwest::Url;

use crate::store::address::{holds_credentials, is_this_machine, percent_decoded};

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The bucket, or Azure's account.
    pub(super) place: String,
    /// The folder in it, without slashes around; empty for the place itself.
    pub(super) prefix: String,
    /// The server, if it is not the provider's.
    pub(super) endpoint: Option<String>,
    /// The region.
    pub(super) region: Option<String>,
}

impl Parts {
    /// Returns the parts of `s3://BUCKET/FOLDER?endpoint=URL&region=NAME`, or of a URL with another scheme.
    ///
    /// # Errors
    /// A sentence's fragment that says what is wrong with it.
    pub(super) fn parse(url: &str, scheme: &str) -> Result<Self, String> {
        let rest = url.strip_prefix(scheme).ok_or_else(|| format!("it does not begin with {scheme}"))?;
        if holds_credentials(url) {
            return Err(
                "a URL holds no credentials: they come from the environment or from a file".to_owned()
            );
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let is_bucket = |name: &str| {
            (3..=63).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        };
        if !is_bucket(bucket) {
            return Err(format!(
                "it has no bucket's name behind {scheme}, which has 3 to 63 letters, digits, dots and dashes"
            ));
        }
        let prefix = prefix.trim_matches('/');
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
        let leads_elsewhere = |part: &str| matches!(part, "" | "." | "..");
        if !prefix.is_empty() && (!prefix.bytes().all(is_plain) || prefix.split('/').any(leads_elsewhere)) {
            return Err(
                "its folder may have letters, digits, dots, dashes and underscores, with / between them"
                    .to_owned(),
            );
        }
        let mut parts =
            Self { place: bucket.to_owned(), prefix: prefix.to_owned(), endpoint: None, region: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value).filter(|value| !value.is_empty());
            match name {
                "endpoint" => parts.endpoint = Some(value.ok_or("its endpoint= names no server")?),
                "region" if scheme == "s3://" => {
                    parts.region = Some(value.ok_or("its region= names no region")?);
                }
                // The value may be a secret.
                _ => {
                    return Err(format!(
                        "it has {name:?} behind the question mark; endpoint= and region= may be there"
                    ));
                }
            }
        }
        if let Some(endpoint) = &parts.endpoint {
            check_endpoint(endpoint)?;
            if scheme != "s3://" {
                refuse_clear(endpoint)?;
            }
        }
        Ok(parts)
    }
}

/// Refuses what is no server's address.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err(format!("its endpoint {endpoint:?} is no URL, as https://minio.example:9000 is"));
    };
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return Err(
            "its endpoint holds credentials; they come from the environment or from a profile".to_owned()
        );
    }
    if !matches!(scheme, "http" | "https") || rest.is_empty() || rest.contains(['?', '#', ' ']) {
        return Err(format!("its endpoint {endpoint:?} is no URL, as https://minio.example:9000 is"));
    }
    Ok(())
}

/// Refuses a server that would be told a token without TLS. To one that speaks as S3 does no secret is sent: it signs the
/// requests.
fn refuse_clear(endpoint: &str) -> Result<(), String> {
    let host =
        Url::parse(endpoint).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    if endpoint.starts_with("https://") || is_this_machine(&host) {
        return Ok(());
    }
    Err(format!("its endpoint {endpoint:?} would be told who we are for everybody to read: https:// is not"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_a_token_goes_to_this_machine_alone() {
        for scheme in ["gs://", "az://"] {
            let of = |endpoint| Parts::parse(&format!("{scheme}place/folder?endpoint={endpoint}"), scheme);
            for open in ["http://nas.example", "http://127.0.0.1.example:80", "http://10.0.0.1:10000/x"] {
                assert!(of(open).unwrap_err().contains("for everybody to read"), "{open}");
            }
            for safe in
                ["https://nas.example", "http://127.0.0.1:10000/x", "http://[::1]:1", "http://localhost"]
            {
                assert_eq!(of(safe).unwrap().endpoint.as_deref(), Some(safe));
            }
        }
        let signed = Parts::parse("s3://place?endpoint=http://nas.example:9000", "s3://");
        assert_eq!(signed.unwrap().endpoint.as_deref(), Some("http://nas.example:9000"));
    }
}
