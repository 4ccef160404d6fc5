//! The id of a snapshot, which is also the id of the run that makes it, and the id of a group. Pure data.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

/// The format of the moment in an id.
const ID_TIME: &str = "%Y%m%dT%H%M%SZ";

/// A snapshot's id: the moment at which it began and six random hexadecimal digits, such as
/// `20261120T203011Z-4f2a91`. Ids sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SnapshotId(String);

/// The id that the snapshots of one moment share. Its format is that of a snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(SnapshotId);

impl From<SnapshotId> for GroupId {
    fn from(run: SnapshotId) -> Self {
        Self(run)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no snapshot id, which looks like 20261120T203011Z-4f2a91")]
pub struct InvalidId {
    /// The text.
    pub text: String,
}

impl SnapshotId {
    /// Returns the id of a snapshot that began at `started`; `random` tells apart those of one
    /// second.
    #[must_use]
    pub fn new(started: DateTime<Utc>, random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        Self(format!("{}-{a:02x}{b:02x}{c:02x}", started.format(ID_TIME)))
    }

    /// Returns the moment in the id: when its run began.
    #[must_use]
    pub fn begun(&self) -> Option<DateTime<Utc>> {
        let (moment, _) = self.0.split_once('-')?;
        NaiveDateTime::parse_from_str(moment, ID_TIME).ok().map(|moment| moment.and_utc())
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_id = text.split_once('-').is_some_and(|(moment, random)| {
            is_moment(moment)
                && random.len() == 6
                && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if is_id { Ok(Self(text.to_owned())) } else { Err(InvalidId { text: text.to_owned() }) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether the text is a moment that exists, in exactly the format of ids.
fn is_moment(text: &str) -> bool {
    // chrono is lenient about widths and signs: compare with what it would write itself.
    NaiveDateTime::parse_from_str(text, ID_TIME)
        .is_ok_and(|moment| text.len() == 16 && moment.format(ID_TIME).to_string() == text)
}
