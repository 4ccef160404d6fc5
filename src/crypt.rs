//! Encryption in the format of age, version 1, which its own tool opens as well.
//!
//! What is encrypted to recipients, which are public, only an identity opens, which is secret. So a host that has the
//! recipients alone can write what it cannot read. No identity is ever shown: no error and no `Debug` here has one.
//!
//! The keys of a file are drawn by the machine, not by the [clock](crate::clock): nobody is to be able to say what comes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::secrecy::ExposeSecret as _;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The end of an encrypted file's name.
pub const EXTENSION: &str = ".age";

/// Why something cannot be encrypted, or opened.
#[derive(Debug, thiserror::Error)]
pub enum CryptError {
    /// A word is no recipient.
    #[error(
        "{0} is no recipient: one begins with age1, or is a public key of ssh (ssh-ed25519 …, ssh-rsa …)"
    )]
    NoRecipient(String),
    /// A secret was given where a recipient belongs.
    #[error(
        "what was given for a recipient is an identity, which is secret: give its recipient, which is public"
    )]
    SecretForRecipient,
    /// There is no recipient.
    #[error("no recipient was given")]
    NoRecipients,
    /// A text has no identity.
    #[error("it has no identity: one is a line that begins with AGE-SECRET-KEY-1, or a private key of ssh")]
    NoIdentity,
    /// The identity has a passphrase.
    #[error("its private key has a passphrase, which nobody can be asked for: give one without")]
    Passphrase,
    /// No identity is one of the recipients.
    #[error("no identity that was given opens it")]
    WrongKey,
    /// What was encrypted is not whole.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// What was encrypted cannot be read.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

impl From<DecryptError> for CryptError {
    fn from(error: DecryptError) -> Self {
        match error {
            DecryptError::NoMatchingKeys => Self::WrongKey,
            DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("it is cut short".to_owned())
            }
            DecryptError::Io(error) => Self::Io(error),
            DecryptError::UnknownFormat => {
                Self::Damaged("it is not in a format of age that is known".to_owned())
            }
            _ => Self::Damaged("what age writes first is not as it was written".to_owned()),
        }
    }
}

/// Whom something is encrypted to: at least one, each as its own tool writes it, in the order of the alphabet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Recipients(BTreeSet<String>);

impl Recipients {
    /// Returns the recipients that a text names, with commas or line ends between them. A line that begins with `#` is
    /// a comment; so is what follows a key of ssh.
    ///
    /// # Errors
    /// When a word is no recipient, or there is none.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty());
        Self::of(words)
    }

    /// Returns the recipients that these words are.
    ///
    /// # Errors
    /// When a word is no recipient, or there is none.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, CryptError> {
        let named: Result<BTreeSet<_>, _> =
            words.into_iter().map(|word| recipient(word).map(|(name, _)| name)).collect();
        let named = named?;
        if named.is_empty() { Err(CryptError::NoRecipients) } else { Ok(Self(named)) }
    }

    /// Returns each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns how many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns these and others.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.union(&others.0).cloned().collect())
    }

    /// Returns these without others; `None` if nobody is left.
    #[must_use]
    pub fn without(&self, others: &Self) -> Option<Self> {
        let left: BTreeSet<_> = self.0.difference(&others.0).cloned().collect();
        (!left.is_empty()).then_some(Self(left))
    }

    /// Returns whether all of the others are among these.
    #[must_use]
    pub fn has(&self, others: &Self) -> bool {
        others.0.is_subset(&self.0)
    }

    fn encryptor(&self) -> Result<Encryptor, CryptError> {
        let parsed: Result<Vec<_>, _> = self.iter().map(recipient).collect();
        let parsed = parsed?;
        let recipients = parsed.iter().map(|(_, recipient)| &**recipient as &dyn age::Recipient);
        Encryptor::with_recipients(recipients).map_err(|error| CryptError::Io(io::Error::other(error)))
    }
}

impl TryFrom<Vec<String>> for Recipients {
    type Error = CryptError;

    fn try_from(words: Vec<String>) -> Result<Self, CryptError> {
        Self::of(words.iter().map(String::as_str))
    }
}

impl From<Recipients> for Vec<String> {
    fn from(recipients: Recipients) -> Self {
        recipients.0.into_iter().collect()
    }
}

impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

/// Returns what a word names, and its name without comments.
fn recipient(word: &str) -> Result<(String, Box<dyn age::Recipient>), CryptError> {
    let upper = word.to_ascii_uppercase();
    if upper.contains("SECRET-KEY") || upper.contains("PRIVATE KEY") {
        return Err(CryptError::SecretForRecipient);
    }
    if let Ok(native) = word.parse::<age::x25519::Recipient>() {
        return Ok((native.to_string(), Box::new(native)));
    }
    if let Ok(key) = word.parse::<age::ssh::Recipient>() {
        return Ok((key.to_string(), Box::new(key)));
    }
    // Whatever else it is, it may be a secret.
    let is_public = ["age1", "ssh-"].iter().any(|begin| word.starts_with(begin));
    let shown = if is_public { format!("{word:?}") } else { "a word".to_owned() };
    Err(CryptError::NoRecipient(shown))
}

/// What opens what was encrypted.
#[derive(Clone)]
pub struct Identities(Arc<Vec<Box<dyn age::Identity + Send + Sync>>>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.0.len()).finish()
    }
}

impl Identities {
    /// Returns the identities that a text has: those that `age-keygen` or `volsnap key generate` has written, or a private
    /// key of ssh.
    ///
    /// # Errors
    /// When there is none, or it has a passphrase. The error shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        leave_no_core();
        if text.contains("-----BEGIN") {
            let begin = text.find("-----BEGIN").unwrap_or_default();
            let key = age::ssh::Identity::from_buffer(&text.as_bytes()[begin..], None);
            return match key.map_err(|_| CryptError::NoIdentity)? {
                key @ age::ssh::Identity::Unencrypted(_) => Ok(Self(Arc::new(vec![Box::new(key)]))),
                age::ssh::Identity::Encrypted(_) => Err(CryptError::Passphrase),
                age::ssh::Identity::Unsupported(_) => Err(CryptError::NoIdentity),
            };
        }
        let file = age::IdentityFile::from_buffer(text.as_bytes()).map_err(|_| CryptError::NoIdentity)?;
        let identities = file.into_identities().map_err(|_| CryptError::NoIdentity)?;
        if identities.is_empty() { Err(CryptError::NoIdentity) } else { Ok(Self(Arc::new(identities))) }
    }

    /// Returns whether one of them opens what is encrypted to these recipients.
    #[must_use]
    pub fn open_what_is_for(&self, recipients: &Recipients) -> bool {
        seal_text(b"", recipients).and_then(|sealed| open_text(&sealed, self)).is_ok()
    }

    fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| &**identity as &dyn age::Identity)
    }
}

/// Has no core of this process be written, should it die: it would have what opens every snapshot.
pub fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::debug!(%error, "a core of this process may be written");
    }
}

/// A new identity and its recipient.
pub struct NewKey {
    identity: age::x25519::Identity,
    /// Its recipient, which is public.
    pub recipient: Recipients,
}

impl NewKey {
    /// Draws one.
    #[must_use]
    pub fn generate() -> Self {
        leave_no_core();
        let identity = age::x25519::Identity::generate();
        let recipient = Recipients(BTreeSet::from([identity.to_public().to_string()]));
        Self { identity, recipient }
    }

    /// Returns the file that keeps the identity, as `age-keygen` writes it, with a comment as its first line. It is secret.
    #[must_use]
    pub fn file(&self, comment: &str) -> String {
        let identity = self.identity.to_string();
        format!("# {comment}\n# public key: {}\n{}\n", self.recipient, identity.expose_secret())
    }

    /// Returns the identity, to open with.
    #[must_use]
    pub fn identities(&self) -> Identities {
        Identities(Arc::new(vec![Box::new(self.identity.clone())]))
    }
}

/// Where the encryptor writes what is then taken.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<u8>>>);

impl Outbox {
    fn locked(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.locked()).into()
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.locked().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encrypts what it is fed, piece by piece.
pub struct Sealer {
    writer: StreamWriter<Outbox>,
    outbox: Outbox,
    digest: blake3::Hasher,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// Begins something that these can open.
    ///
    /// # Errors
    /// When it cannot be encrypted to one of them.
    pub fn to(recipients: &Recipients) -> Result<Self, CryptError> {
        let outbox = Outbox::default();
        let writer = recipients.encryptor()?.wrap_output(outbox.clone()).map_err(CryptError::Io)?;
        Ok(Self { writer, outbox, digest: blake3::Hasher::new() })
    }

    /// Takes bytes; returns what is encrypted by now, which may be nothing.
    ///
    /// # Errors
    /// When it cannot be encrypted.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        self.digest.update(bytes);
        self.writer.write_all(bytes)?;
        Ok(self.outbox.take())
    }

    /// Returns the last encrypted bytes, and the BLAKE3 of all that was taken, hexadecimal.
    ///
    /// # Errors
    /// When it cannot be encrypted.
    pub fn finish(self) -> io::Result<(Bytes, String)> {
        self.writer.finish()?;
        Ok((self.outbox.take(), self.digest.finalize().to_hex().to_string()))
    }
}

/// Returns what was encrypted, as it is read. What is not whole ends with an error of the reader.
///
/// # Errors
/// When no identity opens it, or it is not whole as far as its beginning shows.
pub fn opened<R: Read + Send + 'static>(
    reader: R,
    identities: &Identities,
) -> Result<Box<dyn Read + Send>, CryptError> {
    Ok(Box::new(Decryptor::new(reader)?.decrypt(identities.iter())?))
}

/// Encrypts a small thing into text.
///
/// # Errors
/// When it cannot be encrypted.
pub fn seal_text(plain: &[u8], recipients: &Recipients) -> Result<String, CryptError> {
    let sealed = || -> io::Result<Vec<u8>> {
        let armor = age::armor::ArmoredWriter::wrap_output(Vec::new(), age::armor::Format::AsciiArmor)?;
        let encryptor = recipients.encryptor().map_err(io::Error::other)?;
        let mut writer = encryptor.wrap_output(armor)?;
        writer.write_all(plain)?;
        writer.finish()?.finish()
    };
    let sealed = sealed().map_err(CryptError::Io)?;
    String::from_utf8(sealed).map_err(|error| CryptError::Io(io::Error::other(error)))
}

/// Returns what [`seal_text`] has encrypted.
///
/// # Errors
/// When no identity opens it, or it is not whole.
pub fn open_text(sealed: &str, identities: &Identities) -> Result<Vec<u8>, CryptError> {
    let reader = Decryptor::new(age::armor::ArmoredReader::new(sealed.as_bytes()))?;
    let mut plain = Vec::new();
    let read = reader.decrypt(identities.iter())?.read_to_end(&mut plain);
    read.map_err(|error| CryptError::Damaged(error.to_string()))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH_KEY: &str = include_str!("../fixtures/keys/ssh-ed25519.pub");

    fn sealed(plain: &[u8], recipients: &Recipients) -> Vec<u8> {
        let mut sealer = Sealer::to(recipients).unwrap();
        let mut stored = Vec::new();
        for piece in plain.chunks(100_000) {
            stored.extend_from_slice(&sealer.push(piece).unwrap());
        }
        let (last, digest) = sealer.finish().unwrap();
        assert_eq!(digest, blake3::hash(plain).to_hex().to_string());
        stored.extend_from_slice(&last);
        stored
    }

    fn read(stored: Vec<u8>, identities: &Identities) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let mut reader = opened(io::Cursor::new(stored), identities).map_err(|error| error.to_string())?;
        reader.read_to_end(&mut plain).map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn what_is_encrypted_to_several_each_of_them_opens_and_nobody_else() {
        let (one, other, stranger) = (NewKey::generate(), NewKey::generate(), NewKey::generate());
        let both = one.recipient.and(&other.recipient);
        let plain: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let stored = sealed(&plain, &both);
        for key in [&one, &other] {
            assert!(read(stored.clone(), &key.identities()).unwrap() == plain);
            let kept = Identities::parse(&key.file("created: today")).unwrap();
            assert!(read(stored.clone(), &kept).unwrap() == plain, "a kept identity opens it as well");
        }
        let refused = read(stored, &stranger.identities()).unwrap_err();
        assert_eq!(refused, "no identity that was given opens it");
        let text = seal_text(b"a path", &one.recipient).unwrap();
        assert_eq!(open_text(&text, &one.identities()).unwrap(), b"a path");
        assert!(matches!(open_text(&text, &other.identities()), Err(CryptError::WrongKey)));
        assert!(one.identities().open_what_is_for(&both) && !stranger.identities().open_what_is_for(&both));
    }

    #[test]
    fn what_is_cut_short_or_changed_is_an_error_wherever_it_happened() {
        let key = NewKey::generate();
        let stored = sealed(&vec![7; 200_000], &key.recipient);
        let nothing_cut = read(stored.clone(), &key.identities()).unwrap();
        assert_eq!(nothing_cut.len(), 200_000);
        for length in [0, 10, 100, 250, 70_000, 131_000, stored.len() - 1] {
            let cut = stored[..length].to_vec();
            assert!(read(cut, &key.identities()).is_err(), "cut after {length}");
        }
        for at in [0, 30, 120, 5_000, stored.len() - 1] {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(read(changed, &key.identities()).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn recipients_are_named_by_text_with_comments_commas_and_lines() {
        let (one, other) = (NewKey::generate(), NewKey::generate());
        let text = format!("# three of us\n{}, {SSH_KEY}\n{}\n", one.recipient, other.recipient);
        let recipients = Recipients::parse(&text).unwrap();
        assert_eq!(recipients.count(), 3);
        let (key, comment) = SSH_KEY.trim().rsplit_once(' ').unwrap();
        assert_eq!(comment, "example");
        assert!(recipients.iter().any(|named| named == key), "without its comment");
        assert_eq!(Recipients::parse(&recipients.to_string()).unwrap(), recipients);
        assert_eq!(recipients.without(&one.recipient).unwrap().count(), 2);
        assert_eq!(one.recipient.without(&one.recipient), None);
        assert!(recipients.has(&one.recipient) && !one.recipient.has(&recipients));
        assert!(matches!(Recipients::parse("# nobody\n"), Err(CryptError::NoRecipients)));
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_secret() {
        let key = NewKey::generate();
        let file = key.file("created: today");
        let secret = file.lines().last().unwrap();
        assert!(secret.starts_with("AGE-SECRET-KEY-1"));
        for word in [secret, &secret.to_lowercase(), "hunter2", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
            let error = Recipients::of([word]).unwrap_err();
            let said = format!("{error} {error:?}").to_lowercase();
            assert!(!said.contains(&secret[20..].to_lowercase()) && !said.contains("hunter2"), "{said}");
        }
        let broken = format!("{}x", &secret[..secret.len() - 1]);
        let error = Identities::parse(&broken).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[20..40]));
        assert_eq!(format!("{:?}", key.identities()), "Identities(1)");
        let unknown = Recipients::of(["age1yubikey1qxyz"]).unwrap_err().to_string();
        assert!(unknown.contains("age1yubikey1qxyz"), "what is public is named: {unknown}");
    }

    #[test]
    fn a_key_of_ssh_opens_what_is_encrypted_to_it() {
        let identity = Identities::parse(include_str!("../fixtures/keys/ssh-ed25519")).unwrap();
        let recipients = Recipients::parse(SSH_KEY).unwrap();
        let stored = sealed(b"for the holder of the key", &recipients);
        assert_eq!(read(stored, &identity).unwrap(), b"for the holder of the key");
        let locked = Identities::parse(include_str!("../fixtures/keys/ssh-ed25519-passphrase"));
        assert!(matches!(locked, Err(CryptError::Passphrase)));
    }
}
