//! Whom this host believes a repository to be encrypted to.
//!
//! Whoever can write to a repository can say that it is encrypted to him. So the first time that a host uses a repository, it
//! keeps whom that is encrypted to in its state directory, and from then on refuses others, before anything is stopped, until
//! a person on this host [says](Trust::trust) that they are right. It knows a repository by its id and by every place that it
//! was used in: another one in the same place is as suspicious. If the environment says whom to encrypt to, that counts, and
//! nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Context;
use crate::crypt::Recipients;
use crate::disk::whole_file::write_json;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::repository::{Repository, RepositoryLocation};

const FOLDER: &str = "repositories";
const KNOWN_FORMAT: u32 = 1;

/// Whom the environment says to encrypt to. What it says amiss is an error where it counts, and nowhere else: who only puts
/// a service back need not read it.
#[derive(Debug, Clone)]
pub struct SaidRecipients(std::result::Result<Option<Recipients>, Arc<Error>>);

impl Default for SaidRecipients {
    /// Returns that nothing is said.
    fn default() -> Self {
        Self(Ok(None))
    }
}

impl SaidRecipients {
    /// Returns what the environment was found to say.
    #[must_use]
    pub fn new(said: Result<Option<Recipients>>) -> Self {
        Self(said.map_err(Arc::new))
    }

    /// Returns whom it says; `None` if it says nothing.
    ///
    /// # Errors
    /// When it says something that cannot be read or is not understood.
    pub fn get(&self) -> Result<Option<Recipients>> {
        self.0.clone().map_err(|error| error.again())
    }
}

/// What a host knows of a repository in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    format: u32,
    repository: String,
    place: String,
    recipients: Option<Recipients>,
    at: DateTime<Utc>,
}

/// What a host goes by.
#[derive(Debug, Clone)]
pub struct Trust {
    state: PathBuf,
    said: Option<Recipients>,
}

impl Trust {
    /// Returns the trust that is kept in a state directory; `said` is what the environment says.
    #[must_use]
    pub fn new(state: &Path, said: Option<Recipients>) -> Self {
        Self { state: state.to_owned(), said }
    }

    /// Returns that of a run.
    pub(super) fn of(context: &Context) -> Result<Self> {
        Ok(Self::new(&context.saga.state, context.recipients.get()?))
    }

    /// Refuses a repository that is encrypted to others than this host knows, and one that does not exist yet where the
    /// environment says that it is to be encrypted: nobody makes one by the way that anybody can read.
    ///
    /// # Errors
    /// As said, and when what is known cannot be read.
    pub fn check_place(&self, location: &RepositoryLocation) -> Result<()> {
        match (location.repository(), &self.said) {
            (Some(repository), _) => self.check(repository),
            (None, Some(_)) => Err(Error::usage(format!(
                "there is no repository in {} yet, and VOLSNAP_RECIPIENTS says that it is to be encrypted",
                location.address()
            ))
            .state("nothing was touched")
            .hint(Hint::volsnap(["init"]).why("makes it, encrypted to them"))),
            (None, None) => self.check_gone(location),
        }
    }

    /// Refuses a place from which an encrypted repository is gone: what is made there by the way anybody could read.
    fn check_gone(&self, location: &RepositoryLocation) -> Result<()> {
        let place = location.place().display().to_string();
        let known = self.known_by(|known| known.place == place)?;
        let Some(recipients) = known.into_iter().find_map(|(_, known)| known.recipients) else {
            return Ok(());
        };
        let named = recipients.iter().flat_map(|recipient| ["--recipient", recipient]);
        let named = named.chain((recipients.count() == 1).then_some("--single-key"));
        Err(Error::usage(format!(
            "the repository in {place} is gone, and as this host knows it, it was encrypted"
        ))
        .state("nothing was touched")
        .hint(
            Hint::volsnap(["--repo", &place, "init"].into_iter().chain(named))
                .why("makes it anew, encrypted to the same"),
        ))
    }

    /// Refuses a repository that is encrypted to others than this host knows.
    ///
    /// # Errors
    /// As said, and when what is known cannot be read.
    pub fn check(&self, repository: &Repository) -> Result<()> {
        let found = repository.recipients();
        if let Some(said) = &self.said {
            return if found == Some(said) {
                Ok(())
            } else {
                Err(changed(repository, "by VOLSNAP_RECIPIENTS", Some(said)).hint(Hint::advice(
                    "name another repository, or correct VOLSNAP_RECIPIENTS; make a new one with volsnap init",
                )))
            };
        }
        let known = self.known(repository)?;
        match known.into_iter().find(|(_, known)| known.recipients.as_ref() != found) {
            None => Ok(()),
            Some((_, known)) => {
                let why = match found {
                    Some(_) => "if you know who has changed it, and why: this host then encrypts to them",
                    None => "if you know who has changed it, and why: this host then writes in clear",
                };
                // The one that was looked at need not be that of the command.
                let trust = Hint::volsnap(["--repo", &place_of(repository), "key", "trust"]).why(why);
                Err(changed(repository, "as this host knows it,", known.recipients.as_ref()).hint(trust))
            }
        }
    }

    /// Refuses a repository as [`check`](Self::check) does; keeps whom it is encrypted to if this host has not used it yet.
    ///
    /// # Errors
    /// As for [`check`](Self::check), and when it cannot be kept.
    pub fn accept(&self, repository: &Repository, now: DateTime<Utc>) -> Result<()> {
        self.check(repository)?;
        let known = self.known(repository)?;
        let is_it =
            |known: &Known| known.repository == repository.id() && known.place == place_of(repository);
        if known.iter().any(|(_, known)| is_it(known)) { Ok(()) } else { self.trust(repository, now) }
    }

    /// Keeps whom a repository is encrypted to, whatever was known; so also in every other place that it was used in.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn trust(&self, repository: &Repository, now: DateTime<Utc>) -> Result<()> {
        let known = Known {
            format: KNOWN_FORMAT,
            repository: repository.id().to_owned(),
            place: place_of(repository),
            recipients: repository.recipients().cloned(),
            at: now,
        };
        let keep = |path: &Path, known: &Known| {
            write_json(path, known).context(|| format!("keep {}", path.display()))
        };
        let own = self.path_of(&known.repository, &known.place);
        keep(&own, &known)?;
        for (path, other) in self.known(repository)?.into_iter().filter(|(path, _)| *path != own) {
            if other.place == known.place {
                // What was here before is gone, or is kept in another file by now.
                std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            } else if other.recipients != known.recipients {
                keep(&path, &Known { place: other.place, ..known.clone() })?;
            }
        }
        Ok(())
    }

    /// Returns what is known of a repository: by its id, and by its place.
    fn known(&self, repository: &Repository) -> Result<Vec<(PathBuf, Known)>> {
        let place = place_of(repository);
        self.known_by(|known| known.repository == repository.id() || known.place == place)
    }

    /// Returns what is known, each with the file that keeps it.
    fn known_by(&self, is_it: impl Fn(&Known) -> bool) -> Result<Vec<(PathBuf, Known)>> {
        let folder = self.state.join(FOLDER);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            error => error.context(|| format!("read {}", folder.display()))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.context(|| format!("read {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let known = read(&path)?;
                if is_it(&known) {
                    found.push((path, known));
                }
            }
        }
        Ok(found)
    }

    /// Returns the file of a repository in a place. Its id is what the repository says, and no name of a file.
    fn path_of(&self, id: &str, place: &str) -> PathBuf {
        let name = blake3::hash(format!("{id}\0{place}").as_bytes()).to_hex();
        self.state.join(FOLDER).join(format!("{}.json", &name[..32]))
    }
}

/// Returns what a file says. What cannot be read is no reason to believe the repository.
fn read(path: &Path) -> Result<Known> {
    let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
    let refused = |why: String| {
        Error::failed(format!("believe a repository: {} {why}", path.display())).state("nothing was touched").hint(
            Hint::advice("look whom the repository is encrypted to, with volsnap key list; if that is right, remove the file"),
        )
    };
    match serde_json::from_slice::<Known>(&bytes) {
        Ok(known) if known.format > KNOWN_FORMAT => {
            Err(refused(format!("is of a later volsnap (format {})", known.format)))
        }
        Ok(known) => Ok(known),
        Err(error) => Err(refused(format!("is not understood: {error}"))),
    }
}

fn place_of(repository: &Repository) -> String {
    repository.location().display().to_string()
}

fn changed(repository: &Repository, by: &str, expected: Option<&Recipients>) -> Error {
    let said = |recipients: Option<&Recipients>| match recipients {
        Some(recipients) => format!("encrypted to {recipients}"),
        None => "not encrypted".to_owned(),
    };
    Error::usage(format!(
        "the repository {} is {}, and {by} {}",
        repository.location().display(),
        said(repository.recipients()),
        said(expected)
    ))
    .state("nothing was touched")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::crypt::NewKey;

    async fn made(place: &Path, recipients: Option<&Recipients>) -> Repository {
        let location = RepositoryLocation::probe(place).await.unwrap();
        let clock = Clock::system();
        match recipients {
            Some(recipients) => location.open_or_init_encrypted(recipients, &clock).await.unwrap(),
            None => location.open_or_init(&clock).await.unwrap(),
        }
    }

    #[tokio::test]
    async fn recipients_that_are_not_those_of_the_first_use_are_refused_until_somebody_trusts_them() {
        let root = tempfile::tempdir().unwrap();
        let (place, state) = (root.path().join("repository"), root.path().join("state"));
        let (ours, theirs) = (NewKey::generate().recipient, NewKey::generate().recipient);
        let now = Clock::system().now();
        let trust = Trust::new(&state, None);
        let mut repository = made(&place, Some(&ours)).await;
        trust.accept(&repository, now).unwrap();
        trust.accept(&repository, now).unwrap();
        repository.change_recipients(ours.and(&theirs), now).await.unwrap();
        let repository = Repository::open(&place).await.unwrap();
        assert_eq!(repository.recipients(), Some(&ours.and(&theirs)), "the change counts");
        let refused = trust.check(&repository).unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Usage);
        assert!(refused.to_string().contains(theirs.iter().next().unwrap()), "{refused}");
        let place = place_of(&repository);
        assert!(refused.hints()[0].to_string().starts_with(&format!("volsnap --repo {place} key trust")));
        assert!(trust.accept(&repository, now).is_err(), "nothing is kept of what is refused");
        trust.trust(&repository, now).unwrap();
        trust.check(&repository).unwrap();
    }

    #[tokio::test]
    async fn another_repository_in_the_same_place_is_believed_no_more_than_another_recipient() {
        let root = tempfile::tempdir().unwrap();
        let (place, state) = (root.path().join("repository"), root.path().join("state"));
        let (ours, theirs) = (NewKey::generate().recipient, NewKey::generate().recipient);
        let now = Clock::system().now();
        let trust = Trust::new(&state, None);
        let cases = [(Some(&ours), Some(&theirs)), (Some(&ours), None), (None, Some(&theirs))];
        for (before, after) in cases {
            trust.trust(&made(&place, before).await, now).unwrap();
            std::fs::remove_dir_all(&place).unwrap();
            let other = made(&place, after).await;
            assert!(trust.check(&other).is_err(), "{before:?} {after:?}");
            trust.trust(&other, now).unwrap();
            trust.check(&other).unwrap();
            std::fs::remove_dir_all(&place).unwrap();
        }
        // One that was removed and made again, with nothing encrypted before or after, is nobody's concern.
        trust.trust(&made(&place, None).await, now).unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        trust.accept(&made(&place, None).await, now).unwrap();
    }

    #[tokio::test]
    async fn what_the_environment_says_counts_more_than_what_was_known() {
        let root = tempfile::tempdir().unwrap();
        let (place, state) = (root.path().join("repository"), root.path().join("state"));
        let (ours, theirs) = (NewKey::generate().recipient, NewKey::generate().recipient);
        let repository = made(&place, Some(&ours)).await;
        Trust::new(&state, Some(ours.clone())).check(&repository).unwrap();
        assert!(Trust::new(&state, Some(theirs.clone())).check(&repository).is_err());
        let plain = made(&root.path().join("plain"), None).await;
        assert!(Trust::new(&state, Some(theirs.clone())).check(&plain).is_err());
        let none = RepositoryLocation::probe(&root.path().join("none")).await.unwrap();
        assert!(Trust::new(&state, Some(theirs)).check_place(&none).is_err());
        Trust::new(&state, None).check_place(&none).unwrap();
    }

    #[tokio::test]
    async fn nothing_plain_is_made_where_an_encrypted_one_was() {
        let root = tempfile::tempdir().unwrap();
        let (place, state) = (root.path().join("repository"), root.path().join("state"));
        let ours = NewKey::generate().recipient;
        let trust = Trust::new(&state, None);
        trust.trust(&made(&place, Some(&ours)).await, Clock::system().now()).unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        let gone = RepositoryLocation::probe(&place).await.unwrap();
        let refused = trust.check_place(&gone).unwrap_err();
        let again = format!("volsnap --repo {} init --recipient {ours}", gone.place().display());
        assert!(refused.hints()[0].to_string().starts_with(&again), "{:?}", refused.hints());
        // However the place is called.
        std::os::unix::fs::symlink(root.path(), root.path().join("link")).unwrap();
        for name in ["link/repository", "state/../repository"] {
            let gone = RepositoryLocation::probe(&root.path().join(name)).await.unwrap();
            assert!(trust.check_place(&gone).is_err(), "{name}");
        }
        trust.check_place(&RepositoryLocation::probe(&root.path().join("another")).await.unwrap()).unwrap();
    }

    #[tokio::test]
    async fn one_that_is_used_in_two_places_is_known_in_both() {
        let root = tempfile::tempdir().unwrap();
        let [first, second, state] = ["first", "second", "state"].map(|name| root.path().join(name));
        let (ours, theirs) = (NewKey::generate().recipient, NewKey::generate().recipient);
        let now = Clock::system().now();
        let trust = Trust::new(&state, None);
        let mut repository = made(&first, Some(&ours)).await;
        trust.accept(&repository, now).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::copy(first.join("volsnap.json"), second.join("volsnap.json")).unwrap();
        trust.accept(&Repository::open(&second).await.unwrap(), now).unwrap();

        // Whom a person trusts in one place, he trusts in the other.
        repository.change_recipients(ours.and(&theirs), now).await.unwrap();
        let changed = Repository::open(&first).await.unwrap();
        trust.trust(&changed, now).unwrap();
        trust.check(&changed).unwrap();
        assert!(trust.check(&Repository::open(&second).await.unwrap()).is_err());

        std::fs::remove_dir_all(&first).unwrap();
        for other in [Some(&theirs), None] {
            let other = made(&first, other).await;
            let refused = trust.accept(&other, now).unwrap_err();
            let why = refused.hints()[0].to_string();
            assert_eq!(why.contains("writes in clear"), other.recipients().is_none(), "{why}");
            std::fs::remove_dir_all(&first).unwrap();
        }
    }

    #[test]
    fn what_is_said_amiss_is_an_error_each_time_it_counts() {
        let said =
            SaidRecipients::new(Err(Error::usage("use VOLSNAP_RECIPIENTS").state("nothing was touched")));
        for _ in 0..2 {
            let error = said.get().unwrap_err();
            assert_eq!(
                (error.kind(), error.state_text()),
                (crate::ErrorKind::Usage, Some("nothing was touched"))
            );
        }
        assert_eq!(SaidRecipients::default().get().unwrap(), None);
    }

    #[test]
    fn what_an_earlier_volsnap_has_kept_is_understood_and_written_alike() {
        let stored = include_str!("../../fixtures/formats/v2/known-repository.json");
        let known: Known = serde_json::from_str(stored).unwrap();
        assert_eq!((known.format, known.place.as_str()), (1, "/var/backups/volsnap"));
        assert_eq!(known.recipients.as_ref().unwrap().count(), 1);
        assert_eq!(serde_json::to_string(&known).unwrap(), stored);
    }

    #[tokio::test]
    async fn what_is_known_and_cannot_be_read_is_no_reason_to_believe() {
        let root = tempfile::tempdir().unwrap();
        let (place, state) = (root.path().join("repository"), root.path().join("state"));
        let repository = made(&place, None).await;
        let trust = Trust::new(&state, None);
        trust.trust(&repository, Clock::system().now()).unwrap();
        let path = trust.path_of(repository.id(), &place_of(&repository));
        for broken in [
            "{",
            r#"{"format": 9, "repository": "", "place": "", "recipients": null, "at": "2026-11-20T20:30:11Z"}"#,
        ] {
            std::fs::write(&path, broken).unwrap();
            assert!(trust.check(&repository).is_err(), "{broken}");
        }
    }
}
