//! What is needed to reach a bucket: from the URL, the environment, and the profiles of the AWS tools.
//!
//! Of the environment only names that begin with `AWS_` are read, and `HOME` to find the profiles: another program's
//! token never leaves the machine. A secret may come in a file, named by the variable with `_FILE` behind. A URL holds no
//! secret: one that does is refused, and the refusal does not repeat it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::url::{Parts, check_endpoint};
use crate::store::surroundings::{Surroundings, Variables};

/// A bucket and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The bucket's name.
    pub(super) bucket: String,
    /// The folder of the repository in it, without slashes around; empty for the bucket itself.
    pub(super) prefix: String,
    /// The server, if it is not Amazon's.
    pub(super) endpoint: Option<String>,
    /// The region.
    pub(super) region: String,
    /// A file of certificates to trust besides the system's.
    pub(super) ca_bundle: Option<PathBuf>,
    /// Who we are there.
    pub(super) credentials: Credentials,
}

/// Who we are for the server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A key with its secret.
    Key {
        /// The public part.
        id: String,
        /// The secret.
        secret: String,
        /// The token of a session.
        token: Option<String>,
    },
    /// A role, taken with a token in a file.
    WebIdentity {
        /// The token's file.
        token_file: String,
        /// The role.
        role: String,
        /// The session's name.
        session: Option<String>,
    },
    /// The role of a container, asked for at an address that its platform gives.
    Container(ContainerCredentials),
    /// The role of the virtual machine, asked for at the address that all of them have.
    Machine,
    /// Nobody: there is nothing to ask.
    Nobody,
}

/// Where a container asks for its role.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum ContainerCredentials {
    /// A path at the platform's own address.
    Relative(String),
    /// An address, and the file of the token for it.
    Full {
        /// The address.
        uri: String,
        /// The token's file.
        token_file: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::WebIdentity { .. } => "WebIdentity",
            Self::Container(_) => "Container",
            Self::Machine => "Machine",
            Self::Nobody => "Nobody",
        })
    }
}

/// The endpoint of Amazon, in words of its own.
const AMAZON: &str = "amazonaws.com";

impl Settings {
    /// Returns the settings for `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`.
    ///
    /// # Errors
    /// A sentence's fragment that says what is wrong with the URL, or where credentials were looked for.
    pub(super) fn of(url: &str, around: &dyn Surroundings) -> Result<Self, String> {
        let Parts { place: bucket, prefix, endpoint, region } = Parts::parse(url, "s3://")?;
        let variables = Variables { around, prefix: "AWS_" };
        let profile = Profile::chosen(&variables)?;
        let endpoint = endpoint
            .or_else(|| variables.plain("AWS_ENDPOINT_URL_S3"))
            .or_else(|| variables.plain("AWS_ENDPOINT_URL"))
            .or_else(|| profile.get("endpoint_url"));
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint)?;
        }
        let is_amazon = endpoint.as_ref().is_none_or(|endpoint| endpoint.contains(AMAZON));
        let region = region
            .or_else(|| variables.plain("AWS_REGION"))
            .or_else(|| variables.plain("AWS_DEFAULT_REGION"))
            .or_else(|| profile.get("region"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let credentials = Credentials::find(&variables, &profile, is_amazon)?;
        let ca_bundle =
            variables.plain("AWS_CA_BUNDLE").or_else(|| profile.get("ca_bundle")).map(PathBuf::from);
        Ok(Self { bucket, prefix, endpoint, region, ca_bundle, credentials })
    }

    /// Returns the URL that means this bucket wherever it is read, whatever the environment says there. It has no
    /// secrets.
    #[must_use]
    pub(super) fn url(&self) -> String {
        let mut url = format!("s3://{}", self.bucket);
        if !self.prefix.is_empty() {
            url.push('/');
            url.push_str(&self.prefix);
        }
        match &self.endpoint {
            Some(endpoint) => format!("{url}?endpoint={endpoint}&region={}", self.region),
            None => format!("{url}?region={}", self.region),
        }
    }

    /// Returns the address of the bucket itself.
    #[must_use]
    pub(super) fn bucket_address(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket),
            None => format!("https://s3.{}.{AMAZON}/{}", self.region, self.bucket),
        }
    }
}

impl Credentials {
    /// Returns the first that there are, in the order of the AWS tools.
    fn find(variables: &Variables<'_>, profile: &Profile, is_amazon: bool) -> Result<Self, String> {
        let id = variables.secret("AWS_ACCESS_KEY_ID")?;
        let secret = variables.secret("AWS_SECRET_ACCESS_KEY")?;
        let token = variables.secret("AWS_SESSION_TOKEN")?;
        match (id, secret) {
            (Some(id), Some(secret)) => return Ok(Self::Key { id, secret, token }),
            (Some(_), None) => {
                return Err("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not".to_owned());
            }
            (None, Some(_)) => {
                return Err("AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not".to_owned());
            }
            (None, None) => {}
        }
        let web = (variables.plain("AWS_WEB_IDENTITY_TOKEN_FILE"), variables.plain("AWS_ROLE_ARN"));
        if let (Some(token_file), Some(role)) = web {
            let session = variables.plain("AWS_ROLE_SESSION_NAME");
            return Ok(Self::WebIdentity { token_file, role, session });
        }
        if let Some(key) = profile.key()? {
            return Ok(key);
        }
        if let Some(path) = variables.plain("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return Ok(Self::Container(ContainerCredentials::Relative(path)));
        }
        let full = (
            variables.plain("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            variables.plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        );
        if let (Some(uri), Some(token_file)) = full {
            return Ok(Self::Container(ContainerCredentials::Full { uri, token_file }));
        }
        // Only Amazon's own machines have a role, and only Amazon knows it.
        let asks =
            variables.plain("AWS_EC2_METADATA_DISABLED").is_none_or(|set| !set.eq_ignore_ascii_case("true"));
        Ok(if asks && is_amazon { Self::Machine } else { Self::Nobody })
    }
}

/// A profile of the AWS tools: what both of its files say of it.
struct Profile {
    name: String,
    settings: BTreeMap<String, String>,
}

impl Profile {
    /// Returns the profile that `AWS_PROFILE` names, or the default one, which need not exist.
    fn chosen(variables: &Variables<'_>) -> Result<Self, String> {
        let named = variables.plain("AWS_PROFILE").or_else(|| variables.plain("AWS_DEFAULT_PROFILE"));
        let home = variables.plain("HOME").map(PathBuf::from);
        let file = |variable: &str, name: &str| {
            variables
                .plain(variable)
                .map(PathBuf::from)
                .or_else(|| Some(home.as_ref()?.join(".aws").join(name)))
        };
        let is_named = named.is_some();
        let name = named.unwrap_or_else(|| "default".to_owned());
        let mut settings = BTreeMap::new();
        // The keys in the first file are believed before those in the second.
        for (file, section) in [
            (
                file("AWS_CONFIG_FILE", "config"),
                if name == "default" { name.clone() } else { format!("profile {name}") },
            ),
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), name.clone()),
        ] {
            let Some(file) = file else { continue };
            match variables.around.read(&file) {
                Ok(text) => settings.extend(section_of(&text, &section)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // Whoever names no profile may have his keys elsewhere.
                Err(_) if !is_named => {}
                Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
            }
        }
        if is_named && settings.is_empty() {
            return Err(format!("there is no profile {name:?} in ~/.aws, which AWS_PROFILE names"));
        }
        Ok(Self { name, settings })
    }

    fn get(&self, name: &str) -> Option<String> {
        self.settings.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Returns the profile's own key. One that would have to be asked for elsewhere is refused: to take another
    /// identity in its place would be worse.
    fn key(&self) -> Result<Option<Credentials>, String> {
        if let (Some(id), Some(secret)) = (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            return Ok(Some(Credentials::Key { id, secret, token: self.get("aws_session_token") }));
        }
        let elsewhere = ["role_arn", "sso_session", "sso_start_url", "credential_process", "login_session"];
        match elsewhere.iter().find(|name| self.get(name).is_some()) {
            Some(name) => Err(format!(
                "the profile {:?} gets its key by {name}, which volsnap does not read; \
                 eval \"$(aws configure export-credentials --profile {} --format env)\" puts the key where it looks",
                self.name, self.name
            )),
            None => Ok(None),
        }
    }
}

/// Returns what a section of a profiles' file says. What is indented belongs to the line above it.
fn section_of(text: &str, wanted: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            inside = name.split_whitespace().eq(wanted.split_whitespace());
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((name, value)) = trimmed.split_once('=')
        {
            let value = value.split(" #").next().unwrap_or_default();
            found.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    /// Variables and files that a test makes up; whoever reads another variable fails the test.
    #[derive(Default)]
    struct Made {
        variables: BTreeMap<&'static str, &'static str>,
        files: BTreeMap<&'static str, &'static str>,
    }

    impl Surroundings for Made {
        fn variable(&self, name: &str) -> Option<String> {
            assert!(name.starts_with("AWS_") || name == "HOME", "{name} is nobody's business");
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            let found = self.files.get(path.to_str().unwrap());
            found.map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    fn with(variables: &[(&'static str, &'static str)], files: &[(&'static str, &'static str)]) -> Made {
        Made { variables: variables.iter().copied().collect(), files: files.iter().copied().collect() }
    }

    fn key(id: &str, secret: &str) -> Credentials {
        Credentials::Key { id: id.to_owned(), secret: secret.to_owned(), token: None }
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "shh")];

    #[test]
    fn a_url_names_bucket_folder_server_and_region() {
        let here = with(&KEYS, &[]);
        let settings =
            Settings::of("s3://backups/db/host-1/?endpoint=http://127.0.0.1:9000&region=eu-1", &here)
                .unwrap();
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("backups", "db/host-1"));
        assert_eq!(settings.bucket_address(), "http://127.0.0.1:9000/backups");
        assert_eq!(settings.url(), "s3://backups/db/host-1?endpoint=http://127.0.0.1:9000&region=eu-1");
        // The URL means the same elsewhere, where the environment says nothing.
        assert_eq!(Settings::of(&settings.url(), &here).unwrap(), settings);
        let settings = Settings::of("s3://backups?endpoint=https%3A%2F%2Fs3.example", &here).unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("https://s3.example"));
        assert_eq!(settings.url(), "s3://backups?endpoint=https://s3.example&region=us-east-1");
        let amazon = Settings::of("s3://backups", &here).unwrap();
        assert_eq!(amazon.bucket_address(), "https://s3.us-east-1.amazonaws.com/backups");
        for wrong in [
            "s3://",
            "s3:///a",
            "s3://ab",
            "s3://bucket/a//b",
            "s3://bucket/../b",
            "s3://bucket/a b",
            "s3://bucket?endpoint=minio:9000",
            "s3://bucket?endpoint=",
            "s3://bucket?endpoint=ftp://a",
            "s3://bucket?endpoint=https://a?b",
            "s3://bucket?regoin=eu",
        ] {
            assert!(Settings::of(wrong, &here).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_url_with_a_secret_is_refused_and_the_refusal_does_not_repeat_it() {
        for url in [
            "s3://AKIA:hunter2@bucket/a",
            "s3://bucket/a?endpoint=https://AKIA:hunter2@minio",
            "s3://bucket/a?secret_access_key=hunter2",
            "s3://bucket/a?pw=hunter2",
            "s3://hunter2@bucket",
        ] {
            let error = Settings::of(url, &with(&KEYS, &[])).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn variables_say_where_and_who_and_the_url_is_believed_first() {
        let around = with(
            &[
                KEYS[0],
                KEYS[1],
                ("AWS_ENDPOINT_URL", "https://all"),
                ("AWS_ENDPOINT_URL_S3", "https://s3"),
                ("AWS_DEFAULT_REGION", "eu-2"),
                ("AWS_SESSION_TOKEN", "tok"),
            ],
            &[],
        );
        let settings = Settings::of("s3://backups", &around).unwrap();
        assert_eq!((settings.endpoint.as_deref(), settings.region.as_str()), (Some("https://s3"), "eu-2"));
        assert!(
            matches!(&settings.credentials, Credentials::Key { token: Some(token), .. } if token == "tok")
        );
        assert!(!format!("{settings:?}").contains("shh"));
        let settings = Settings::of("s3://backups?endpoint=https://url&region=x", &around).unwrap();
        assert_eq!((settings.endpoint.as_deref(), settings.region.as_str()), (Some("https://url"), "x"));
    }

    #[test]
    fn a_secret_may_lie_in_a_file() {
        let variables =
            [("AWS_ACCESS_KEY_ID_FILE", "/run/id"), ("AWS_SECRET_ACCESS_KEY_FILE", "/run/secret")];
        let around = with(&variables, &[("/run/id", "AKIA\n"), ("/run/secret", " shh \n")]);
        assert_eq!(Settings::of("s3://backups", &around).unwrap().credentials, key("AKIA", "shh"));
        for files in [vec![("/run/id", "AKIA")], vec![("/run/id", "AKIA"), ("/run/secret", "\n")]] {
            let error = Settings::of("s3://backups", &with(&variables, &files)).unwrap_err();
            assert!(error.starts_with("AWS_SECRET_ACCESS_KEY_FILE names /run/secret, which"), "{error}");
        }
        let half = Settings::of("s3://backups", &with(&KEYS[..1], &[])).unwrap_err();
        assert_eq!(half, "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not");
    }

    #[test]
    fn profiles_are_read_as_the_aws_tools_read_them() {
        let files = [
            (
                "/home/me/.aws/credentials",
                "[default]\naws_access_key_id = D\naws_secret_access_key=d\n[nas]\n# no\naws_access_key_id=N\naws_secret_access_key = n/+=\n",
            ),
            (
                "/home/me/.aws/config",
                "[default]\nregion = eu-1\n[profile nas]\nregion=nas # here\nendpoint_url = https://nas:9000\ns3 =\n  region = nested\n[profile sso]\nsso_session = corp\n",
            ),
        ];
        let me = ("HOME", "/home/me");
        let settings = Settings::of("s3://backups", &with(&[me], &files)).unwrap();
        assert_eq!((settings.region.as_str(), &settings.credentials), ("eu-1", &key("D", "d")));
        let settings = Settings::of("s3://backups", &with(&[me, ("AWS_PROFILE", "nas")], &files)).unwrap();
        assert_eq!((settings.region.as_str(), &settings.credentials), ("nas", &key("N", "n/+=")));
        assert_eq!(settings.endpoint.as_deref(), Some("https://nas:9000"));
        // Keys in the environment come first, as they do there.
        let both = with(&[me, KEYS[0], KEYS[1]], &files);
        assert_eq!(Settings::of("s3://backups", &both).unwrap().credentials, key("AKIA", "shh"));
        // Another identity than the one that is named would be worse than none.
        let sso = Settings::of("s3://backups", &with(&[me, ("AWS_PROFILE", "sso")], &files)).unwrap_err();
        assert!(sso.contains("sso_session") && sso.contains("export-credentials --profile sso"), "{sso}");
        let none = Settings::of("s3://backups", &with(&[me, ("AWS_PROFILE", "other")], &files)).unwrap_err();
        assert!(none.contains("no profile \"other\""), "{none}");
    }

    #[test]
    fn a_role_is_asked_for_where_there_can_be_one() {
        let of = |url: &str, variables: &[(&'static str, &'static str)]| {
            Settings::of(url, &with(variables, &[])).unwrap().credentials
        };
        assert_eq!(of("s3://backups", &[]), Credentials::Machine);
        assert_eq!(of("s3://backups", &[("AWS_EC2_METADATA_DISABLED", "true")]), Credentials::Nobody);
        assert_eq!(
            of("s3://backups?endpoint=https://nas", &[]),
            Credentials::Nobody,
            "no machine has a role there"
        );
        let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")];
        assert!(matches!(of("s3://backups", &web), Credentials::WebIdentity { .. }));
        let task = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")];
        assert!(matches!(of("s3://backups", &task), Credentials::Container(_)));
    }
}
