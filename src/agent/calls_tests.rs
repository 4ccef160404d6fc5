//! Each call as it is written, and then read again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::agent::protocol::{Event, VERSION};

/// Adds a call as the client writes it, after reading it as the agent does.
fn add<C: Call>(lines: &mut BTreeMap<&'static str, Value>, call: &C) {
    let written = serde_json::to_value(BTreeMap::from([(C::NAME, call)])).unwrap();
    let request: Request = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&request).unwrap(), written, "it is read as what was written");
    lines.insert(C::NAME, written[C::NAME].clone());
}

fn all() -> BTreeMap<&'static str, Value> {
    let run = || "4f2a91".to_owned();
    let marker_files = || vec![PathBuf::from("global/pg_control")];
    let exclude = || vec!["*.tmp".to_owned()];
    let mut lines = BTreeMap::new();
    add(&mut lines, &Survey { side: Side::Stage, exclude: exclude(), placeholders: vec!["own.conf".into()] });
    add(
        &mut lines,
        &Inspect {
            engine: "postgresql".to_owned(),
            side: Side::Source,
            tree: "tree".into(),
            data_directory: "data".into(),
            mounted_at: Some("/var/lib/postgresql".into()),
        },
    );
    add(
        &mut lines,
        &Archive {
            side: Side::Source,
            tree: "tree".into(),
            codec: Codec::default(),
            exclude: exclude(),
            last: marker_files(),
            stability: Stability::Held,
        },
    );
    add(&mut lines, &Room {});
    add(&mut lines, &StageRoom { tree: "tree".into() });
    add(
        &mut lines,
        &StagePass {
            kind: PassKind::Final,
            tree: "tree".into(),
            exclude: exclude(),
            reserve: 1,
            external_dir: Some("data".into()),
            owner: Some((999, 999)),
        },
    );
    add(&mut lines, &StageInto { run: run() });
    add(&mut lines, &StageKeep {});
    add(
        &mut lines,
        &StageCompare { stability: Stability::Live, exclude: exclude(), owner: Some((999, 999)) },
    );
    add(&mut lines, &StageClear {});
    let options = ExtractOptions { members: 3, bytes: 4, reserve: 5, ..ExtractOptions::default() };
    add(&mut lines, &Extract { run: run(), channel: Channel::Stdin, emptied: true, options });
    let (engine, data_directory) = ("postgresql".to_owned(), "data".into());
    add(&mut lines, &RemoveSlots { run: run(), engine, data_directory });
    add(&mut lines, &Empty { run: run(), marker_files: marker_files() });
    add(&mut lines, &SwapIn { run: run(), marker_files: marker_files(), root: None });
    add(&mut lines, &SwapState { run: run() });
    add(&mut lines, &SwapBack { run: run() });
    add(&mut lines, &Commit { run: run() });
    add(&mut lines, &Discard { run: run(), with_old: true });
    lines
}

/// Whoever changes what this pins also moves the version.
#[test]
fn every_call_is_written_as_the_version_of_the_protocol_has_it() {
    let lines: Vec<_> = all().iter().map(|(name, call)| format!("{name}: {call}")).collect();
    insta::assert_snapshot!(format!("protocol_{VERSION}"), lines.join("\n"));
}

#[test]
fn no_call_takes_a_field_that_it_does_not_know() {
    for (name, mut call) in all() {
        call.as_object_mut().unwrap().insert("unheard_of".to_owned(), Value::Bool(true));
        let line = serde_json::to_string(&BTreeMap::from([(name, call)])).unwrap();
        let error = serde_json::from_str::<Request>(&line).unwrap_err().to_string();
        assert!(error.contains("unknown field `unheard_of`"), "{name}: {error}");
    }
}

#[test]
fn an_answer_is_for_the_call_that_it_names() {
    let event = Event::answer::<SwapState>(&swap::SwapState::Emptied).unwrap();
    let read: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
    assert_eq!(read.answered::<SwapState>(), Some(swap::SwapState::Emptied));
    assert_eq!(read.answered::<Commit>(), None);
    let done: Event =
        serde_json::from_str(&serde_json::to_string(&Event::answer::<Commit>(&()).unwrap()).unwrap())
            .unwrap();
    assert_eq!(done.answered::<Commit>(), Some(()));
}
