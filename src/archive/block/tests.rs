//! Streams survive, ours and those of plain tools, and no damage to one passes unnoticed.

use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::archive::{ArchiveError, BlockProblem, Codec, TarReader};

const CODECS: [Codec; 3] = [Codec::Zstd { level: 1 }, Codec::Gzip { level: 1 }, Codec::None];

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    // GNU tar reports sockets, which it skips as we do.
    let ours: Vec<_> = complaint.lines().filter(|line| !line.contains("socket ignored")).collect();
    assert!(output.status.success() && ours.is_empty(), "{command:?}: {ours:?}");
    feeding.join().unwrap().unwrap();
    output.stdout
}

/// Bytes of which half compress, some blocks of them.
fn stream(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut bytes);
    for chunk in bytes.chunks_mut(1000).step_by(2) {
        chunk.fill(b'x');
    }
    bytes
}

fn pack(raw: &[u8], codec: Codec) -> Vec<u8> {
    let options = BlockOptions { codec, threads: 2, ..BlockOptions::default() };
    let mut writer = BlockWriter::new(Vec::new(), &options).unwrap();
    writer.write_all(raw).unwrap();
    let (packed, stats) = writer.finish().unwrap();
    assert_eq!((stats.raw_bytes, stats.stored_bytes), (raw.len() as u64, packed.len() as u64));
    packed
}

fn unpack(packed: &[u8], origin: Origin) -> Result<Vec<u8>, ArchiveError> {
    let mut raw = Vec::new();
    let mut reader = BlockReader::with_threads(packed, origin, 2)?;
    reader.read_to_end(&mut raw).map_err(|error| ArchiveError::reading("test", error))?;
    Ok(raw)
}

fn block_problem(packed: &[u8], origin: Origin) -> (u64, BlockProblem) {
    match unpack(packed, origin) {
        Err(ArchiveError::Block { block, problem, .. }) => (block, problem),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the damage passed"),
    }
}

#[test]
fn streams_survive_blocks_of_any_number() {
    for len in [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE + 17] {
        let raw = stream(len);
        for codec in CODECS {
            let packed = pack(&raw, codec);
            for origin in [Origin::Volsnap, Origin::Foreign] {
                assert!(unpack(&packed, origin).unwrap() == raw, "{codec} {len}");
            }
        }
    }
}

#[test]
fn plain_tools_decompress_our_streams() {
    let raw = stream(2 * BLOCK_SIZE + 5);
    assert!(run(Command::new("zstd").arg("-dc"), &pack(&raw, CODECS[0])) == raw);
    assert!(run(Command::new("gzip").arg("-dc"), &pack(&raw, CODECS[1])) == raw);
}

#[test]
fn the_streams_of_plain_tools_are_decompressed() {
    let raw = stream(2 * BLOCK_SIZE + 5);
    let zstd = |args: &[&str]| run(Command::new("zstd").args(args), &raw);
    let gzip = run(Command::new("gzip").arg("-1"), &raw);
    let sized = zstd::bulk::compress(&raw, 1).unwrap();
    let small = zstd::bulk::compress(&raw[..1000], 1).unwrap();
    for packed in [zstd(&["-1"]), zstd(&["-1", "--no-check"]), zstd(&["--fast=5", "-T2"]), gzip, sized] {
        assert!(unpack(&packed, Origin::Foreign).unwrap() == raw);
        let truncated = block_problem(&packed[..packed.len() - 1], Origin::Foreign).1;
        assert_eq!(truncated, BlockProblem::Truncated);
    }
    // Frames that fit a block, then one that does not: the reader changes its way once.
    let mixed = [small.clone(), small, zstd(&["-1"])].concat();
    let expected = [&raw[..1000], &raw[..1000], &raw].concat();
    assert!(unpack(&mixed, Origin::Foreign).unwrap() == expected);
    let members = [pack(&raw, CODECS[1]), run(Command::new("gzip").arg("-1"), &raw)].concat();
    assert!(unpack(&members, Origin::Foreign).unwrap() == [raw.clone(), raw].concat());
}

#[test]
fn a_truncated_stream_is_noticed_wherever_it_ends() {
    let raw = stream(3 * BLOCK_SIZE + 100);
    for codec in &CODECS[..2] {
        let packed = pack(&raw, *codec);
        let step = packed.len() / 64;
        for len in (1..64).map(|n| n * step).chain(packed.len() - 20..packed.len()) {
            let problem = block_problem(&packed[..len], Origin::Volsnap).1;
            assert_eq!(problem, BlockProblem::Truncated, "{codec} {len}");
        }
    }
    // A zstd stream that ends between blocks has lost its seek table.
    let packed = pack(&raw, CODECS[0]);
    let table = 8 + 4 * 8 + 9;
    let (block, problem) = block_problem(&packed[..packed.len() - table], Origin::Volsnap);
    assert_eq!((block, problem), (4, BlockProblem::Truncated));
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let (small, large) = (stream(700), stream(BLOCK_SIZE + 100));
    for codec in &CODECS[..2] {
        let packed = pack(&small, *codec);
        (0..packed.len() * 8).for_each(|bit| assert_flip_is_noticed(&small, &packed, *codec, bit));
        let packed = pack(&large, *codec);
        let places = (0..packed.len() * 8).step_by(packed.len() / 3);
        places.for_each(|bit| assert_flip_is_noticed(&large, &packed, *codec, bit));
    }
}

fn assert_flip_is_noticed(raw: &[u8], packed: &[u8], codec: Codec, bit: usize) {
    let mut damaged = packed.to_vec();
    damaged[bit / 8] ^= 1 << (bit % 8);
    // Without its magic a stream passes for a bare tar; the tar reader will not have it.
    let reader = BlockReader::with_threads(damaged.as_slice(), Origin::Volsnap, 2).unwrap();
    assert!(TarReader::new(reader).next_entry().is_err(), "{codec} bit {bit}");
    // A deflate stream has unused bits; any other changes what is read.
    let is_same = unpack(&damaged, Origin::Volsnap).is_ok_and(|read| read == raw);
    assert!(!is_same || matches!(codec, Codec::Gzip { .. }), "{codec} bit {bit}");
}

#[test]
fn damage_names_its_block_and_what_came_before_it_is_read() {
    let raw = stream(4 * BLOCK_SIZE);
    for codec in &CODECS[..2] {
        let mut packed = pack(&raw, *codec);
        let middle = packed.len() * 5 / 8;
        packed[middle] ^= 0x10;
        assert_eq!(block_problem(&packed, Origin::Volsnap).0, 2);
        let mut reader = BlockReader::with_threads(packed.as_slice(), Origin::Volsnap, 2).unwrap();
        let mut before = vec![0; 2 * BLOCK_SIZE];
        reader.read_exact(&mut before).unwrap();
        assert!(before == raw[..2 * BLOCK_SIZE]);
        assert!(reader.fill_buf().is_err());
        assert!(reader.fill_buf().is_err(), "nothing is read after damage");
    }
}

#[test]
fn what_follows_a_stream_is_noticed() {
    for (codec, origin) in [
        (CODECS[0], Origin::Volsnap),
        (CODECS[0], Origin::Foreign),
        (CODECS[1], Origin::Volsnap),
        (CODECS[1], Origin::Foreign),
    ] {
        let mut packed = pack(b"content", codec);
        packed.extend_from_slice(b"garbage after the end");
        assert_eq!(block_problem(&packed, origin).1, BlockProblem::TrailingGarbage, "{codec}");
    }
}

#[test]
fn a_wrong_checksum_is_told_from_other_damage() {
    let mut packed = pack(&stream(5000), CODECS[1]);
    let crc = packed.len() - 8;
    packed[crc] ^= 1;
    assert_eq!(block_problem(&packed, Origin::Volsnap), (0, BlockProblem::Checksum));
    let mut packed = pack(&stream(5000), CODECS[0]);
    let checksum = packed.len() - (8 + 8 + 9) - 4;
    packed[checksum] ^= 1;
    assert_eq!(block_problem(&packed, Origin::Volsnap), (0, BlockProblem::Checksum));
}

#[test]
fn a_bomb_costs_no_memory() {
    // A frame that says it holds 1 GiB, and one that says nothing and asks for a 2 GiB window.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_pledged_src_size(Some(1 << 30)).unwrap();
    encoder.include_contentsize(true).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let mut reader = BlockReader::with_threads(bomb.as_slice(), Origin::Foreign, 2).unwrap();
    assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), 1 << 30);
    assert!(unpack(&bomb, Origin::Volsnap).is_err(), "none of our blocks is so large");
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0];
    assert!(unpack(&window, Origin::Foreign).is_err());
}
