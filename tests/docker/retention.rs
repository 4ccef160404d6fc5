//! `docs/retention.md` is true: every command on it is run, in the page's order, on a real database, and prints what the
//! page shows. What was copied on the way is restored, and the database has its rows again.

use serde_json::Value;

use crate::database::{Postgres, Volsnap};

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/retention.md"));
/// What the page calls a snapshot, and the second repository.
const ID: &str = "20261120T203011Z-4f2a91";
const SECOND: &str = "/mnt/nas/volsnap";

/// Returns the page's commands, each with what the page shows of its output. A line of a timer is its command.
fn steps() -> Vec<(String, Vec<String>)> {
    let (mut steps, mut block): (Vec<(String, Vec<String>)>, _) = (Vec::new(), None);
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(_), Some(_)) => block = None,
            (Some(kind), None) => block = Some(kind),
            (None, Some("console")) => match line.strip_prefix("$ ") {
                Some(command) => steps.push((command.to_owned(), Vec::new())),
                None => steps.last_mut().unwrap().1.push(line.to_owned()),
            },
            (None, Some(_)) => {
                let command = line.split_whitespace().skip(5).collect::<Vec<_>>().join(" ");
                assert!(command.starts_with("volsnap "), "{line}");
                steps.push((command, Vec::new()));
            }
            (None, None) => {}
        }
    }
    steps
}

/// Whether a line is one that the page shows; `…` stands for anything.
fn is_shown(line: &str, shown: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (words(line), words(shown));
    let mut rest = line.as_str();
    shown.split('…').map(str::trim).all(|part| {
        let found = rest.find(part);
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

/// Returns the id of the oldest snapshot that is not marked.
fn oldest(volsnap: &Volsnap) -> String {
    let listed = volsnap.list();
    let oldest = listed.iter().find(|row| row["deletion"].is_null()).unwrap();
    oldest["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_page_is_true_and_what_it_copies_is_restored() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.query("create table orders as select generate_series(1, 1000) as n");
    let (target, second) = (postgres.target(), volsnap.home().join("second"));
    for _ in 0..3 {
        volsnap.run(["snapshot", &target]).expect(0);
    }
    let source = volsnap.list()[0]["source"].as_str().unwrap().to_owned();
    let rows = || postgres.query("select count(*) from orders");
    let steps = steps();
    assert!(steps.len() >= 15, "the page has few commands");
    let mut removed = String::new();
    for (command, shown) in &steps {
        if command.contains(" remove ") {
            removed = oldest(&volsnap);
        }
        let here = |text: &str| {
            let text = text.replace(SECOND, second.to_str().unwrap()).replace(ID, &removed);
            let text = text.replace("memory-service_db_data", &source);
            text.split(' ')
                .map(|word| if word == "db" { &*target } else { word })
                .collect::<Vec<_>>()
                .join(" ")
        };
        if command.contains(" restore ") {
            postgres.query("drop table orders");
        }
        let ran = volsnap.paste(&here(command));
        let output = ran.expect(0).stdout();
        for shown in shown.iter().map(|shown| here(shown)) {
            let found = output.lines().any(|line| is_shown(line, &shown));
            assert!(found, "{command} does not print {shown:?}:\n{output}");
        }
    }
    postgres.await_answer();
    assert_eq!(rows(), "1000");
    postgres.assert_no_helper();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_copy_that_fails_makes_6_and_the_snapshot_stands() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let missing = volsnap.home().join("not-mounted");
    let ran = volsnap.run(["snapshot", &postgres.target(), "--copy-to", missing.to_str().unwrap(), "--json"]);
    let taken: Value = serde_json::from_str(&ran.expect(6).stdout()).unwrap();
    assert!(ran.stderr().contains("there is no repository"), "{}", ran.stderr());
    assert!(!missing.exists());
    let listed = volsnap.list();
    assert!(listed.len() == 1 && listed[0]["id"] == taken["id"], "{listed:#?}");
    assert!(postgres.answers());
    volsnap.assert_no_leftovers();
}
