//! What is needed to reach a folder by SFTP: from the URL; the rest is the user's configuration of `ssh`.

use std::path::PathBuf;

use crate::store::address::holds_credentials;
use crate::store::surroundings::Surroundings;

/// A file of settings for `ssh` instead of the user's own.
const CONFIG: &str = "VOLSNAP_SSH_CONFIG";

/// A folder and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The folder at the server, without a slash at its end; relative to the user's home if it begins with none.
    pub(super) root: String,
    /// The settings of `ssh` that count instead of the user's own.
    pub(super) config: Option<PathBuf>,
}

impl Settings {
    /// Returns the settings for `sftp://USER@HOST[:PORT]/FOLDER`, or `…/~/FOLDER` for one in the user's home. The folder
    /// stands there as it is, without escapes.
    ///
    /// # Errors
    /// A sentence's fragment that says what is wrong.
    pub(super) fn of(url: &str, around: &dyn Surroundings) -> Result<Self, String> {
        let rest = url.strip_prefix("sftp://").ok_or("it does not begin with sftp://")?;
        if holds_credentials(url) {
            return Err("a URL holds no password: ssh comes in by a key".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("nothing may stand behind its folder, as with a question mark".to_owned());
        }
        let (server, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, server) =
            server.rsplit_once('@').map_or((None, server), |(user, server)| (Some(user), server));
        let (host, port) = match server.strip_prefix('[').and_then(|server| server.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(str::parse).transpose().map_err(|_| "its port is no number".to_owned())?;
        // What begins with a dash would be an option to ssh, and what has a blank more than one word.
        let is_plain =
            |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains(char::is_whitespace);
        if !is_plain(host) || user.is_some_and(|user| !is_plain(user)) {
            return Err("it names no server, as sftp://USER@HOST/FOLDER does".to_owned());
        }
        let folder = folder.trim_end_matches('/');
        if folder.strip_prefix('~').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return Err("its folder is in another user's home: only your own stands as ~/ there".to_owned());
        }
        let root = match folder.strip_prefix('~') {
            Some(home) => home.trim_start_matches('/').to_owned(),
            None => format!("/{folder}"),
        };
        let leads_elsewhere = |part: &str| matches!(part, "." | "..") || part.contains('\0');
        if root.trim_matches('/').is_empty() || root.split('/').any(leads_elsewhere) {
            return Err("it names no folder, as sftp://USER@HOST/srv/backups does".to_owned());
        }
        let config = around.variable(CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { user: user.map(str::to_owned), host: host.to_owned(), port, root, config })
    }

    /// Returns the arguments of `ssh` that name the server and what is to run there.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        arguments.extend(["-s", "--", &self.host, "sftp"].map(str::to_owned));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    struct Nothing;

    impl Surroundings for Nothing {
        fn variable(&self, name: &str) -> Option<String> {
            assert_eq!(name, CONFIG, "another program's");
            None
        }

        fn read(&self, _path: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn a_url_names_user_server_port_and_folder() {
        for (url, arguments, root) in [
            ("sftp://me@nas/srv/back ups/", "-l me -s -- nas sftp", "/srv/back ups"),
            ("sftp://nas:2222/srv", "-p 2222 -s -- nas sftp", "/srv"),
            ("sftp://u12@[2001:db8::1]:23/~/volsnap", "-l u12 -p 23 -s -- 2001:db8::1 sftp", "volsnap"),
        ] {
            let settings = Settings::of(url, &Nothing).unwrap();
            assert_eq!((settings.arguments().join(" ").as_str(), settings.root.as_str()), (arguments, root));
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for (url, why) in [
            ("sftp://me:hunter2@nas/x", "no password"),
            ("sftp:///srv", "no server"),
            ("sftp://-oProxyCommand=x/srv", "no server"),
            ("sftp://-oProxyCommand=x@nas/srv", "no server"),
            ("sftp://nas", "no folder"),
            ("sftp://nas/~", "no folder"),
            ("sftp://nas/~backup/x", "another user's home"),
            ("sftp://nas/a/../b", "no folder"),
            ("sftp://nas:x/a", "no number"),
            ("sftp://nas/a?b=c", "question mark"),
        ] {
            let said = Settings::of(url, &Nothing).unwrap_err();
            assert!(said.contains(why) && !said.contains("hunter2"), "{url}: {said}");
        }
    }
}
