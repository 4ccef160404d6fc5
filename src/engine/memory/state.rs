//! The objects of the engine: containers, volumes, images.

use std::collections::BTreeMap;

use super::agent::Streams;
use super::postgres::Server;
use super::program::{Behaviour, Program};
use crate::model::container::{Container, Image, MountKind, Volume};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) containers: Vec<Record>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) images: Vec<KnownImage>,
    pub(super) scripts: BTreeMap<String, Behaviour>,
    pub(super) violations: Vec<String>,
    /// Whether it is on another machine.
    pub(super) is_remote: bool,
    /// The room that every agent reports where its source lies, in place of the real one.
    pub(super) free_bytes: Option<u64>,
    /// The protocol that agents of an image claim to speak, in place of ours.
    pub(super) protocols: BTreeMap<String, u32>,
    serial: u64,
}

/// What an agent tells in place of the truth.
#[derive(Debug, Clone, Default)]
pub(super) struct Pretence {
    /// The room where its source lies.
    pub(super) free_bytes: Option<u64>,
    /// The version of the protocol.
    pub(super) protocol: Option<u32>,
}

/// An image, and what containers of it have.
#[derive(Debug, Clone)]
pub(super) struct KnownImage {
    pub(super) image: Image,
    pub(super) env: Vec<String>,
}

/// A container, and what runs in it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) container: Container,
    pub(super) program: Program,
    pub(super) log: String,
    /// The server that runs in it.
    pub(super) server: Option<Server>,
    /// Its streams, once somebody has attached, until its program takes them.
    pub(super) streams: Option<Streams>,
    /// Ends its standard input.
    pub(super) hang_up: Option<super::agent::HangUp>,
    /// Whether it was asked to stop and has not stopped yet.
    pub(super) stopping: bool,
}

impl State {
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Returns a new id; it is the same in every run of a test.
    pub(super) fn next_id(&mut self) -> String {
        let serial = self.next_serial();
        blake3::hash(format!("container {serial}").as_bytes()).to_hex().to_string()
    }

    /// Finds a container by id, exact name, or the start of an id that is long enough.
    pub(super) fn find(&self, id: &str) -> Option<&Record> {
        self.containers.iter().find(|record| is_meant(&record.container, id))
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.containers.iter_mut().find(|record| is_meant(&record.container, id))
    }

    /// Returns the containers that mount a volume.
    pub(super) fn users_of(&self, volume: &str) -> impl Iterator<Item = &Record> {
        let mounts = move |record: &&Record| {
            let mut mounts = record.container.mounts.iter();
            mounts.any(|mount| mount.kind == MountKind::Volume && mount.volume.as_deref() == Some(volume))
        };
        self.containers.iter().filter(mounts)
    }

    pub(super) fn image(&self, reference: &str) -> Option<&KnownImage> {
        let is_meant = |known: &&KnownImage| {
            let image = &known.image;
            image.id == reference
                || image.tags.iter().any(|tag| tag == reference)
                || image.repo_digests.iter().any(|digest| digest == reference)
        };
        self.images.iter().find(is_meant)
    }

    /// Returns what the agent of an image tells in place of the truth.
    pub(super) fn pretence_of(&self, image: &str) -> Pretence {
        Pretence { free_bytes: self.free_bytes, protocol: self.protocols.get(image).copied() }
    }

    pub(super) fn add_image(&mut self, tag: &str, env: &[&str], created: String) {
        self.move_tag(tag);
        let image = Image {
            id: format!("sha256:{}", blake3::hash(tag.as_bytes()).to_hex()),
            tags: vec![tag.to_owned()],
            created,
            ..Image::default()
        };
        let env = env.iter().map(|pair| (*pair).to_owned()).collect();
        self.images.push(KnownImage { image, env });
    }

    pub(super) fn import_image(&mut self, tag: &str, labels: &BTreeMap<String, String>, created: String) {
        self.move_tag(tag);
        let serial = self.next_serial();
        let image = Image {
            id: format!("sha256:{}", blake3::hash(format!("{tag} {serial}").as_bytes()).to_hex()),
            tags: vec![tag.to_owned()],
            labels: labels.clone(),
            created,
            ..Image::default()
        };
        self.images.push(KnownImage { image, env: Vec::new() });
    }

    /// Takes a tag away from the image that has it.
    fn move_tag(&mut self, tag: &str) {
        for known in &mut self.images {
            known.image.tags.retain(|other| other != tag);
        }
    }
}

fn is_meant(container: &Container, id: &str) -> bool {
    container.id == id || container.name == id || (id.len() >= 12 && container.id.starts_with(id))
}
