//! Where an engine listens: the given address, otherwise what the environment says, otherwise a socket that exists.

use std::path::Path;

use bollard::errors::Error as ClientError;

use super::failure::other;
use crate::engine::Result;
use crate::engine::raw::RawApi;
use crate::model::container::ApiVersion;

/// The client's own timeout: longer than any stop, so that only our limits count.
const CLIENT_TIMEOUT_SECS: u64 = 7 * 24 * 3600;
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(String),
    Tcp(String),
}

impl Address {
    pub(super) fn choose(
        host: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(host) = host.map(ToOwned::to_owned).or_else(|| set("DOCKER_HOST")) {
            return Self::parse(&host, set("DOCKER_TLS_VERIFY").is_some());
        }
        let rootless = set("XDG_RUNTIME_DIR").map(|directory| format!("{directory}/docker.sock"));
        let socket = [Some(DEFAULT_SOCKET.to_owned()), rootless]
            .into_iter()
            .flatten()
            .find(|socket| exists(Path::new(socket)))
            .unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        Ok(Self::Unix(socket))
    }

    fn parse(host: &str, tls: bool) -> Result<Self> {
        let doing = format!("connect to the engine at {host}");
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("tcp" | "http", _)) if tls => Err(other(
                doing,
                "DOCKER_TLS_VERIFY is set, and TLS is not spoken here; forward its socket and give unix:///path",
            )),
            Some(("tcp" | "http", authority)) if !authority.is_empty() => {
                Ok(Self::Tcp(authority.trim_end_matches('/').to_owned()))
            }
            Some(("ssh", authority)) => Err(other(
                doing,
                format!(
                    "ssh is not spoken here; forward the socket: \
                     ssh -nNT -L /tmp/docker.sock:{DEFAULT_SOCKET} {authority}, then give unix:///tmp/docker.sock"
                ),
            )),
            _ => Err(other(doing, "the address is none of unix:///path, tcp://host:port, http://host:port")),
        }
    }

    pub(super) fn raw(&self, version: ApiVersion) -> RawApi {
        match self {
            Self::Unix(path) => {
                RawApi { socket: Some(path.clone()), authority: "localhost".to_owned(), version }
            }
            Self::Tcp(authority) => RawApi { socket: None, authority: authority.clone(), version },
        }
    }

    pub(super) fn client(&self) -> Result<bollard::Docker, ClientError> {
        let version = bollard::API_DEFAULT_VERSION;
        match self {
            Self::Unix(path) => bollard::Docker::connect_with_unix(path, CLIENT_TIMEOUT_SECS, version),
            Self::Tcp(authority) => {
                bollard::Docker::connect_with_http(authority, CLIENT_TIMEOUT_SECS, version)
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DockerErrorKind;

    fn choose(host: Option<&str>, variables: &[(&str, &str)], sockets: &[&str]) -> Result<String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Address::choose(host, variable, |path| sockets.iter().any(|socket| path == Path::new(socket)))
            .map(|address| address.to_string())
    }

    #[test]
    fn the_address_is_the_one_given_then_the_variable_then_a_socket_that_exists() {
        let variables = [("DOCKER_HOST", "tcp://db:2375/"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let rootless = "/run/user/7/docker.sock";
        assert_eq!(choose(Some("unix:///a.sock"), &variables, &[]).unwrap(), "unix:///a.sock");
        assert_eq!(choose(None, &variables, &[DEFAULT_SOCKET]).unwrap(), "tcp://db:2375");
        let variables = [("DOCKER_HOST", ""), variables[1]];
        assert_eq!(
            choose(None, &variables, &[DEFAULT_SOCKET, rootless]).unwrap(),
            "unix:///var/run/docker.sock"
        );
        assert_eq!(choose(None, &variables, &[rootless]).unwrap(), "unix:///run/user/7/docker.sock");
        assert_eq!(choose(None, &[], &[]).unwrap(), "unix:///var/run/docker.sock");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for host in ["ssh://db", "fd://", "unix://relative", "tcp://", "db:2375", "", "npipe:////./pipe/x"] {
            assert_eq!(choose(Some(host), &[], &[]).unwrap_err().kind, DockerErrorKind::Other, "{host}");
        }
        assert!(choose(Some("tcp://db:2376"), &[("DOCKER_TLS_VERIFY", "1")], &[]).is_err());
    }
}
