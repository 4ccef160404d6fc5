//! The one engine that a command talks to: the one that the user's own `docker` would.
//!
//! An address that is given comes first, then `DOCKER_HOST`, then `DOCKER_CONTEXT`, then `currentContext` of the client's
//! `config.json`, then a socket that exists. It is chosen once, and everybody gets the same: Compose, the guard, and
//! whoever finishes a journal. An endpoint whose transport is not spoken here is refused, with the command that makes a
//! socket of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::model::hint::Hint;
use crate::model::quote::shell_quote;

/// The engine's address if nobody names one, as in docker.
pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";
/// The context that means no context.
const DEFAULT: &str = "default";
/// Where a forwarded socket is put.
const FORWARDED: &str = "/tmp/volsnap-docker.sock";

/// An engine's address, and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The address.
    pub address: String,
    /// What chose it.
    pub by: ChosenBy,
}

/// What chose an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChosenBy {
    /// The caller.
    Given,
    /// `DOCKER_HOST`.
    Variable,
    /// A context of the docker client.
    Context {
        /// Its name.
        name: String,
        /// What selects it.
        by: Selection,
    },
    /// Nothing: it is a socket that was found.
    Socket,
}

impl std::fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given => f.write_str("as given"),
            Self::Variable => f.write_str("by DOCKER_HOST"),
            Self::Context { name, by } => write!(f, "by the context {name}, selected by {by}"),
            Self::Socket => f.write_str("by default"),
        }
    }
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

/// Why there is no engine to talk to.
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
    /// The engine is reached by ssh.
    #[error("the engine at {address} ({by}) is reached by ssh, which is not spoken here")]
    Ssh {
        /// Its address.
        address: String,
        /// What chose it.
        by: ChosenBy,
    },
    /// The engine is reached by TLS.
    #[error("the engine at {address} ({by}) is reached by TLS, which is not spoken here")]
    Tls {
        /// Its address.
        address: String,
        /// What chose it.
        by: ChosenBy,
    },
    /// The address is of no kind that is known.
    #[error("the address {address:?} ({by}) is none of unix:///path, tcp://host:port, http://host:port")]
    Unknown {
        /// The address.
        address: String,
        /// What chose it.
        by: ChosenBy,
    },
}

impl ContextError {
    /// Returns the command that makes a socket here of an engine that is not reached otherwise, and the address of that
    /// socket.
    #[must_use]
    pub fn forwarding(&self) -> Option<(Hint, String)> {
        let (address, is_ssh) = match self {
            Self::Ssh { address, .. } => (address, true),
            Self::Tls { address, .. } => (address, false),
            _ => return None,
        };
        let rest = address.split_once("://").map_or(address.as_str(), |(_, rest)| rest);
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_port(authority);
        let socket = if path.len() > 1 { path } else { "/var/run/docker.sock" };
        // The port of an address that is no ssh address is not that of ssh.
        let port = port.filter(|_| is_ssh).map_or_else(String::new, |port| format!("-p {port} "));
        let command = format!(
            "ssh -fnNT -o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes {port}-L {} {}",
            shell_quote(&format!("{FORWARDED}:{socket}")),
            shell_quote(host)
        );
        Some((Hint::shell(command), format!("unix://{FORWARDED}")))
    }
}

/// Splits an authority into what ssh takes as the destination, and the port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port))
        }
        _ => (authority, None),
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
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

/// Chooses the engine. `given` is the address that the caller names, `variable` is the environment, `home` the user's
/// directory; `exists` tells whether there is a socket.
///
/// # Errors
/// When a file of the docker client cannot be read, or the address is of a kind that is not spoken here.
pub fn choose(
    given: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
    home: Option<&Path>,
    exists: impl Fn(&Path) -> bool,
) -> Result<Chosen, ContextError> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let by_tls = set("DOCKER_TLS_VERIFY").is_some() || set("DOCKER_TLS").is_some();
    if let Some(address) = given {
        return spoken(address.to_owned(), ChosenBy::Given, by_tls);
    }
    if let Some(address) = set("DOCKER_HOST") {
        return spoken(address, ChosenBy::Variable, by_tls);
    }
    let config = set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home?.join(".docker")));
    let config = config.unwrap_or_else(|| PathBuf::from(".docker"));
    let (name, by) = match set("DOCKER_CONTEXT") {
        Some(name) => (Some(name), Selection::Variable),
        None => {
            let file = config.join("config.json");
            (current(&file)?, Selection::File(file))
        }
    };
    if let Some(name) = name.filter(|name| !name.is_empty() && name != DEFAULT) {
        return of_context(&config, name, by);
    }
    let rootless = set("XDG_RUNTIME_DIR").map(|directory| format!("unix://{directory}/docker.sock"));
    let found = [Some(DEFAULT_ADDRESS.to_owned()), rootless]
        .into_iter()
        .flatten()
        .find(|address| socket(address).is_some_and(&exists));
    Ok(Chosen { address: found.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()), by: ChosenBy::Socket })
}

/// Returns the engine of a context.
fn of_context(config: &Path, name: String, by: Selection) -> Result<Chosen, ContextError> {
    let directory = hexadecimal(&name);
    let path = config.join("contexts/meta").join(&directory).join("meta.json");
    let text = read(&path)?;
    let meta: Meta = parse(&path, &text)?;
    let Some(endpoint) = meta.endpoints.get("docker") else {
        return Err(ContextError::NoEndpoint { path, name, by });
    };
    let address = if endpoint.host.is_empty() { DEFAULT_ADDRESS } else { &endpoint.host };
    let certificates = config.join("contexts/tls").join(&directory).join("docker");
    let has_certificates = certificates.read_dir().is_ok_and(|mut files| files.next().is_some());
    let by_tls = endpoint.skip_tls_verify || has_certificates;
    spoken(address.to_owned(), ChosenBy::Context { name, by }, by_tls)
}

/// Refuses an address that is not spoken here.
fn spoken(address: String, by: ChosenBy, by_tls: bool) -> Result<Chosen, ContextError> {
    match address.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Chosen { address, by }),
        Some(("https", _)) => Err(ContextError::Tls { address, by }),
        Some(("tcp" | "http", _)) if by_tls => Err(ContextError::Tls { address, by }),
        Some(("tcp" | "http", authority)) if !authority.trim_end_matches('/').is_empty() => {
            let address = address.trim_end_matches('/').to_owned();
            Ok(Chosen { address, by })
        }
        Some(("ssh", authority)) if !authority.is_empty() => Err(ContextError::Ssh { address, by }),
        _ => Err(ContextError::Unknown { address, by }),
    }
}

/// Returns whether an address is one that is chosen where nobody names one. Older versions did not write it into their
/// journals.
#[must_use]
pub fn is_default(address: &str) -> bool {
    address == DEFAULT_ADDRESS
        || (address.starts_with("unix:///run/user/") && address.ends_with("/docker.sock"))
}

fn socket(address: &str) -> Option<&Path> {
    address.strip_prefix("unix://").map(Path::new)
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SOCKET: &str = "unix:///nowhere/docker.sock";

    /// A directory of the docker client, with some contexts.
    fn client() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        context(directory.path(), "far", r#"{"docker":{"Host":"tcp://far:2375","SkipTLSVerify":false}}"#);
        context(directory.path(), "near", &format!(r#"{{"docker":{{"Host":"{SOCKET}"}}}}"#));
        context(directory.path(), "away", r#"{"docker":{"Host":"ssh://me@far:2222"}}"#);
        context(directory.path(), "safe", r#"{"docker":{"Host":"tcp://far:2376"}}"#);
        let certificates = directory.path().join("contexts/tls").join(hexadecimal("safe")).join("docker");
        std::fs::create_dir_all(&certificates).unwrap();
        std::fs::write(certificates.join("ca.pem"), "").unwrap();
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

    /// Chooses with these variables, where only the usual socket exists.
    fn choose_with(
        directory: &Path,
        given: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Chosen, ContextError> {
        let variable = |name: &str| match name {
            "DOCKER_CONFIG" => Some(directory.to_str().unwrap().to_owned()),
            _ => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        };
        choose(given, variable, None, |path| path == Path::new("/var/run/docker.sock"))
    }

    fn by_context(directory: &Path, name: &str) -> Result<Chosen, ContextError> {
        choose_with(directory, None, &[("DOCKER_CONTEXT", name)])
    }

    #[test]
    fn the_directory_of_a_context_is_the_digest_of_its_name() {
        let digest = "37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f";
        assert_eq!(hexadecimal("default"), digest);
    }

    #[test]
    fn what_is_given_beats_docker_host_which_beats_the_contexts_which_beat_the_socket() {
        let client = client();
        let at = client.path();
        select(at, r#"{"currentContext":"near"}"#);
        let all = [("DOCKER_HOST", "tcp://db:2375/"), ("DOCKER_CONTEXT", "far")];
        let address = |given, variables: &[_]| choose_with(at, given, variables).unwrap().address;
        assert_eq!(address(Some("unix:///a.sock"), &all), "unix:///a.sock");
        assert_eq!(address(None, &all), "tcp://db:2375");
        assert_eq!(address(None, &all[1..]), "tcp://far:2375");
        assert_eq!(address(None, &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "")]), SOCKET);
        assert_eq!(address(None, &[("DOCKER_CONTEXT", "default")]), DEFAULT_ADDRESS);
    }

    #[test]
    fn no_context_and_the_default_one_mean_a_socket_that_exists() {
        let client = client();
        let none = || choose_with(client.path(), None, &[]).unwrap();
        let expected = Chosen { address: DEFAULT_ADDRESS.to_owned(), by: ChosenBy::Socket };
        assert_eq!(none(), expected);
        for text in ["", "{}", r#"{"auths":{},"currentContext":""}"#, r#"{"currentContext":"default"}"#] {
            select(client.path(), text);
            assert_eq!(none(), expected);
        }
        let variable = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".to_owned());
        let rootless = |exists: &dyn Fn(&Path) -> bool| choose(None, variable, None, exists).unwrap().address;
        assert_eq!(rootless(&|path| path.starts_with("/run")), "unix:///run/user/7/docker.sock");
        assert_eq!(rootless(&|_| true), DEFAULT_ADDRESS);
        assert_eq!(rootless(&|_| false), DEFAULT_ADDRESS);
        assert!(is_default(DEFAULT_ADDRESS) && is_default("unix:///run/user/7/docker.sock"));
        assert!(!is_default(SOCKET) && !is_default("tcp://far:2375"));
    }

    #[test]
    fn a_context_is_followed_and_named() {
        let client = client();
        let chosen = by_context(client.path(), "far").unwrap();
        assert_eq!(chosen.address, "tcp://far:2375");
        assert_eq!(chosen.by.to_string(), "by the context far, selected by DOCKER_CONTEXT");
        let file = client.path().join("config.json");
        select(client.path(), r#"{"currentContext":"near"}"#);
        let chosen = choose_with(client.path(), None, &[]).unwrap();
        assert_eq!(chosen.address, SOCKET);
        assert_eq!(chosen.by, ChosenBy::Context { name: "near".to_owned(), by: Selection::File(file) });
        // The variables for TLS are about DOCKER_HOST.
        let variables = [("DOCKER_CONTEXT", "far"), ("DOCKER_TLS_VERIFY", "1")];
        assert_eq!(choose_with(client.path(), None, &variables).unwrap().address, "tcp://far:2375");
    }

    #[test]
    fn an_endpoint_that_is_not_spoken_is_refused_with_its_context_and_a_command_that_forwards_it() {
        let client = client();
        let error = by_context(client.path(), "away").unwrap_err();
        assert!(matches!(error, ContextError::Ssh { .. }), "{error}");
        assert!(error.to_string().contains("the context away"), "{error}");
        let (command, address) = error.forwarding().unwrap();
        assert_eq!(
            command.to_string(),
            "ssh -fnNT -o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes -p 2222 \
             -L /tmp/volsnap-docker.sock:/var/run/docker.sock me@far"
        );
        assert_eq!(address, "unix:///tmp/volsnap-docker.sock");
        let error = by_context(client.path(), "safe").unwrap_err();
        assert!(matches!(error, ContextError::Tls { .. }) && error.to_string().contains("safe"), "{error}");
        let (command, _) = error.forwarding().unwrap();
        assert!(command.to_string().ends_with("docker.sock far"), "the port is not that of ssh: {command}");
        assert!(by_context(client.path(), "gone").unwrap_err().forwarding().is_none());
    }

    #[rstest]
    #[case("ssh://db", "-L /tmp/volsnap-docker.sock:/var/run/docker.sock db")]
    #[case(
        "ssh://me@db/run/user/1000/docker.sock",
        "-L /tmp/volsnap-docker.sock:/run/user/1000/docker.sock me@db"
    )]
    #[case("ssh://db:22/", "-p 22 -L /tmp/volsnap-docker.sock:/var/run/docker.sock db")]
    fn an_ssh_address_becomes_a_command(#[case] address: &str, #[case] ends: &str) {
        let error = choose_with(Path::new("/nowhere"), Some(address), &[]).unwrap_err();
        let (command, _) = error.forwarding().unwrap();
        assert!(command.to_string().ends_with(ends), "{command}");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for host in ["fd://", "unix://relative", "tcp://", "db:2375", "", "npipe:////./pipe/x", "ssh://"] {
            let error = choose_with(Path::new("/nowhere"), Some(host), &[]).unwrap_err();
            assert!(matches!(error, ContextError::Unknown { .. }), "{host}: {error}");
        }
        for variable in ["DOCKER_TLS_VERIFY", "DOCKER_TLS"] {
            let error = choose_with(Path::new("/nowhere"), Some("tcp://db:2376"), &[(variable, "1")]);
            assert!(matches!(error, Err(ContextError::Tls { .. })), "{error:?}");
        }
        let error = choose_with(Path::new("/nowhere"), Some("https://db:2376"), &[]);
        assert!(matches!(error, Err(ContextError::Tls { .. })), "{error:?}");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        let client = client();
        let named = |error: ContextError, path: &Path| {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        };
        let meta = client.path().join("contexts/meta").join(hexadecimal("gone")).join("meta.json");
        named(by_context(client.path(), "gone").unwrap_err(), &meta);
        std::fs::create_dir_all(&meta).unwrap();
        named(by_context(client.path(), "gone").unwrap_err(), &meta);
        context(client.path(), "other", r#"{"kubernetes":{}}"#);
        let error = by_context(client.path(), "other").unwrap_err();
        assert!(matches!(&error, ContextError::NoEndpoint { name, .. } if name == "other"), "{error}");
        let config = client.path().join("config.json");
        for text in ["{", r#"{"currentContext":5}"#, "[]"] {
            select(client.path(), text);
            named(choose_with(client.path(), None, &[]).unwrap_err(), &config);
        }
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        named(choose_with(client.path(), None, &[]).unwrap_err(), &config);
    }

    #[test]
    fn the_clients_directory_is_in_the_home_where_no_other_is_named() {
        let home = tempfile::tempdir().unwrap();
        let client = home.path().join(".docker");
        context(&client, "far", r#"{"docker":{"Host":"tcp://far:2375"}}"#);
        select(&client, r#"{"currentContext":"far"}"#);
        let chosen = choose(None, |_| None, Some(home.path()), |_| true).unwrap();
        assert_eq!(chosen.address, "tcp://far:2375");
        let elsewhere = |name: &str| (name == "DOCKER_CONFIG").then(|| "/nowhere".to_owned());
        let chosen = choose(None, elsewhere, Some(home.path()), |_| true).unwrap();
        assert_eq!(chosen.by, ChosenBy::Socket);
    }

    #[test]
    fn an_endpoint_without_an_address_is_the_default_one() {
        let client = client();
        context(client.path(), "empty", r#"{"docker":{}}"#);
        assert_eq!(by_context(client.path(), "empty").unwrap().address, DEFAULT_ADDRESS);
    }
}
