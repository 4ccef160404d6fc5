//! What is needed to reach a container of Azure's blobs.
//!
//! Of the environment only names that begin with `AZURE_` are read.

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::{Opened, Parts, connected};
use crate::store::OpenError;
use crate::store::surroundings::{Surroundings, Variables};

/// Opens the container of `az://ACCOUNT/CONTAINER/FOLDER?endpoint=URL`.
///
/// # Errors
/// When the URL or the credentials cannot be right.
pub(super) fn open(url: &str, around: &dyn Surroundings) -> Result<Opened, OpenError> {
    let parts = Parts::parse(url, "az://").map_err(OpenError::Refused)?;
    let (container, folder) = parts.prefix.split_once('/').unwrap_or((&parts.prefix, ""));
    if container.is_empty() {
        let why = "it names no container, as az://ACCOUNT/CONTAINER/FOLDER does";
        return Err(OpenError::Refused(why.to_owned()));
    }
    let builder = builder(&parts, container, around).map_err(OpenError::Refused)?;
    let (options, retry) = super::ways(parts.endpoint.as_deref());
    let built = builder
        .with_client_options(options)
        .with_retry(retry)
        .with_http_connector(super::http::Connector)
        .build()
        .map_err(|error| OpenError::Refused(error.to_string()))?;
    let opened = connected(built, "az://", &parts);
    Ok(Opened { prefix: folder.to_owned(), ..opened })
}

fn builder(
    parts: &Parts,
    container: &str,
    around: &dyn Surroundings,
) -> Result<MicrosoftAzureBuilder, String> {
    let variables = Variables { around, prefix: "AZURE_" };
    let mut builder = MicrosoftAzureBuilder::new().with_account(&parts.place).with_container_name(container);
    if let Some(endpoint) = &parts.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let key = match variables.secret("AZURE_STORAGE_ACCOUNT_KEY")? {
        None => variables.secret("AZURE_STORAGE_KEY")?,
        key => key,
    };
    if let Some(key) = key {
        return Ok(builder.with_access_key(key));
    }
    if let Some(token) = variables.secret("AZURE_STORAGE_SAS_TOKEN")? {
        return Ok(builder.with_config(AzureConfigKey::SasKey, token.trim_start_matches('?')));
    }
    let (client, tenant) = (variables.plain("AZURE_CLIENT_ID"), variables.plain("AZURE_TENANT_ID"));
    if let (Some(client), Some(tenant)) = (client, tenant) {
        if let Some(secret) = variables.secret("AZURE_CLIENT_SECRET")? {
            return Ok(builder.with_client_secret_authorization(client, secret, tenant));
        }
        if let Some(file) = variables.plain("AZURE_FEDERATED_TOKEN_FILE") {
            let builder = builder.with_client_id(client).with_tenant_id(tenant);
            return Ok(builder.with_federated_token_file(file));
        }
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    struct Around(&'static [(&'static str, &'static str)]);

    impl Surroundings for Around {
        fn variable(&self, name: &str) -> Option<String> {
            assert!(name.starts_with("AZURE_"), "{name} is another program's");
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/run/secrets/azure") => Ok("c2VjcmV0\n".to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn the_key_comes_from_azures_variables_in_the_order_of_its_tools() {
        let parts = Parts::parse("az://account/backups/db", "az://").unwrap();
        let of = |variables| builder(&parts, "backups", &Around(variables)).unwrap();
        let said = |builder: &MicrosoftAzureBuilder, key| builder.get_config_value(&key);
        let key = of(&[("AZURE_STORAGE_ACCOUNT_KEY_FILE", "/run/secrets/azure"), ("AZURE_CLIENT_ID", "x")]);
        assert_eq!(said(&key, AzureConfigKey::AccessKey).unwrap(), "c2VjcmV0");
        assert_eq!(said(&key, AzureConfigKey::AccountName).unwrap(), "account");
        assert_eq!(said(&key, AzureConfigKey::ContainerName).unwrap(), "backups");
        assert_eq!(said(&key, AzureConfigKey::ClientId), None);
        let token = of(&[("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=2")]);
        assert_eq!(said(&token, AzureConfigKey::SasKey).unwrap(), "sv=1&sig=2");
        let principal =
            of(&[("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_SECRET", "s")]);
        assert_eq!(said(&principal, AzureConfigKey::ClientSecret).unwrap(), "s");
        let identity =
            of(&[("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t"), ("AZURE_FEDERATED_TOKEN_FILE", "/f")]);
        assert_eq!(said(&identity, AzureConfigKey::FederatedTokenFile).unwrap(), "/f");
    }

    #[test]
    fn a_url_without_a_container_is_refused() {
        let said = match open("az://account", &Around(&[])) {
            Err(OpenError::Refused(said)) => said,
            other => panic!("{:?}", other.is_ok()),
        };
        assert!(said.contains("no container"), "{said}");
    }
}
