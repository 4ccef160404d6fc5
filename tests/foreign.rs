//! What others wrote is read safely, whatever it is: the functions of `fuzz`, over its corpus and over what seeded
//! random changes make of that.
//!
//! `VOLSNAP_FOREIGN_SECONDS` is for how long each target is tried (1 by default), `VOLSNAP_TEST_SEED` what to begin
//! with; the seed is printed. The input that is being tried lies in the directory of the build for as long as it is: it
//! is there after a panic, an abort or a hang.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here shows where")]
#![expect(clippy::print_stdout, reason = "what was tried, and how to have it again")]

#[expect(unreachable_pub, reason = "it is a library to the programs of libFuzzer")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory, in bytes, that no input may make us ask for: an allocation beyond it aborts the test.
const MEMORY_MAX: u64 = 1 << 30;
/// The longest input that is made.
const LEN_MAX: usize = 256 << 10;

/// Numbers that are where things end, in the ways in which they are written.
const NUMBERS: [&[u8]; 14] = [
    b"0",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"4294967296",
    b"1e400",
    b"77777777777\0",
    &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff; 8],
    &[0; 8],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0, 0, 0, 0x80],
    &[0xff; 4],
];

/// A small generator (splitmix64): the same seed makes the same inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Makes an input out of one of the corpus, by a few changes.
fn changed(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(32)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            5 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                bytes.splice(at..end.min(at + number.len()), number.iter().copied());
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // A word of the input somewhere else in it: keys of JSON and YAML, fields of a header.
            _ => {
                let word = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                let over = (to + word.len()).min(bytes.len());
                bytes.splice(to..over, word);
            }
        }
    }
    bytes.truncate(LEN_MAX);
    bytes
}

fn corpus_of(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn limit_memory() {
    let limit = Rlimit { current: Some(MEMORY_MAX), maximum: getrlimit(Resource::Data).maximum };
    setrlimit(Resource::Data, limit).unwrap();
}

/// Tries a target: first the corpus as it is, then what is made of it, for as long as was asked for.
fn try_target(name: &str) {
    let (_, function) = fuzz::TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    limit_memory();
    let tried = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("foreign-{name}"));
    let attempt = |bytes: &[u8]| {
        fs::write(&tried, bytes).unwrap();
        function(bytes);
    };
    let corpus = corpus_of(name);
    for (file, bytes) in &corpus {
        println!("{}", file.display());
        attempt(bytes);
    }
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let seed = setting("VOLSNAP_TEST_SEED").unwrap_or(4711);
    let lasts = Duration::from_secs(setting("VOLSNAP_FOREIGN_SECONDS").unwrap_or(1));
    println!("{name}: seed {seed}; what is being tried lies in {}", tried.display());
    let (mut random, begin, mut tries) = (Random(seed), Instant::now(), 0_u64);
    while begin.elapsed() < lasts {
        attempt(&changed(&corpus, &mut random));
        tries += 1;
    }
    println!("{name}: {tries} inputs");
    fs::remove_file(tried).unwrap();
}

/// Declares a test for each target, and that none is forgotten.
macro_rules! targets {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            try_target($name);
        })*

        #[test]
        fn every_target_is_tried_and_has_a_program_for_libfuzzer() {
            let names: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$($name),*]);
            let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

targets! {
    any_tar_is_read_or_refused: "tar",
    any_stream_is_decompressed_or_refused: "blocks",
    any_frames_are_taken_apart_or_refused: "frames",
    any_file_list_is_read_or_refused: "file_list",
    any_control_file_is_read_or_refused: "pg_control",
    any_pages_are_judged: "pages",
    any_line_of_the_protocol_is_understood_or_refused: "protocol",
    any_manifest_is_understood_or_refused: "manifest",
    any_journal_is_replayed_or_refused: "journal",
    any_compose_file_is_edited_or_refused: "compose",
}
