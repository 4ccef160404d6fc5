//! Takes apart what goes to an agent, for whoever stands between the two sides: calls, and the pieces of an archive
//! that follow one of them.

use super::calls::Request;
use super::protocol::Event;

/// Something that was said to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A call.
    Call {
        /// The call's name.
        name: &'static str,
        /// Whether pieces of an archive follow.
        followed: bool,
        /// The line as written.
        bytes: Vec<u8>,
    },
    /// A line that is no call.
    Other(Vec<u8>),
    /// A piece of an archive, with its length before it.
    Piece {
        /// Whether it is the empty one.
        last: bool,
        /// The piece as written.
        bytes: Vec<u8>,
    },
}

/// Takes apart what is written to an agent, in pieces of any length.
#[derive(Debug, Default)]
pub struct Dialogue {
    unread: Vec<u8>,
    in_archive: bool,
}

impl Dialogue {
    /// Takes more of what is written; returns what this completes.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Said> {
        self.unread.extend_from_slice(bytes);
        let mut said = Vec::new();
        while let Some(next) = if self.in_archive { self.piece() } else { self.line() } {
            said.push(next);
        }
        said
    }

    fn line(&mut self) -> Option<Said> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let bytes: Vec<u8> = self.unread.drain(..=end).collect();
        let Ok(request) = serde_json::from_slice::<Request>(&bytes) else { return Some(Said::Other(bytes)) };
        self.in_archive = request.is_followed();
        Some(Said::Call { name: request.title(), followed: self.in_archive, bytes })
    }

    fn piece(&mut self) -> Option<Said> {
        let header: [u8; 4] = self.unread.get(..4)?.try_into().ok()?;
        let length = u32::from_le_bytes(header) as usize;
        let end = 4_usize.checked_add(length).filter(|end| *end <= self.unread.len())?;
        let bytes = self.unread.drain(..end).collect();
        self.in_archive = length > 0;
        Some(Said::Piece { last: length == 0, bytes })
    }
}

/// Returns whether a line from the agent answers a call.
#[must_use]
pub fn is_answer(line: &[u8]) -> bool {
    serde_json::from_slice(line).is_ok_and(|event| !matches!(event, Event::Progress { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::calls::{Channel, Extract};
    use crate::agent::extract::ExtractOptions;

    #[test]
    fn calls_and_pieces_are_taken_apart_wherever_they_are_cut() {
        let extract = serde_json::to_string(&Request::Extract(Extract {
            run: "r".to_owned(),
            channel: Channel::Stdin,
            emptied: false,
            options: ExtractOptions::default(),
        }));
        let written = [
            b"{\"room\":{}}\n".to_vec(),
            format!("{}\n", extract.unwrap()).into_bytes(),
            [&2_u32.to_le_bytes()[..], b"\n\n"].concat(),
            0_u32.to_le_bytes().to_vec(),
            b"nonsense\n".to_vec(),
        ];
        let all = written.concat();
        for cut in 0..all.len() {
            let mut dialogue = Dialogue::default();
            let mut said = dialogue.take(&all[..cut]);
            said.extend(dialogue.take(&all[cut..]));
            let [room, extract, piece, last, other] = &said[..] else { panic!("{said:?}") };
            assert!(matches!(room, Said::Call { name: "agent room", followed: false, .. }));
            assert!(matches!(extract, Said::Call { name: "agent extract", followed: true, .. }));
            assert_eq!(*piece, Said::Piece { last: false, bytes: written[2].clone() });
            assert_eq!(*last, Said::Piece { last: true, bytes: written[3].clone() });
            assert_eq!(*other, Said::Other(written[4].clone()));
        }
    }
}
