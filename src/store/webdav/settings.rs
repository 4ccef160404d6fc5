//! What is needed to reach a folder of a WebDAV server: from the URL and the environment.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

use crate::store::address::{holds_credentials, is_this_machine};
use crate::store::surroundings::{Surroundings, Variables};

/// A folder and how to reach it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The folder, with a slash at its end.
    pub(super) root: Url,
    /// The user and the password.
    pub(super) login: Option<(String, String)>,
    /// A file of certificates to trust besides the system's.
    pub(super) ca_bundle: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

impl Settings {
    /// Returns the settings for `webdavs://HOST[:PORT]/FOLDER`.
    ///
    /// # Errors
    /// A sentence's fragment that says what is wrong.
    pub(super) fn of(url: &str, around: &dyn Surroundings) -> Result<Self, String> {
        if holds_credentials(url) {
            return Err(
                "a URL holds no credentials: they come from WEBDAV_USERNAME and WEBDAV_PASSWORD".to_owned()
            );
        }
        let (scheme, rest) = match (url.strip_prefix("webdavs://"), url.strip_prefix("webdav://")) {
            (Some(rest), _) => ("https", rest),
            (_, Some(rest)) => ("http", rest),
            _ => return Err("it does not begin with webdavs://".to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err("nothing may stand behind its folder, as with a question mark".to_owned());
        }
        if rest.is_empty() || rest.starts_with('/') {
            return Err("it names no server, as webdavs://nas.example/backups does".to_owned());
        }
        let mut root = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| {
            format!("it names no server and folder, as webdavs://nas.example/backups does: {error}")
        })?;
        let host = root.host_str().unwrap_or_default().to_owned();
        if scheme == "http" && !is_this_machine(&host) {
            return Err(format!(
                "webdav:// would send the password to {host} for everybody to read: webdavs:// does not"
            ));
        }
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        let variables = Variables { around, prefix: "WEBDAV_" };
        let login = match (variables.secret("WEBDAV_USERNAME")?, variables.secret("WEBDAV_PASSWORD")?) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => return Err("WEBDAV_USERNAME is set, and WEBDAV_PASSWORD is not".to_owned()),
            (None, Some(_)) => return Err("WEBDAV_PASSWORD is set, and WEBDAV_USERNAME is not".to_owned()),
        };
        let ca_bundle = variables.plain("WEBDAV_CA_BUNDLE").map(PathBuf::from);
        Ok(Self { root, login, ca_bundle })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    struct Around(&'static [(&'static str, &'static str)]);

    impl Surroundings for Around {
        fn variable(&self, name: &str) -> Option<String> {
            assert!(name.starts_with("WEBDAV_"), "{name} is another program's");
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/run/secrets/webdav") => Ok("hunter2\n".to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[test]
    fn a_url_names_server_and_folder_and_the_environment_who_we_are() {
        let around =
            Around(&[("WEBDAV_USERNAME", "volsnap"), ("WEBDAV_PASSWORD_FILE", "/run/secrets/webdav")]);
        let settings = Settings::of("webdavs://nas.example:5006/back%20ups/db", &around).unwrap();
        assert_eq!(settings.root.as_str(), "https://nas.example:5006/back%20ups/db/");
        assert_eq!(settings.login, Some(("volsnap".to_owned(), "hunter2".to_owned())));
        assert!(!format!("{settings:?}").contains("hunter2"));
        let nobody = Settings::of("webdav://[::1]:8080", &Around(&[])).unwrap();
        assert_eq!((nobody.root.as_str(), nobody.login), ("http://[::1]:8080/", None));
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_name_without_repeating_a_password() {
        let nobody = Around(&[]);
        for (url, around, why) in [
            ("webdavs://me:hunter2@nas/x", &nobody, "no credentials"),
            ("webdav://nas.example/x", &nobody, "for everybody to read"),
            ("webdav://127.0.0.1.example/x", &nobody, "for everybody to read"),
            ("webdavs:///x", &nobody, "no server"),
            ("webdavs://nas/x?a=b", &nobody, "question mark"),
            ("webdavs://nas/x", &Around(&[("WEBDAV_USERNAME", "a")]), "WEBDAV_PASSWORD is not"),
            ("webdavs://nas/x", &Around(&[("WEBDAV_PASSWORD", "hunter2")]), "WEBDAV_USERNAME is not"),
            ("webdavs://nas/x", &Around(&[("WEBDAV_PASSWORD_FILE", "/none")]), "cannot be read"),
        ] {
            let said = Settings::of(url, around).unwrap_err();
            assert!(said.contains(why) && !said.contains("hunter2"), "{url}: {said}");
        }
    }
}
