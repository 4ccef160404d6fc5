//! Who wants a database's log: standbys, and consumers of its changes. Pure data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a replication slot hands out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// The log as it is: to a standby, or to whoever archives it.
    Physical,
    /// The changes of one database, decoded: to a subscription, or to a program that follows them.
    Logical,
    /// The slot's file could not be read.
    #[default]
    Unknown,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
            Self::Unknown => "of unknown kind",
        })
    }
}

/// A replication slot in the files of a database: the server keeps its log for the slot's consumer, for as long as that
/// takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSlot {
    /// Its name.
    pub name: String,
    /// What it hands out.
    pub kind: SlotKind,
    /// The output plugin of a logical one: "pgoutput".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The number of the database that a logical one is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<u32>,
    /// From where on the log is kept for it: "0/3000148".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

impl StoredSlot {
    /// Returns a slot of which only the name is known.
    #[must_use]
    pub fn unread(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

/// Who takes, or may take, the log of a running database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The slot that keeps the log for it, if it has one.
    #[serde(default)]
    pub slot: Option<String>,
    /// What it is given.
    pub kind: SlotKind,
    /// The database that a logical one follows, by name.
    #[serde(default)]
    pub database: Option<String>,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether it keeps the log itself, as an archive does, and is no standby.
    #[serde(default)]
    pub archives: bool,
    /// What it calls itself: "walreceiver".
    #[serde(default)]
    pub application: Option<String>,
    /// Where it connects from; `None` for the server's own machine, and for one that is not connected.
    #[serde(default)]
    pub address: Option<String>,
    /// Bytes of log that its slot keeps; `None` without a slot, or if the log it wants is gone already.
    #[serde(default)]
    pub retained_bytes: Option<u64>,
}

impl Consumer {
    /// Returns what a person calls it: "standby walreceiver at 172.18.0.3 (slot a)".
    #[must_use]
    pub fn title(&self) -> String {
        let what = match self.kind {
            SlotKind::Physical if self.archives => "archive of the log",
            SlotKind::Physical => "standby",
            SlotKind::Logical => "subscriber",
            SlotKind::Unknown => "consumer",
        };
        let mut title = what.to_owned();
        let mut add = |text: &str| title.push_str(text);
        if let Some(application) = self.application.as_deref().filter(|name| !name.is_empty()) {
            add(&format!(" {application}"));
        }
        if let Some(address) = &self.address {
            add(&format!(" at {address}"));
        }
        if let Some(slot) = &self.slot {
            add(&format!(" (slot {slot})"));
        }
        title
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_called_by_what_is_known_of_it() {
        let standby = Consumer {
            slot: Some("east".into()),
            kind: SlotKind::Physical,
            connected: true,
            application: Some("walreceiver".into()),
            address: Some("172.18.0.3".into()),
            ..Consumer::default()
        };
        assert_eq!(standby.title(), "standby walreceiver at 172.18.0.3 (slot east)");
        let subscriber =
            Consumer { kind: SlotKind::Logical, slot: Some("app".into()), ..Consumer::default() };
        assert_eq!(subscriber.title(), "subscriber (slot app)");
    }
}
