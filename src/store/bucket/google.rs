//! What is needed to reach a bucket of Google's.
//!
//! Of the environment only names that begin with `GOOGLE_` are read, and what Google's own tools have left in the home
//! directory.

use object_store::gcp::GoogleCloudStorageBuilder;

use super::{Opened, Parts, connected};
use crate::store::OpenError;
use crate::store::surroundings::{Surroundings, Variables};

/// Opens the bucket of `gs://BUCKET/FOLDER?endpoint=URL`.
///
/// # Errors
/// When the URL or the credentials cannot be right.
pub(super) fn open(url: &str, around: &dyn Surroundings) -> Result<Opened, OpenError> {
    let parts = Parts::parse(url, "gs://").map_err(OpenError::Refused)?;
    let builder = builder(&parts, around).map_err(OpenError::Refused)?;
    let (options, retry) = super::ways(parts.endpoint.as_deref());
    let built = builder
        .with_client_options(options)
        .with_retry(retry)
        .with_http_connector(super::http::Connector)
        .build()
        .map_err(|error| OpenError::Refused(error.to_string()))?;
    Ok(connected(built, "gs://", &parts))
}

fn builder(parts: &Parts, around: &dyn Surroundings) -> Result<GoogleCloudStorageBuilder, String> {
    let variables = Variables { around, prefix: "GOOGLE_" };
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(&parts.place);
    if let Some(endpoint) = &parts.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if let Some(token) = variables.secret("GOOGLE_OAUTH_ACCESS_TOKEN")? {
        builder = builder.with_bearer_token(token);
    } else if let Some(key) = variables.secret("GOOGLE_SERVICE_ACCOUNT_KEY")? {
        builder = builder.with_service_account_key(key);
    } else if let Some(file) = variables.plain("GOOGLE_APPLICATION_CREDENTIALS") {
        builder = builder.with_application_credentials(file);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use object_store::gcp::GoogleConfigKey;

    use super::*;

    struct Around(&'static [(&'static str, &'static str)]);

    impl Surroundings for Around {
        fn variable(&self, name: &str) -> Option<String> {
            assert!(name.starts_with("GOOGLE_"), "{name} is another program's");
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/run/secrets/google") => Ok("{\"client_email\": \"a\"}\n".to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn the_key_comes_from_googles_variables_or_from_the_file_that_one_names() {
        let parts = Parts::parse("gs://backups/db?endpoint=http://127.0.0.1:1/", "gs://").unwrap();
        let of = |variables| builder(&parts, &Around(variables)).unwrap();
        let said = |builder: &GoogleCloudStorageBuilder, key| builder.get_config_value(&key);
        let by_file = of(&[("GOOGLE_SERVICE_ACCOUNT_KEY_FILE", "/run/secrets/google")]);
        assert_eq!(said(&by_file, GoogleConfigKey::ServiceAccountKey).unwrap(), "{\"client_email\": \"a\"}");
        assert_eq!(said(&by_file, GoogleConfigKey::Bucket).unwrap(), "backups");
        assert_eq!(said(&by_file, GoogleConfigKey::BaseUrl).unwrap(), "http://127.0.0.1:1");
        let named = of(&[("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json")]);
        assert_eq!(said(&named, GoogleConfigKey::ApplicationCredentials).unwrap(), "/etc/key.json");
        assert_eq!(said(&of(&[]), GoogleConfigKey::ServiceAccountKey), None);
        let missing = builder(&parts, &Around(&[("GOOGLE_SERVICE_ACCOUNT_KEY_FILE", "/none")]));
        assert!(missing.unwrap_err().contains("cannot be read"));
    }
}
