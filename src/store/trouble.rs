//! What is wrong with a server, said so that the user knows what to do.
//!
//! Each store elsewhere turns what its server, the system and TLS say into one [`Trouble`], which travels inside the
//! `io::Error`.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::model::hint::Hint;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// S3, Amazon's or another's.
    S3,
    /// WebDAV.
    WebDav,
    /// SFTP, through `ssh`.
    Sftp,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

/// Why a server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such bucket.
    NoBucket,
    /// The server does not know the key.
    UnknownKey,
    /// The secret does not belong to the key.
    WrongSecret,
    /// The token of the session has run out.
    Expired,
    /// The key, or the user, may not do it.
    Forbidden,
    /// The server does not let the user in.
    NotLetIn,
    /// The host's key is not the one that this machine knows, or it knows none.
    HostKey,
    /// A program that is needed is not installed.
    NoProgram,
    /// There is no key, no role to ask for, no user or no password.
    NoCredentials,
    /// The clocks differ too much.
    ClockSkew {
        /// The server's time and ours, if the server has told.
        times: Option<(String, String)>,
    },
    /// The bucket is in another region.
    Region {
        /// Where, if the server has told.
        there: Option<String>,
    },
    /// No host has the name.
    UnknownHost,
    /// Nothing listens there.
    Refused,
    /// The server's certificate is not believed.
    Certificate,
    /// What answers speaks no TLS, or only TLS.
    NoTls,
    /// It did not answer in time.
    Silent,
    /// It asks to come back later.
    Busy,
    /// It failed, and said so.
    Server,
    /// It cannot do that at all.
    Unable,
    /// The object is no longer what it was when the reading began.
    Changed,
    /// Anything else.
    Other,
}

/// A failed request.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is wrong.
    pub trouble: Trouble,
    /// With what kind of server.
    pub(super) service: Service,
    /// What the server, the system or the library said; no secrets.
    pub(super) said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (&self.trouble, self.service) {
            (Trouble::NoBucket, Service::Azure) => "the account has no such container",
            (Trouble::NoBucket, _) => "the server has no such bucket",
            (Trouble::UnknownKey, _) => "the server does not know the access key",
            (Trouble::WrongSecret, _) => "the secret is not that of the access key",
            (Trouble::Expired, _) => "the session token has expired",
            (Trouble::Forbidden, Service::S3) => "the access key may not do this",
            (Trouble::Forbidden, Service::Google | Service::Azure) => "the account may not do this",
            (Trouble::Forbidden, _) => "the user may not do this",
            (Trouble::NotLetIn, Service::WebDav) => {
                "the server does not know the user, or the password is another"
            }
            (Trouble::NotLetIn, _) => "the server does not let the user in",
            (Trouble::HostKey, _) => "the server's key is not known here, or is another than the known one",
            (Trouble::NoProgram, _) => "there is no program ssh",
            (Trouble::NoCredentials, Service::S3) => {
                "there is no access key: none in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                 none in a profile, and no role of this machine"
            }
            (Trouble::NoCredentials, Service::WebDav) => {
                "the server asks who we are, and neither WEBDAV_USERNAME nor WEBDAV_PASSWORD says so"
            }
            (Trouble::NoCredentials, _) => "nothing says who we are there",
            (Trouble::ClockSkew { times: Some((there, here)) }, _) => {
                return write!(f, "the clocks differ too much: it is {there} there and {here} here");
            }
            (Trouble::ClockSkew { times: None }, _) => "the clocks here and there differ too much",
            (Trouble::Region { there: Some(there) }, _) => {
                return write!(f, "the bucket is in the region {there}");
            }
            (Trouble::Region { there: None }, Service::S3) => {
                "the bucket is in another region, or at another server"
            }
            (Trouble::Region { there: None }, _) => "the server sends us to another address",
            (Trouble::UnknownHost, _) => "no server has that name",
            (Trouble::Refused, _) => "nothing listens there",
            (Trouble::Certificate, _) => "the server's certificate is not believed",
            (Trouble::NoTls, _) => "what listens there does not speak this protocol",
            (Trouble::Silent, _) => "the server did not answer in time",
            (Trouble::Busy, _) => {
                "the server is overloaded and asks for a pause, and did so for as long as volsnap tried"
            }
            (Trouble::Server, _) => "the server failed, again and again",
            (Trouble::Unable, _) => "the server cannot do this",
            (Trouble::Changed, _) => "it was replaced while it was read",
            (Trouble::Other, _) => return f.write_str(&self.said),
        };
        f.write_str(what)?;
        if !self.said.is_empty() {
            write!(f, " ({})", self.said)?;
        }
        Ok(())
    }
}

impl StdError for Failure {}

impl Failure {
    /// Returns the failure that an error carries.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns the error for an attempt that failed before a request was made.
    pub(super) fn without_request(service: Service, trouble: Trouble) -> io::Error {
        Self { trouble, service, said: String::new() }.into_error(io::ErrorKind::Other)
    }

    pub(super) fn into_error(self, kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, self)
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn hints(&self) -> Vec<Hint> {
        let advice = match &self.trouble {
            Trouble::NoBucket => "make the bucket, or mend its name behind the scheme of the URL",
            Trouble::UnknownKey | Trouble::WrongSecret | Trouble::NoCredentials | Trouble::NotLetIn => {
                self.who()
            }
            Trouble::Expired => "get a new session token, and export it as AWS_SESSION_TOKEN with its key",
            Trouble::Forbidden => self.rights(),
            Trouble::HostKey => {
                "look at the server's key, then have ssh remember it: type `ssh USER@HOST` once, as the user that runs volsnap"
            }
            Trouble::NoProgram => {
                "install the client of OpenSSH: the package openssh-client, or openssh-clients"
            }
            Trouble::ClockSkew { .. } => {
                "set this machine's clock; chrony or systemd-timesyncd keep it right"
            }
            Trouble::Region { there: Some(there) } => {
                return vec![Hint::advice(format!("add region={there} to the URL"))];
            }
            Trouble::Region { there: None } if self.service == Service::S3 => {
                "name the region with region= in the URL, or AWS_REGION"
            }
            Trouble::Region { there: None } => "write the address to which the server sends us into the URL",
            Trouble::UnknownHost | Trouble::Refused | Trouble::NoTls => self.address(),
            Trouble::Certificate => self.authority(),
            Trouble::Silent | Trouble::Busy | Trouble::Server => {
                "type it again later; nothing has to be cleaned up first"
            }
            Trouble::Unable | Trouble::Changed | Trouble::Other => return Vec::new(),
        };
        vec![Hint::advice(advice)]
    }

    /// Says how volsnap is told who it is there.
    fn who(&self) -> &'static str {
        match self.service {
            Service::S3 => {
                "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or name a profile with AWS_PROFILE; each \
                 variable may name a file instead, with _FILE behind its name"
            }
            Service::WebDav => {
                "export WEBDAV_USERNAME=… WEBDAV_PASSWORD=…; each may name a file instead, with _FILE behind its name"
            }
            Service::Sftp => {
                "try `ssh USER@HOST` as the user that runs volsnap: it has to come in by a key, without a question"
            }
            Service::Google => {
                "export GOOGLE_APPLICATION_CREDENTIALS=FILE, with the key of a service account"
            }
            Service::Azure => {
                "export AZURE_STORAGE_ACCOUNT_KEY=…; it may name a file instead, with _FILE behind its name"
            }
        }
    }

    /// Says which rights volsnap needs there.
    fn rights(&self) -> &'static str {
        match self.service {
            Service::S3 => {
                "allow the key s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, \
                 s3:DeleteObject and s3:AbortMultipartUpload there; is it the key that is meant?"
            }
            Service::WebDav => {
                "allow the user to read, write, move and delete in that folder; is it the user that is meant?"
            }
            Service::Sftp => "give that folder to the user, or name another; is it the user that is meant?",
            Service::Google => "give the account the role Storage Object User on the bucket",
            Service::Azure => "give the account the role Storage Blob Data Contributor on the container",
        }
    }

    /// Says where the server's address stands.
    fn address(&self) -> &'static str {
        match self.service {
            Service::S3 => {
                "mend endpoint= in the URL, or AWS_ENDPOINT_URL: scheme, name and port, as https://minio.example:9000"
            }
            Service::WebDav => "mend the server in the URL: webdavs://NAME:PORT/FOLDER",
            Service::Sftp => {
                "mend the server in the URL, sftp://USER@NAME:PORT/FOLDER, or its entry in ~/.ssh/config"
            }
            Service::Google | Service::Azure => {
                "mend endpoint= in the URL, or look whether this machine reaches the internet"
            }
        }
    }

    /// Says where the authority of a certificate is named.
    fn authority(&self) -> &'static str {
        match self.service {
            Service::WebDav => {
                "name the file of the certificate authority in WEBDAV_CA_BUNDLE, if it is one of your own; else mend the server's name"
            }
            _ => {
                "name the file of the certificate authority in AWS_CA_BUNDLE, if it is one of your own; else mend endpoint="
            }
        }
    }
}

/// Returns what kept a request from being answered.
pub(super) fn unanswered(said: &str) -> Trouble {
    let said = said.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["redirect without location"]) {
        Trouble::Region { there: None }
    } else if any(&["dns error", "failed to lookup address", "name or service not known"]) {
        Trouble::UnknownHost
    } else if any(&["certificate", "unknownissuer"]) {
        Trouble::Certificate
    } else if any(&["corrupt message", "invalidcontenttype", "invalid http version", "received fatal alert"])
    {
        Trouble::NoTls
    } else if any(&["connection refused", "no route to host", "network is unreachable"]) {
        Trouble::Refused
    } else if any(&["timed out", "timeout"]) {
        Trouble::Silent
    } else {
        Trouble::Other
    }
}
