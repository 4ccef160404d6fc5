//! The bytes around a block: zstd frame headers, the seek table, gzip members with their length.

use super::BLOCK_SIZE;

/// The magic number of a zstd frame.
pub(super) const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// The magic number of the skippable frame that holds a seek table.
pub(super) const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
/// The last four bytes of a stream in the seekable format.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// The seek table's footer: number of frames, descriptor, magic.
pub(super) const SEEK_FOOTER_LEN: usize = 9;

/// A block that claims more is decompressed as a stream: no claim costs memory.
///
/// Twice our own block: frames of other parallel compressors mostly fit as well.
pub(super) const MAX_BLOCK: usize = 2 * BLOCK_SIZE;
/// The most bytes that a block of [`MAX_BLOCK`] may have when compressed.
pub(super) const MAX_PACKED: usize = MAX_BLOCK + MAX_BLOCK / 64 + 4096;

/// Returns the four bytes at `at` as a little-endian number.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

/// Returns whether `magic` begins a skippable frame.
pub(super) fn is_skippable(magic: u32) -> bool {
    magic & 0xFFFF_FFF0 == 0x184D_2A50
}

/// The content of a zstd frame's header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// How many bytes the header has, with the magic.
    pub(super) len: usize,
    /// The size of the content, if the header has it.
    pub(super) content: Option<u64>,
    /// Whether a checksum follows the last block.
    pub(super) checksum: bool,
    /// Whether our writer would write exactly this.
    pub(super) ours: bool,
}

impl FrameHeader {
    /// The longest header.
    pub(super) const MAX_LEN: usize = 18;

    /// Returns the header at the beginning of `bytes`; `None` if it is cut or reserved.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let descriptor = *bytes.get(4)?;
        let single_segment = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size_len = match descriptor >> 6 {
            0 => usize::from(single_segment),
            flag => 1 << flag,
        };
        if descriptor & 0x08 != 0 {
            return None;
        }
        let size_at = 5 + usize::from(!single_segment) + dictionary;
        let size = bytes.get(size_at..size_at + size_len)?;
        let mut number = [0; 8];
        number[..size_len].copy_from_slice(size);
        let number = u64::from_le_bytes(number);
        let content = match size_len {
            0 => None,
            2 => Some(number + 256),
            _ => Some(number),
        };
        let checksum = descriptor & 4 != 0;
        let ours = single_segment && checksum && dictionary == 0 && descriptor & 0x10 == 0;
        Some(Self { len: size_at + size_len, content, checksum, ours })
    }
}

/// One block inside a zstd frame: how long it is with its header, and whether it is the last.
pub(super) fn inner_block(header: &[u8]) -> Option<(usize, bool)> {
    let [a, b, c] = *header.first_chunk::<3>()?;
    let number = u32::from_le_bytes([a, b, c, 0]);
    let size = (number >> 3) as usize;
    let stored = match (number >> 1) & 3 {
        // A run of one byte stores that byte alone.
        1 => 1,
        3 => return None,
        _ => size,
    };
    Some((3 + stored, number & 1 == 1))
}

/// The table by which a reader can begin at any frame.
#[derive(Debug, Default)]
pub(super) struct SeekTable {
    entries: Vec<u8>,
    frames: u32,
}

impl SeekTable {
    /// Adds a frame of `packed` bytes that hold `raw` bytes.
    pub(super) fn push(&mut self, packed: u32, raw: u32) {
        self.entries.extend_from_slice(&seek_entry(packed, raw));
        self.frames += 1;
    }

    /// Returns the table as a skippable frame.
    pub(super) fn into_frame(self) -> Option<Vec<u8>> {
        let len = u32::try_from(self.entries.len() + SEEK_FOOTER_LEN).ok()?;
        let mut frame = Vec::with_capacity(self.entries.len() + 8 + SEEK_FOOTER_LEN);
        frame.extend_from_slice(&SEEK_TABLE_MAGIC.to_le_bytes());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&self.entries);
        frame.extend_from_slice(&seek_footer(self.frames));
        Some(frame)
    }
}

/// Returns a frame's line in the seek table.
pub(super) fn seek_entry(packed: u32, raw: u32) -> [u8; 8] {
    let mut entry = [0; 8];
    entry[..4].copy_from_slice(&packed.to_le_bytes());
    entry[4..].copy_from_slice(&raw.to_le_bytes());
    entry
}

/// Returns what ends a seek table without checksums.
pub(super) fn seek_footer(frames: u32) -> [u8; SEEK_FOOTER_LEN] {
    let mut footer = [0; SEEK_FOOTER_LEN];
    footer[..4].copy_from_slice(&frames.to_le_bytes());
    footer[5..].copy_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    footer
}

/// The header of our gzip members: no name, no time, and an extra field `VS` with the length of the
/// whole member.
const MEMBER_HEADER: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 8, 0, b'V', b'S', 4, 0];
/// The length of a member's header, its length field included.
pub(super) const MEMBER_HEADER_LEN: usize = MEMBER_HEADER.len() + 4;
/// CRC-32 and size after the data of a member.
pub(super) const MEMBER_TRAILER_LEN: usize = 8;

/// Returns the header of a member that is `len` bytes long in all.
pub(super) fn member_header(len: u32) -> [u8; MEMBER_HEADER_LEN] {
    let mut header = [0; MEMBER_HEADER_LEN];
    header[..MEMBER_HEADER.len()].copy_from_slice(&MEMBER_HEADER);
    header[MEMBER_HEADER.len()..].copy_from_slice(&len.to_le_bytes());
    header
}

/// Returns the length of the member at the beginning of `bytes`, if its header is one of ours.
pub(super) fn member_len(bytes: &[u8]) -> Option<usize> {
    bytes.starts_with(&MEMBER_HEADER).then_some(())?;
    u32_at(bytes, MEMBER_HEADER.len()).map(|len| len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_header_is_read_as_zstd_writes_it() {
        for (len, checksum) in [(0, true), (200, false), (300, true), (70_000, false), (5 << 20, true)] {
            let mut context = zstd::zstd_safe::CCtx::create();
            context.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(checksum)).unwrap();
            let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(len));
            context.compress2(&mut packed, &vec![7; len]).unwrap();
            let header = FrameHeader::parse(&packed).unwrap();
            assert_eq!((header.content, header.checksum), (Some(len as u64), checksum));
            let mut at = header.len;
            loop {
                let (len, last) = inner_block(&packed[at..]).unwrap();
                at += len;
                if last {
                    break;
                }
            }
            assert_eq!(at + if checksum { 4 } else { 0 }, packed.len());
        }
    }
}
