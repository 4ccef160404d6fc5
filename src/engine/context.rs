//! The selected docker context: the engine that `docker`, and the Compose that it runs, talk to if nobody has given an
//! address. volsnap does not follow contexts, so it refuses one that selects another engine than its own: the user's
//! words mean what `docker ps` shows.
//!
//! `DOCKER_HOST` beats `DOCKER_CONTEXT`, which beats `currentContext` of the client's `config.json`; so a user who has
//! given an address needs none of this.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::bollard::DEFAULT_ADDRESS;

/// The context that means no context.
const DEFAULT: &str = "default";

/// Why volsnap does not talk to the engine.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A file of the docker client is missing, or we may not read it.
    #[error("read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the docker client does not have the expected content.
    #[error("understand {path}")]
    Garbled {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The selected context belongs to something other than docker.
    #[error("{path} has no docker endpoint for the context {name} (selected by {by})")]
    NoEndpoint {
        /// The file.
        path: PathBuf,
        /// The context.
        name: String,
        /// What selects it.
        by: Selection,
    },
    /// The selected context belongs to another engine.
    #[error(
        "docker talks to {endpoint} by the context {name} (selected by {by}), and volsnap would talk to {address}"
    )]
    OtherEngine {
        /// The context.
        name: String,
        /// What selects it.
        by: Selection,
        /// Its engine.
        endpoint: String,
        /// The engine that volsnap would talk to.
        address: String,
    },
}

/// What selects a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// `DOCKER_CONTEXT`.
    Variable,
    /// `docker context use`, which writes this file.
    File(PathBuf),
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable => f.write_str("DOCKER_CONTEXT"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext")]
    current: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "Endpoints", default)]
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "Host", default)]
    host: String,
}

/// Refuses a selected context whose engine is not the one at `address`. `variable` is the environment, `home` the
/// user's directory.
///
/// # Errors
/// When it belongs to another engine, or its engine cannot be read.
pub fn refuse_other_engine(
    address: &str,
    variable: impl Fn(&str) -> Option<String>,
    home: Option<&Path>,
) -> Result<(), ContextError> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let config = set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home?.join(".docker")));
    let config = config.unwrap_or_else(|| PathBuf::from(".docker"));
    let (name, by) = match set("DOCKER_CONTEXT") {
        Some(name) => (Some(name), Selection::Variable),
        None => {
            let file = config.join("config.json");
            (current(&file)?, Selection::File(file))
        }
    };
    let Some(name) = name.filter(|name| !name.is_empty() && name != DEFAULT) else { return Ok(()) };
    let path = config.join("contexts/meta").join(hexadecimal(&name)).join("meta.json");
    let text = read(&path)?;
    let meta: Meta = parse(&path, &text)?;
    let Some(endpoint) = meta.endpoints.get("docker") else {
        return Err(ContextError::NoEndpoint { path, name, by });
    };
    let endpoint = if endpoint.host.is_empty() { DEFAULT_ADDRESS } else { &endpoint.host };
    if is_same(endpoint, address) {
        return Ok(());
    }
    Err(ContextError::OtherEngine { name, by, endpoint: endpoint.to_owned(), address: address.to_owned() })
}

/// Returns what the client's configuration selects; no file, or an empty one, selects nothing.
fn current(file: &Path) -> Result<Option<String>, ContextError> {
    let text = match read(file) {
        Err(ContextError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    parse(file, &text).map(|config: Config| config.current)
}

fn read(path: &Path) -> Result<Vec<u8>, ContextError> {
    std::fs::read(path).map_err(|source| ContextError::Unreadable { path: path.to_owned(), source })
}

fn parse<'t, T: Deserialize<'t>>(path: &Path, text: &'t [u8]) -> Result<T, ContextError> {
    serde_json::from_slice(text).map_err(|source| ContextError::Garbled { path: path.to_owned(), source })
}

/// Returns the name of a context's directory.
fn hexadecimal(name: &str) -> String {
    Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether two addresses belong to one engine; one socket may have several paths.
fn is_same(one: &str, other: &str) -> bool {
    let socket = |address: &str| Path::new(address.strip_prefix("unix://")?).canonicalize().ok();
    one == other || socket(one).is_some_and(|one| socket(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "unix:///nowhere/docker.sock";

    /// A directory of the docker client, with a context `far` on another engine and `near` on ours.
    fn client() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        context(directory.path(), "far", r#"{"docker":{"Host":"tcp://far:2375","SkipTLSVerify":false}}"#);
        context(directory.path(), "near", &format!(r#"{{"docker":{{"Host":"{SOCKET}"}}}}"#));
        directory
    }

    fn context(directory: &Path, name: &str, endpoints: &str) {
        let meta = directory.join("contexts/meta").join(hexadecimal(name));
        std::fs::create_dir_all(&meta).unwrap();
        let text = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{endpoints}}}"#);
        std::fs::write(meta.join("meta.json"), text).unwrap();
    }

    fn select(directory: &Path, text: &str) {
        std::fs::write(directory.join("config.json"), text).unwrap();
    }

    fn refuse(directory: &Path, named: Option<&str>) -> Result<(), ContextError> {
        let variable = |name: &str| match name {
            "DOCKER_CONFIG" => Some(directory.to_str().unwrap().to_owned()),
            "DOCKER_CONTEXT" => named.map(str::to_owned),
            _ => None,
        };
        refuse_other_engine(SOCKET, variable, None)
    }

    #[test]
    fn the_directory_of_a_context_is_the_digest_of_its_name() {
        let digest = "37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f";
        assert_eq!(hexadecimal("default"), digest);
    }

    #[test]
    fn no_context_and_the_default_one_are_ours() {
        let client = client();
        refuse(client.path(), None).unwrap();
        for text in ["", "{}", r#"{"auths":{},"currentContext":""}"#, r#"{"currentContext":"default"}"#] {
            select(client.path(), text);
            refuse(client.path(), None).unwrap();
        }
        select(client.path(), r#"{"currentContext":"far"}"#);
        refuse(client.path(), Some("default")).unwrap();
    }

    #[test]
    fn a_context_on_our_engine_is_ours_whatever_it_is_called() {
        let client = client();
        refuse(client.path(), Some("near")).unwrap();
        select(client.path(), r#"{"currentContext":"near"}"#);
        refuse(client.path(), None).unwrap();
        // One socket by two paths.
        let sockets = tempfile::tempdir().unwrap();
        std::fs::write(sockets.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("a", sockets.path().join("b")).unwrap();
        let address = |name: &str| format!("unix://{}", sockets.path().join(name).display());
        assert!(is_same(&address("a"), &address("b")) && !is_same(&address("a"), &address("c")));
    }

    #[test]
    fn another_engine_is_refused_with_what_selects_it() {
        let client = client();
        let error = refuse(client.path(), Some("far")).unwrap_err().to_string();
        assert!(error.contains("tcp://far:2375") && error.contains("DOCKER_CONTEXT"), "{error}");
        let file = client.path().join("config.json");
        select(client.path(), r#"{"currentContext":"far"}"#);
        let error = refuse(client.path(), None).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains(SOCKET), "{error}");
        // The variable beats the file.
        refuse(client.path(), Some("near")).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        let client = client();
        let named = |error: ContextError, path: &Path| {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        };
        let meta = client.path().join("contexts/meta").join(hexadecimal("gone")).join("meta.json");
        named(refuse(client.path(), Some("gone")).unwrap_err(), &meta);
        std::fs::create_dir_all(&meta).unwrap();
        named(refuse(client.path(), Some("gone")).unwrap_err(), &meta);
        context(client.path(), "other", r#"{"kubernetes":{}}"#);
        let error = refuse(client.path(), Some("other")).unwrap_err();
        assert!(matches!(&error, ContextError::NoEndpoint { name, .. } if name == "other"), "{error}");
        let config = client.path().join("config.json");
        for text in ["{", r#"{"currentContext":5}"#, "[]"] {
            select(client.path(), text);
            named(refuse(client.path(), None).unwrap_err(), &config);
        }
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        named(refuse(client.path(), None).unwrap_err(), &config);
    }

    #[test]
    fn the_clients_directory_is_in_the_home_where_no_other_is_named() {
        let home = tempfile::tempdir().unwrap();
        let client = home.path().join(".docker");
        context(&client, "far", r#"{"docker":{"Host":"tcp://far:2375"}}"#);
        select(&client, r#"{"currentContext":"far"}"#);
        refuse_other_engine(SOCKET, |_| None, Some(home.path())).unwrap_err();
        let elsewhere = |name: &str| (name == "DOCKER_CONFIG").then(|| "/nowhere".to_owned());
        refuse_other_engine(SOCKET, elsewhere, Some(home.path())).unwrap();
    }

    #[test]
    fn an_endpoint_without_an_address_is_the_default_one() {
        let client = client();
        context(client.path(), "empty", r#"{"docker":{}}"#);
        let variable = |name: &str| match name {
            "DOCKER_CONFIG" => Some(client.path().to_str().unwrap().to_owned()),
            "DOCKER_CONTEXT" => Some("empty".to_owned()),
            _ => None,
        };
        refuse_other_engine(DEFAULT_ADDRESS, variable, None).unwrap();
        refuse_other_engine(SOCKET, variable, None).unwrap_err();
    }
}
