//! This volsnap reads manifests and verifications of every format; it keeps what a later one added, or refuses it by name.

use serde_json::{Value, json};

use super::*;
use crate::archive::Codec;
use crate::model::facts::FactsLevel;

const V1: &str = include_str!("../../../fixtures/formats/v1/manifest.json");
const V1_WITH_FACTS: &str = include_str!("../../../fixtures/formats/v1/manifest-with-facts.json");

fn read(stored: &str) -> Manifest {
    Manifest::from_json(stored.as_bytes()).unwrap()
}

/// Seals a changed manifest.
fn sealed(stored: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(stored).unwrap();
    value.as_object_mut().unwrap().remove("seal");
    change(&mut value);
    let text = serde_json::to_string_pretty(&value).unwrap();
    let body = text.strip_suffix("\n}").unwrap();
    let digest = blake3::hash(body.as_bytes()).to_hex();
    format!("{body},\n  \"seal\": \"{digest}\"\n}}\n")
}

/// A manifest of the newest format.
fn newest() -> String {
    read(V1_WITH_FACTS).to_json().unwrap()
}

#[test]
fn a_manifest_of_format_1_is_read_for_ever() {
    let manifest = read(V1);
    assert_eq!(manifest.format_version, 1);
    assert_eq!(manifest.id.as_str(), "20261120T203011Z-4f2a91");
    assert_eq!(manifest.source, "memory-service_db_data");
    assert_eq!(*manifest.location(), MountSource::Volume("memory-service_db_data".into()));
    assert_eq!(manifest.method, Method { quiesce: Quiesce::Stop, capture: Capture::Direct });
    assert_eq!((manifest.payload, manifest.consistency), (Payload::Physical, Consistency::Clean));
    assert_eq!(manifest.evidence.database.as_ref().unwrap().engine, "postgresql");
    assert_eq!(manifest.archive().codec, Codec::Zstd { level: 3 });
    assert_eq!((manifest.archive().tar_bytes, manifest.counts().members), (10_240, 1));
    assert!(manifest.file_list().blake3.starts_with("0ffec6f7"));
    assert_eq!(manifest.mounted_at(), Some("/var/lib/postgresql/data".into()));
    assert_eq!((manifest.group, manifest.position, manifest.facts), (None, None, None));
    assert!(manifest.requires.is_empty() && manifest.unknown.is_empty());
}

#[test]
fn all_of_a_manifest_that_version_0_1_wrote_of_a_database_is_read() {
    let manifest = read(V1_WITH_FACTS);
    assert_eq!(manifest.title, "service db of shop (volume shop_pgdata)");
    assert_eq!(manifest.method.capture, Capture::Staged);
    assert_eq!(manifest.evidence.stopped[0].name, "shop_db_1");
    assert_eq!(manifest.evidence.database.as_ref().unwrap().details["timeline"], "1");
    let facts = manifest.facts.as_ref().unwrap();
    assert!(facts.exact);
    assert_eq!((facts.seen.level, facts.seen.databases.len()), (FactsLevel::Quick, 4));
    assert_eq!(manifest.environment.superuser.as_deref(), Some("shop"));
    assert!(manifest.environment.libc.is_some());
    assert_eq!(manifest.tags["why"], "upgrade");
    assert!(manifest.unknown.is_empty(), "{:?}", manifest.unknown);
}

#[test]
fn all_of_a_manifest_of_format_2_is_read() {
    let manifest = read(include_str!("../../../fixtures/formats/v2/manifest-with-facts.json"));
    assert_eq!(manifest.format_version, 2);
    assert_eq!(*manifest.location(), MountSource::Volume("shop_pgdata".into()));
    assert_eq!(manifest.method, Method { quiesce: Quiesce::Native, capture: Capture::Staged });
    assert_eq!(manifest.payload, Payload::Physical);
    assert_eq!(manifest.group.as_ref().unwrap().to_string(), manifest.id.to_string());
    let details = &manifest.evidence.database.as_ref().unwrap().details;
    let place = json!({"timeline": 1, "lsn": details["redo"]});
    assert_eq!(manifest.position, Some(Position::of("postgresql", place)));
    assert_eq!(manifest.evidence.paused, ["shop_web_1"]);
    assert!(manifest.facts.as_ref().unwrap().exact);
    assert!(manifest.requires.is_empty() && manifest.unknown.is_empty());
    assert!(manifest.environment.volume_labels.is_empty(), "it came before them");
    let labelled = read(include_str!("../../../fixtures/formats/v2/manifest-with-volume-labels.json"));
    assert_eq!(labelled.environment.volume_labels["owner"], "ops");
    assert!(labelled.unknown.is_empty());
    // The smaller one has everything as in format 1.
    let smaller = read(include_str!("../../../fixtures/formats/v2/manifest.json"));
    assert_eq!(smaller, Manifest { format_version: 2, ..read(V1) });
}

#[test]
fn a_backup_that_the_database_made_of_itself_is_called_native_in_the_file() {
    let online = sealed(V1, |value| value["quiesce"] = json!("online"));
    let manifest = read(&online);
    assert_eq!(manifest.method.quiesce, Quiesce::Native);
    let value = serde_json::to_value(&manifest).unwrap();
    assert_eq!(value["method"], json!({"quiesce": "native", "capture": "direct"}));
    assert_eq!(read(&manifest.to_json().unwrap()).method.quiesce, Quiesce::Native);
}

#[test]
fn what_is_written_is_of_the_newest_format_whatever_was_read() {
    for before in [V1, V1_WITH_FACTS] {
        let before = read(before);
        let after = read(&before.to_json().unwrap());
        assert_eq!(after.format_version, FORMAT_VERSION);
        assert_eq!(after, Manifest { format_version: FORMAT_VERSION, ..before });
    }
}

#[test]
fn a_feature_that_is_not_known_refuses_the_snapshot_by_its_name() {
    let stored = sealed(&newest(), |value| {
        value["requires"] = json!(["several-parts"]);
        value["tool_version"] = json!("7.1.0");
        value["parts"] = json!("what nobody can read here");
    });
    let error = Manifest::from_json(stored.as_bytes()).unwrap_err();
    assert!(matches!(&error, ManifestError::UnknownFeature { feature, .. } if feature == "several-parts"));
    let says = error.to_string();
    assert!(says.contains("several-parts") && says.contains("volsnap 7.1.0"), "{says}");
}

#[test]
fn a_snapshot_of_several_parts_is_not_taken_for_one_of_the_first() {
    let stored = sealed(&newest(), |value| {
        let part = value["parts"][0].clone();
        value["parts"].as_array_mut().unwrap().push(part);
    });
    let error = Manifest::from_json(stored.as_bytes()).unwrap_err();
    let ManifestError::NotUnderstood { source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("2 parts"), "{source}");
}

#[test]
fn a_later_format_is_refused_however_it_is_sealed() {
    let stored = newest().replace("\"format_version\": 2", "\"format_version\": 3");
    let error = Manifest::from_json(stored.as_bytes()).unwrap_err();
    assert!(matches!(error, ManifestError::LaterFormat { found: 3 }), "{error}");
}

#[test]
fn a_value_that_is_not_known_is_said() {
    let stored = sealed(&newest(), |value| value["method"]["quiesce"] = json!("hypnosis"));
    let error = Manifest::from_json(stored.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("written by volsnap 0.1.0"), "{error}");
}

#[test]
fn fields_that_are_not_known_are_there_again_when_it_is_written() {
    let add = |value: &mut Value| {
        value["mood"] = json!({"weather": [1, 2]});
        value["zeal"] = json!({"last": {}});
        value["environment"]["kernel"] = json!("6.12");
        value["evidence"]["stopped"][0]["signal"] = json!(15);
    };
    let before = sealed(V1_WITH_FACTS, add);
    let manifest = read(&before);
    assert_eq!(manifest.title, "service db of shop (volume shop_pgdata)");
    let after: Value = serde_json::from_str(&manifest.to_json().unwrap()).unwrap();
    assert_eq!(after["mood"], json!({"weather": [1, 2]}));
    assert_eq!(after["zeal"], json!({"last": {}}));
    assert_eq!(after["environment"]["kernel"], "6.12");
    assert_eq!(after["evidence"]["stopped"][0]["signal"], 15);
    // The draft in a journal has no seal.
    let draft: Manifest = serde_json::from_value(serde_json::to_value(&manifest).unwrap()).unwrap();
    assert_eq!(draft.unknown.get("mood"), manifest.unknown.get("mood"));
    // A field of what became a part moves with it.
    let of_a_part = read(&sealed(V1, |value| value["archive"]["erasure"] = json!(4)));
    assert_eq!(serde_json::to_value(&of_a_part).unwrap()["parts"][0]["archive"]["erasure"], 4);
    assert_eq!(read(&of_a_part.to_json().unwrap()).unknown, of_a_part.unknown);
}

#[test]
fn facts_of_a_later_format_are_kept_and_not_understood() {
    let stored = sealed(&newest(), |value| {
        value["facts"]["seen"] = json!({"version": 9, "vectors": [0.5]});
    });
    let manifest = read(&stored);
    assert_eq!((&manifest.facts, manifest.later_facts()), (&None, Some(9)));
    let written: Value = serde_json::from_str(&manifest.to_json().unwrap()).unwrap();
    assert_eq!(written["facts"]["seen"]["vectors"], json!([0.5]));
    assert_eq!(read(V1_WITH_FACTS).later_facts(), None);
}

#[test]
fn a_verification_of_every_format_is_read() {
    let read = |text: &str| serde_json::from_str::<Verification>(text).unwrap();
    let one = read(include_str!("../../../fixtures/formats/v1/verification.json"));
    assert_eq!(read(include_str!("../../../fixtures/formats/v2/verification.json")), one);
    assert_eq!((one.kind, one.ok, one.problems, one.drill), (VerificationKind::Read, true, 0, None));
    assert_eq!((one.ms, one.tool_version.as_str()), (3, "0.1.0"));
    let drill = read(include_str!("../../../fixtures/formats/v1/verification-drill.json"));
    assert_eq!((drill.kind, drill.ok, drill.problems), (VerificationKind::Drill, false, 2));
    assert_eq!(drill.drill.unwrap().recovery_ms, 4300);
    assert!(drill.unknown.is_empty());
    assert_eq!(read(include_str!("../../../fixtures/formats/v2/verification-drill.json")), drill);
    let written = serde_json::to_value(&drill).unwrap();
    assert_eq!(written["format_version"], 2);
    assert_eq!(serde_json::from_value::<Verification>(written).unwrap(), drill);
}

#[test]
fn no_more_is_believed_of_an_earlier_verification_than_it_says() {
    let read = |text: &str| serde_json::from_str::<Verification>(text).unwrap();
    let looked = read(include_str!("../../../fixtures/formats/v1/verification.json"));
    assert_eq!(looked.shows(), Some(Proof::Verified));
    let failed = read(include_str!("../../../fixtures/formats/v1/verification-drill.json"));
    assert_eq!(failed.shows(), None);
    let booted = Verification { ok: true, ..failed };
    assert_eq!(booted.shows(), Some(Proof::Booted));
    let unpacked = Verification { drill: Some(DrillTimes::default()), ..booted.clone() };
    assert_eq!(unpacked.shows(), Some(Proof::Unpacked));
    assert_eq!(Verification { proof: Some(Proof::Proved), ..booted }.shows(), Some(Proof::Proved));
}

#[test]
fn data_is_called_clean_only_where_its_own_files_prove_it() {
    let with = |database: Option<_>, reasons: &[&str]| {
        let reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
        Evidence { database, reasons, ..Evidence::default() }.at_rest()
    };
    let proved = read(V1).evidence.database.unwrap();
    assert_eq!(with(Some(proved.clone()), &[]), Consistency::Clean);
    assert_eq!(with(None, &[]), Consistency::StoppedAndQuiet);
    for database in [Some(proved.clone()), None] {
        assert_eq!(with(database, &["was killed"]), Consistency::CrashConsistent);
    }
    // Who could write takes the quiet from what nothing else proves.
    let beside = |database| {
        Evidence { database, onlookers: vec!["agent".to_owned()], ..Evidence::default() }.at_rest()
    };
    assert_eq!((beside(None), beside(Some(proved))), (Consistency::QuietExcept, Consistency::Clean));
    assert!(!Consistency::QuietExcept.is_at_rest());
    let said_before = sealed(V1, |manifest| manifest["evidence"]["database"] = Value::Null);
    assert_eq!(read(&said_before).consistency, Consistency::StoppedAndQuiet);
}

#[test]
fn a_verification_keeps_what_is_not_known_and_a_later_one_is_said() {
    let text = include_str!("../../../fixtures/formats/v1/verification-drill.json");
    let mut value: Value = serde_json::from_str(text).unwrap();
    value["drill"]["clients"] = json!(3);
    let verification: Verification = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&verification).unwrap()["drill"]["clients"], 3);
    value["format_version"] = json!(3);
    let error = serde_json::from_value::<Verification>(value).unwrap_err();
    assert!(error.to_string().contains("later volsnap"), "{error}");
}

#[test]
fn of_an_encrypted_snapshot_only_what_list_and_prune_need_is_in_clear() {
    let stored = include_str!("../../../fixtures/formats/v2/manifest-with-facts.json");
    let whole = read(stored);
    let recipient = "age1qypqxpq9qcrsszg2pvxq6rs0zqg3yyc5z5tpwxqergd3c8g7rusqmwn7f2";
    let recipients = crate::crypt::Recipients::parse(recipient).unwrap();
    let sealed = Sealed { recipients, contents: "text of age".to_owned() };
    let clear = whole.clone().sealed(sealed);
    let json = clear.to_json().unwrap();
    let secrets = [
        "shop_db_1",
        "shop_web_1",
        "/var/lib",
        "docker-compose.yml",
        "postgres:15",
        "lsn",
        "\"seen\"",
        "redo",
    ];
    for word in secrets {
        assert!(stored.contains(word), "{word} would never be found");
        assert!(!json.contains(word), "{word} is in clear: {json}");
    }
    let after = read(&json);
    assert_eq!(after.title, "service db of shop");
    assert_eq!((&after.id, &after.source, &after.times), (&whole.id, &whole.source, &whole.times));
    assert_eq!((after.archive(), after.counts()), (whole.archive(), whole.counts()));
    let identifier = |manifest: &Manifest| manifest.evidence.database.as_ref().unwrap().identifier.clone();
    assert_eq!(identifier(&after), identifier(&whole), "prune asks whether it is another database");
    assert_eq!(after.requires, [Feature::named("age-encryption")]);
    assert!(after.unknown.is_empty() && after.is_encrypted());
    assert_eq!(after.in_clear(), after, "there is no more to hide");
    assert!(after.is_clear_part_of(&whole));
    let renamed = Manifest { source: "other".to_owned(), ..whole.clone() };
    assert!(!after.is_clear_part_of(&renamed));
    // Whoever knows all of it does not write it down.
    let known = Manifest { sealed: after.sealed, ..whole };
    assert!(!known.to_json().unwrap().contains("shop_db_1"));
}

#[test]
fn the_path_of_a_directory_and_what_changed_in_it_is_sealed() {
    let mut whole = read(V1);
    let part = whole.parts.first_mut();
    part.location = MountSource::Directory("/srv/secret".into());
    part.counts.changed = vec!["private/file".into()];
    whole.tags.insert(REPLACED_BY_TAG.to_owned(), "/srv/secret/dump.tar".to_owned());
    let clear = whole.in_clear();
    assert!(!clear.tags.contains_key(REPLACED_BY_TAG), "{:?}", clear.tags);
    assert_eq!(*clear.location(), MountSource::Directory("".into()));
    assert!(clear.counts().changed.is_empty());
    assert!(clear.is_clear_part_of(&whole));
}
