//! What is read of bytes that others wrote, one function each: whatever the bytes, it returns, with no panic and no
//! memory that a header merely claims. Where more can be said of a result than that, it is asserted.
//!
//! The targets in `fuzz_targets` give these functions to libFuzzer; `tests/foreign.rs` runs the very same over the
//! corpus and over what it makes of it, on a stable compiler.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use volsnap::agent::calls::Request;
use volsnap::agent::protocol::Event;
use volsnap::archive::{
    BlockReader, FileListReader, FileListWriter, FrameDecoder, FrameKind, Origin, Segment, TarReader,
};
use volsnap::compose::edit::{
    EditOptions, MountChange, ProjectFiles, differences, edit, edit_override, references,
};
use volsnap::compose::environment::{interpolate, variables_of};
use volsnap::database::postgres::control::ControlFile;
use volsnap::database::postgres::page::{PageChecker, RelationFile};
use volsnap::model::location::MountSource;
use volsnap::model::manifest::Manifest;
use volsnap::saga::Journal;
use volsnap::undo::Undo;

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("tar", tar),
    ("blocks", blocks),
    ("frames", frames),
    ("file_list", file_list),
    ("pg_control", pg_control),
    ("pages", pages),
    ("protocol", protocol),
    ("manifest", manifest),
    ("journal", journal),
    ("compose", compose),
];

/// How much of what is decompressed is looked at: bombs are let be.
const ENOUGH: u64 = 8 << 20;

/// A tar, as it is and with the checksums of its headers made right.
pub fn tar(bytes: &[u8]) {
    read_tar(bytes);
    let mut mended = bytes.to_vec();
    for record in mended.chunks_exact_mut(512).filter(|record| &record[257..262] == b"ustar") {
        record[148..156].fill(b' ');
        let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
        record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    read_tar(&mended);
}

/// A file's content is as long as its entry says.
fn read_tar(bytes: &[u8]) {
    let mut reader = TarReader::new(bytes);
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut len = 0_u64;
        loop {
            match reader.next_segment() {
                Ok(Some(Segment::Hole(hole))) => len += hole,
                Ok(Some(Segment::Data(data))) => len += data.len() as u64,
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if entry.kind == volsnap::archive::EntryKind::File {
            assert_eq!(len, entry.size, "{entry:?}");
        }
    }
}

/// A compressed stream, ours or another's. What is read as ours, is also read as another's, and is the same.
pub fn blocks(bytes: &[u8]) {
    let read = |origin| {
        let reader = BlockReader::with_threads(Cursor::new(bytes.to_vec()), origin, 1).ok()?;
        let mut raw = Vec::new();
        reader.take(ENOUGH).read_to_end(&mut raw).ok().map(|_| raw)
    };
    if let Some(ours) = read(Origin::Volsnap) {
        assert!(read(Origin::Foreign) == Some(ours), "it is another stream to a stranger");
    }
}

/// Frames, whole and in pieces of which the first byte tells the length: both give the same.
pub fn frames(bytes: &[u8]) {
    let (piece, bytes) =
        bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first).max(1), rest));
    let take_apart = |piece: usize| {
        let mut decoder = FrameDecoder::new();
        let mut payloads: BTreeMap<bool, Vec<u8>> = BTreeMap::new();
        let mut is_sound = true;
        'all: for arrived in bytes.chunks(piece.max(1)) {
            for payload in decoder.push(arrived) {
                let Ok((kind, payload)) = payload else {
                    is_sound = false;
                    break 'all;
                };
                payloads.entry(kind == FrameKind::Archive).or_default().extend_from_slice(payload);
            }
        }
        (payloads, is_sound && decoder.finish().is_ok())
    };
    assert_eq!(take_apart(piece), take_apart(bytes.len()));
}

/// A file list, compressed, or as the lines in it. What is read can be written, and read again.
pub fn file_list(bytes: &[u8]) {
    read_file_list(bytes);
    if let Ok(packed) = zstd::encode_all(bytes, 1) {
        read_file_list(&packed);
    }
}

fn read_file_list(packed: &[u8]) {
    let Ok(reader) = FileListReader::new(packed) else { return };
    let records: Vec<_> = reader.take(10_000).map_while(Result::ok).collect();
    let Ok(mut writer) = FileListWriter::new(Vec::new()) else { return };
    for record in &records {
        if writer.append(record).is_err() {
            return;
        }
    }
    let written = writer.finish().expect("a vector takes everything");
    let again: Vec<_> =
        FileListReader::new(written.as_slice()).into_iter().flatten().map_while(Result::ok).collect();
    assert_eq!(again, records);
}

/// A control file, as it is, and with each layout's checksum made right.
pub fn pg_control(bytes: &[u8]) {
    read_control(bytes);
    for at in [288, 292, 304] {
        let mut mended = bytes.to_vec();
        if let Some(place) = mended.get_mut(at..at + 4) {
            place.copy_from_slice(&crc32c::crc32c(&bytes[..at]).to_le_bytes());
            read_control(&mended);
        }
    }
}

fn read_control(bytes: &[u8]) {
    if let Ok(control_file) = ControlFile::parse(bytes) {
        let _ = format!(
            "{control_file:?} {} {}",
            control_file.redo_wal_file(),
            control_file.checkpoint_wal_file()
        );
        let _ = (control_file.min_recovery_wal_file(), control_file.next_transaction());
    }
}

/// Pages of a relation, whole and in pieces: both give the same.
pub fn pages(bytes: &[u8]) {
    for (page_size, name) in
        [(8192, "base/5/16384"), (1024, "base/5/16384_vm.4294967295"), (0, "global/1260")]
    {
        let Some(relation_file) = RelationFile::parse(Path::new(name)) else { continue };
        let check = |piece: usize| {
            let mut checker = PageChecker::new(relation_file, page_size, 131_072);
            bytes.chunks(piece).for_each(|piece| checker.feed(piece));
            checker.finish()
        };
        assert_eq!(check(bytes.len().max(1)), check(1000));
    }
    let _ = std::str::from_utf8(bytes).map(|name| RelationFile::parse(Path::new(name)));
}

/// A line between command and agent. What is understood is said again, and understood as the same.
pub fn protocol(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let said = serde_json::to_vec(&request).expect("a request is JSON");
        assert_eq!(serde_json::from_slice::<Request>(&said).ok(), Some(request));
    }
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let said = serde_json::to_vec(&event).expect("an event is JSON");
        assert_eq!(serde_json::from_slice::<Event>(&said).ok(), Some(event));
    }
}

/// A manifest, as it is, and with its seal made right. What is understood is written, and understood as the same.
pub fn manifest(bytes: &[u8]) {
    read_manifest(bytes);
    let text = String::from_utf8_lossy(bytes);
    let body =
        text.rsplit_once(",\n  \"seal\"").map_or(text.trim_end().trim_end_matches('}'), |(body, _)| body);
    let seal = blake3::hash(body.as_bytes()).to_hex();
    read_manifest(format!("{body},\n  \"seal\": \"{seal}\"\n}}\n").as_bytes());
}

fn read_manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::from_json(bytes) else { return };
    let _ = (manifest.location(), manifest.archive(), manifest.file_list(), manifest.counts());
    let _ = (manifest.mounted_at(), manifest.is_safety(), manifest.later_facts());
    let written = manifest.to_json().expect("a manifest is JSON");
    let again = Manifest::from_json(written.as_bytes()).expect("it was just written");
    assert_eq!(again.to_json().ok(), Some(written));
}

/// The lines of a journal, among them what another volsnap wrote, and a torn one.
pub fn journal(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let Some(journal) = Journal::<Undo>::from_memory(Path::new("/journal"), &lines) else { return };
    let _ = (journal.info(), journal.version(), journal.newer_lines(), journal.has_succeeded());
    for entry in journal.open_entries() {
        let _ = (entry.describe(), entry.rank(), entry.undo());
    }
}

/// A Compose file, of which a mount is to be another.
pub fn compose(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (directory, file) = (PathBuf::from("/project"), PathBuf::from("/project/compose.yaml"));
    let environment = variables_of(text);
    let _ = interpolate(text, &environment);
    let _ = references(text, &file, &directory, &environment);
    let project = ProjectFiles {
        project: "shop".to_owned(),
        directory,
        files: vec![file.clone()],
        texts: BTreeMap::from([(file, text.to_owned())]),
        environment,
        unused_override: None,
    };
    let (service, destination) = ("db".to_owned(), PathBuf::from("/var/lib/postgresql/data"));
    let volume = MountSource::Volume("shop_db_data".to_owned());
    let change = MountChange {
        service: service.clone(),
        destination: destination.clone(),
        from: volume.clone(),
        to: MountSource::Directory(PathBuf::from("/srv/shop/db")),
    };
    let changes = [change];
    for guards_source in [false, true] {
        let options = EditOptions { guards_source };
        if let Ok(edits) = edit(&project, &changes, options) {
            edits.iter().for_each(|edit| assert_ne!(edit.before.as_deref(), edit.after.as_deref()));
            // What is made already needs no edit.
            let mut edited = project.clone();
            edited.texts.extend(edits.into_iter().filter_map(|edit| Some((edit.path, edit.after?))));
            assert_eq!(edit_count(&edited, &changes, options), Some(0));
        }
        let _ = edit_override(&project, &changes, options);
    }
    let _ = differences(&project, &[(service, destination, volume)]);
}

fn edit_count(project: &ProjectFiles, changes: &[MountChange], options: EditOptions) -> Option<usize> {
    edit(project, changes, options).ok().map(|edits| edits.len())
}
