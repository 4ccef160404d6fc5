//! The packets of SFTP, version 3, as every server speaks it: <https://filezilla-project.org/specs/draft-ietf-secsh-filexfer-02.txt>.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The version that is spoken.
pub(super) const VERSION: u32 = 3;
/// A longer packet no server sends: what comes there is no SFTP.
pub(super) const PACKET_MAX: u32 = 1 << 20;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ask {
    Open = 3,
    Close = 4,
    Read = 5,
    Write = 6,
    Lstat = 7,
    Opendir = 11,
    Readdir = 12,
    Remove = 13,
    Mkdir = 14,
    Stat = 17,
    Rename = 18,
    Extended = 200,
}

/// The first packet, and the kinds of answers.
pub(super) const INIT: u8 = 1;
pub(super) const HELLO: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;
const EXTENDED: u8 = 201;

/// How a file is opened.
pub(super) const READ: u32 = 1;
pub(super) const CREATE_NEW: u32 = 0x02 | 0x08 | 0x20;

/// The status codes that mean something here.
pub(super) const OK: u32 = 0;
pub(super) const END: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const UNSUPPORTED: u32 = 8;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 0x8000_0000;
const TYPE: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// What is known of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<u32>,
}

impl Attributes {
    pub(super) fn is_folder(self) -> bool {
        self.mode.is_some_and(|mode| mode & TYPE == FOLDER)
    }

    pub(super) fn is_file(self) -> bool {
        self.mode.is_some_and(|mode| mode & TYPE == FILE)
    }

    pub(super) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.modified.unwrap_or_default().into())
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status { code: u32, said: String },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<(String, Attributes)>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// Writes a text, or other bytes, with their length.
pub(super) fn put_text(packet: &mut BytesMut, text: &[u8]) {
    packet.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    packet.put_slice(text);
}

/// Returns a request, ready to be sent.
pub(super) fn request(ask: Ask, id: u32, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut packet = BytesMut::new();
    packet.put_u32(0);
    packet.put_u8(ask as u8);
    packet.put_u32(id);
    body(&mut packet);
    let length = u32::try_from(packet.len() - 4).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet.freeze()
}

/// Writes attributes that say only the mode; none, if there is none.
pub(super) fn put_mode(packet: &mut BytesMut, mode: Option<u32>) {
    match mode {
        None => packet.put_u32(0),
        Some(mode) => {
            packet.put_u32(HAS_MODE);
            packet.put_u32(mode);
        }
    }
}

/// Reads what a packet holds: each part fails where the packet ends too early.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn byte(&mut self) -> io::Result<u8> {
        self.0.try_get_u8().map_err(cut)
    }

    pub(super) fn number(&mut self) -> io::Result<u32> {
        self.0.try_get_u32().map_err(cut)
    }

    pub(super) fn long(&mut self) -> io::Result<u64> {
        self.0.try_get_u64().map_err(cut)
    }

    pub(super) fn bytes(&mut self) -> io::Result<Bytes> {
        let length = self.number()? as usize;
        if length > self.0.len() { Err(cut(())) } else { Ok(self.0.split_to(length)) }
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    fn attributes(&mut self) -> io::Result<Attributes> {
        let has = self.number()?;
        let mut attributes = Attributes::default();
        if has & HAS_SIZE != 0 {
            attributes.size = Some(self.long()?);
        }
        if has & HAS_OWNER != 0 {
            self.long()?;
        }
        if has & HAS_MODE != 0 {
            attributes.mode = Some(self.number()?);
        }
        if has & HAS_TIMES != 0 {
            self.number()?;
            attributes.modified = Some(self.number()?);
        }
        if has & HAS_MORE != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attributes)
    }

    /// Returns the answer, and to which request it is.
    pub(super) fn reply(mut self) -> io::Result<(u32, Reply)> {
        let (kind, id) = (self.byte()?, self.number()?);
        let reply = match kind {
            // The words are not there in every server's.
            STATUS => Reply::Status { code: self.number()?, said: self.text().unwrap_or_default() },
            HANDLE => Reply::Handle(self.bytes()?),
            DATA => Reply::Data(self.bytes()?),
            NAME => {
                let mut names = Vec::new();
                for _ in 0..self.number()? {
                    let name = self.text()?;
                    self.bytes()?;
                    names.push((name, self.attributes()?));
                }
                Reply::Names(names)
            }
            ATTRIBUTES => Reply::Attributes(self.attributes()?),
            EXTENDED => Reply::Extended(self.0),
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("an answer of the unknown kind {other}"),
                ));
            }
        };
        Ok((id, reply))
    }
}

fn cut<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer ends too early")
}

/// Returns the kind of error that a status is.
pub(super) fn kind_of(code: u32) -> io::ErrorKind {
    match code {
        NO_SUCH_FILE => io::ErrorKind::NotFound,
        PERMISSION_DENIED => io::ErrorKind::PermissionDenied,
        UNSUPPORTED => io::ErrorKind::Unsupported,
        END => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_its_length_its_kind_and_its_number() {
        let packet = request(Ask::Remove, 7, |packet| put_text(packet, b"/a"));
        assert_eq!(&packet[..], b"\0\0\0\x0b\x0d\0\0\0\x07\0\0\0\x02/a");
    }

    #[test]
    fn names_are_read_with_what_is_known_of_each() {
        let mut packet = BytesMut::new();
        packet.put_u8(NAME);
        packet.put_u32(9);
        packet.put_u32(1);
        put_text(&mut packet, b"db-1.json");
        put_text(&mut packet, b"-rw------- 1 root root 12 Nov 30 db-1.json");
        packet.put_u32(HAS_SIZE | HAS_OWNER | HAS_MODE | HAS_TIMES | HAS_MORE);
        packet.put_u64(12);
        packet.put_u64(0);
        packet.put_u32(0o100_600);
        packet.put_u32(1);
        packet.put_u32(1_795_000_000);
        packet.put_u32(1);
        put_text(&mut packet, b"more@example");
        put_text(&mut packet, b"x");
        let (id, reply) = Reader(packet.freeze()).reply().unwrap();
        let Reply::Names(names) = reply else { panic!("{reply:?}") };
        let (name, attributes) = &names[0];
        assert_eq!((id, name.as_str(), names.len()), (9, "db-1.json", 1));
        assert!(attributes.is_file() && !attributes.is_folder());
        assert_eq!((attributes.size, attributes.modified), (Some(12), Some(1_795_000_000)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader(bytes.into()).reply();
        }
    }
}
