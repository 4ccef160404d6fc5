//! `verify` notices whatever happens to a snapshot's files, and says to which.
//!
//! Rows F18, F19 and F20 of the catalogue of faults: truncation at every 64th, flipped bits everywhere, and
//! files of one snapshot under the name of another.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use volsnap::archive::Codec;
use volsnap::repository::Snapshot;

use crate::hand_made::{Changed, Recipe, database, id, list_path, make, tree};
use crate::program::{Ran, Volsnap};

const CODECS: [Codec; 3] = [Codec::Zstd { level: 3 }, Codec::Gzip { level: 1 }, Codec::None];

/// Returns the problems that `verify --json` has, after it failed as it must.
#[track_caller]
fn problems(ran: &Ran) -> Vec<Value> {
    let stdout = ran.expect(3).stdout();
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"));
    assert_eq!(report["ok"], false, "{report}");
    let problems = report["problems"].as_array().unwrap().clone();
    assert!(!problems.is_empty(), "{report}");
    assert!(problems.iter().all(|problem| problem["what"].is_string()), "{report}");
    problems
}

/// Returns all that is said of the problems.
fn said(problems: &[Value]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn snapshot_of(volsnap: &Volsnap, codec: Codec) -> (TempDir, Snapshot) {
    let tree = tree(1);
    let snapshot = make(volsnap, tree.path(), &Recipe { codec, ..Recipe::default() });
    (tree, snapshot)
}

/// Returns where the only occurrence of `part` begins.
fn position(whole: &[u8], part: &[u8]) -> usize {
    whole.windows(part.len()).position(|window| window == part).unwrap()
}

#[test]
fn a_whole_snapshot_is_found_whole_with_every_codec() {
    for codec in CODECS {
        let volsnap = Volsnap::new();
        let (_tree, snapshot) = snapshot_of(&volsnap, codec);
        let report = volsnap.run(["verify", "latest", "--json"]).json();
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["id"], snapshot.manifest.id.as_str());
        assert_eq!(report["problems"], Value::Array(Vec::new()));
        assert_eq!(volsnap.list()[0]["verified"]["ok"], true);
        let text = volsnap.run(["verify", snapshot.archive_path().to_str().unwrap()]).expect(0).stdout();
        assert!(text.contains("is verified"), "{text}");
    }
}

#[test]
fn an_archive_cut_at_any_64th_is_damaged() {
    for codec in CODECS {
        let volsnap = Volsnap::new();
        let (_tree, snapshot) = snapshot_of(&volsnap, codec);
        let path = snapshot.archive_path();
        let whole = fs::metadata(&path).unwrap().len();
        for length in (0..64).map(|part| whole * part / 64).chain([whole - 1, whole + 1]) {
            let _cut = Changed::by(&path, |bytes| bytes.resize(usize::try_from(length).unwrap(), 0));
            let said = said(&problems(&volsnap.run(["verify", "latest", "--json"])));
            assert!(said.contains(path.to_str().unwrap()), "{codec} at {length}: {said}");
            assert!(said.replace(' ', "").contains(&format!("{length}bytes")), "{codec} at {length}: {said}");
        }
        assert!(volsnap.run(["verify", "latest"]).expect(0).stdout().contains("is verified"));
    }
}

#[test]
fn a_bit_flipped_anywhere_in_an_archive_is_damage() {
    for codec in CODECS {
        let volsnap = Volsnap::new();
        let (_tree, snapshot) = snapshot_of(&volsnap, codec);
        let path = snapshot.archive_path();
        let whole = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        // The first and the last bytes are headers, ends and tables.
        let places = (0..64).map(|part| whole * part / 64).chain(1..8).chain(whole - 40..whole);
        for (place, bit) in places.zip((0..8).cycle()) {
            let _flipped = Changed::by(&path, |bytes| bytes[place] ^= 1 << bit);
            let said = said(&problems(&volsnap.run(["verify", "latest", "--json"])));
            assert!(said.contains("digest"), "{codec} at {place}: {said}");
        }
    }
}

#[test]
fn a_bit_flipped_in_a_file_names_the_file() {
    let volsnap = Volsnap::new();
    let (tree, snapshot) = snapshot_of(&volsnap, Codec::None);
    let content = fs::read(tree.path().join("sub/random")).unwrap();
    let _flipped = Changed::by(&snapshot.archive_path(), |bytes| {
        let begin = position(bytes, &content[..64]);
        bytes[begin + 100_000] ^= 4;
    });
    let problems = problems(&volsnap.run(["verify", "latest", "--json"]));
    assert_eq!(problems[0]["path"], "sub/random", "{problems:?}");
    let human = volsnap.run(["verify", "latest"]);
    let text = human.expect(3).stdout();
    assert!(text.contains("is DAMAGED") && text.contains("sub/random"), "{text}");
    assert_eq!(volsnap.list()[0]["verified"]["ok"], false);
    assert!(volsnap.run(["list"]).expect(0).stdout().contains("DAMAGED"));
}

#[test]
fn a_bit_flipped_in_a_header_of_the_tar_names_the_file() {
    let volsnap = Volsnap::new();
    let (_tree, snapshot) = snapshot_of(&volsnap, Codec::None);
    // The name in the header: what follows it is read as another file.
    let _flipped = Changed::by(&snapshot.archive_path(), |bytes| {
        let begin = position(bytes, b"sub/random\0");
        bytes[begin + 5] ^= 1;
    });
    let said = said(&problems(&volsnap.run(["verify", "latest", "--json"])));
    assert!(said.contains("checksum") || said.contains("sub/random"), "{said}");
}

#[test]
fn a_damaged_page_is_named_by_file_and_block_though_every_digest_fits() {
    let volsnap = Volsnap::new();
    let (tree, inspection) = database();
    // Damaged before it was saved: archive, list and manifest agree on it.
    let _first = Changed::by(&tree.path().join("base/5/16384"), |bytes| bytes[8192 + 4000] ^= 1);
    let _second = Changed::by(&tree.path().join("base/5/16390.1"), |bytes| bytes[5000] ^= 1);
    let adjust = |manifest: &mut volsnap::model::manifest::Manifest| {
        manifest.evidence.database = Some(inspection.clone());
        manifest.consistency = manifest.evidence.at_rest();
    };
    let _ = make(&volsnap, tree.path(), &Recipe { adjust: &adjust, ..Recipe::default() });
    let problems = problems(&volsnap.run(["verify", "latest", "--json"]));
    let places: Vec<_> = problems
        .iter()
        .map(|problem| (problem["path"].as_str().unwrap(), problem["block"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [("base/5/16384", 1), ("base/5/16390.1", 0)]);
    let human = volsnap.run(["verify", "latest"]);
    assert!(human.expect(3).stdout().contains("base/5/16384, block 1: "), "{}", human.stdout());
}

#[test]
fn a_proof_that_was_swapped_before_the_archive_was_made_is_noticed() {
    let volsnap = Volsnap::new();
    let (tree, mut inspection) = database();
    inspection.proof_digest = blake3::hash(b"another pg_control").to_hex().to_string();
    let adjust = |manifest: &mut volsnap::model::manifest::Manifest| {
        manifest.evidence.database = Some(inspection.clone());
        manifest.consistency = manifest.evidence.at_rest();
    };
    let _ = make(&volsnap, tree.path(), &Recipe { adjust: &adjust, ..Recipe::default() });
    let problems = problems(&volsnap.run(["verify", "latest", "--json"]));
    assert_eq!(problems[0]["path"], "global/pg_control", "{problems:?}");
}

#[test]
fn a_bit_flipped_in_the_file_list_or_the_manifest_is_damage() {
    let volsnap = Volsnap::new();
    let (_tree, snapshot) = snapshot_of(&volsnap, Codec::default());
    for (path, word) in [(list_path(&snapshot), "file list"), (snapshot.manifest_path(), "manifest")] {
        let whole = fs::read(&path).unwrap().len();
        for (place, bit) in (0..32).map(|part| whole * part / 32).chain([whole - 1]).zip((0..8).cycle()) {
            let _flipped = Changed::by(&path, |bytes| bytes[place] ^= 1 << bit);
            let said = said(&problems(&volsnap.run(["verify", "shop_db_data/latest", "--json"])));
            let named = said.contains(word) || said.contains(path.to_str().unwrap());
            assert!(named, "{} at {place}: {said}", path.display());
        }
    }
}

#[test]
fn a_manifest_damaged_beyond_reading_hides_nothing() {
    let volsnap = Volsnap::new();
    let (tree, snapshot) = snapshot_of(&volsnap, Codec::default());
    let _other = make(&volsnap, tree.path(), &Recipe { second: 60, ..Recipe::default() });
    let path = snapshot.manifest_path();
    for (content, why) in [
        (&b""[..], "not a whole manifest"),
        (b"{}\n", "not a whole manifest"),
        (b"{\"some\": \"other program's\"}", "not a whole manifest"),
        (b"\x00\xff\xfe", "not a whole manifest"),
        (b"{\"format_version\": 7, \"hologram\": true}", "made by a later volsnap"),
    ] {
        let _changed = Changed::by(&path, |bytes| *bytes = content.to_vec());
        let text = volsnap.run(["list"]).expect(0).stdout();
        assert!(text.contains(why) && text.contains(path.to_str().unwrap()), "{text}");
        assert_eq!(volsnap.list().len(), 1);
        volsnap.run(["show", snapshot.manifest.id.as_str()]).refused(3, &[why, path.to_str().unwrap()]);
        // Every other one is verified all the same, and the damaged one is not passed over.
        let all = volsnap.run(["verify", "--all", "--json"]).expect(3).stdout();
        let all: Vec<Value> = serde_json::from_str(&all).unwrap();
        let of = |id: &str| all.iter().find(|report| report["id"] == id).unwrap()["ok"].as_bool();
        assert_eq!(of(id(0).as_str()), Some(false), "{all:?}");
        assert_eq!(of(id(60).as_str()), Some(true), "{all:?}");
    }
}

#[test]
fn a_damaged_one_among_several_does_not_spare_the_others() {
    let volsnap = Volsnap::new();
    let (tree, first) = snapshot_of(&volsnap, Codec::default());
    let second = make(&volsnap, tree.path(), &Recipe { second: 60, ..Recipe::default() });
    fs::remove_file(first.archive_path()).unwrap();
    let (first, second) = (first.manifest.id.as_str(), second.manifest.id.as_str());
    let ran = volsnap.run(["verify", first, second]);
    assert!(ran.expect(3).stdout().contains(&format!("{second} of volume shop_db_data is verified")));
    assert!(ran.stderr().contains("this file is missing"), "{}", ran.stderr());
}

#[test]
fn a_missing_archive_or_file_list_is_named() {
    for pick in [Snapshot::archive_path as fn(&Snapshot) -> PathBuf, |snapshot| list_path(snapshot)] {
        let volsnap = Volsnap::new();
        let (_tree, snapshot) = snapshot_of(&volsnap, Codec::default());
        let path = pick(&snapshot);
        fs::remove_file(&path).unwrap();
        volsnap.run(["verify", "latest"]).refused(3, &["this file is missing", path.to_str().unwrap()]);
        let said = said(&problems(&volsnap.run(["verify", "latest", "--json"])));
        assert!(said.contains("this file is missing"), "{said}");
        assert!(volsnap.list().is_empty());
        assert!(volsnap.run(["list"]).expect(0).stdout().contains("damaged or foreign"));
    }
}

fn swap(one: &Path, other: &Path) {
    let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    fs::write(one, second).unwrap();
    fs::write(other, first).unwrap();
}

#[test]
fn archives_of_equal_length_that_were_swapped_are_noticed() {
    let volsnap = Volsnap::new();
    let [one, other] = [1, 2].map(|seed| {
        let recipe = Recipe { codec: Codec::None, second: seed.into(), ..Recipe::default() };
        make(&volsnap, tree(seed).path(), &recipe)
    });
    assert_eq!(
        one.manifest.archive().stored_bytes,
        other.manifest.archive().stored_bytes,
        "the test's premise"
    );
    swap(&one.archive_path(), &other.archive_path());
    for snapshot in [&one, &other] {
        let said = said(&problems(&volsnap.run(["verify", snapshot.manifest.id.as_str(), "--json"])));
        assert!(said.contains("sub/random") && said.contains("the stored archive"), "{said}");
    }
    // With the lists too, archive and list agree, and only the manifest knows better. Lists are compressed:
    // of other lengths, that is noticed sooner.
    swap(&list_path(&one), &list_path(&other));
    let _ = problems(&volsnap.run(["verify", one.manifest.id.as_str(), "--json"]));
}

#[test]
fn files_under_the_name_of_another_snapshot_or_source_are_refused() {
    let volsnap = Volsnap::new();
    let (_tree, snapshot) = snapshot_of(&volsnap, Codec::default());
    let folder = snapshot.archive_path().parent().unwrap().to_owned();
    let other_folder = folder.with_file_name("other");
    fs::create_dir(&other_folder).unwrap();
    let old = snapshot.manifest.id.to_string();
    for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::copy(&file, folder.join(name.replace(&old, id(5).as_str()))).unwrap();
        fs::copy(&file, other_folder.join(name.replace("shop_db_data", "other"))).unwrap();
    }
    for spec in [format!("shop_db_data/{}", id(5)), format!("other/{old}")] {
        let manifest_of = format!("it is the manifest of shop_db_data/{old}");
        volsnap.run(["verify", &spec]).refused(3, &[&manifest_of]);
    }
    fs::rename(&folder, folder.with_file_name("renamed")).unwrap();
    assert!(volsnap.list().is_empty());
    let text = volsnap.run(["list"]).expect(0).stdout();
    assert!(text.contains("it belongs to another source, shop_db_data"), "{text}");
}
