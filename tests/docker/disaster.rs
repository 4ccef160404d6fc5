//! `docs/disaster.md` is true: every command on it is run, in the page's order, and prints what the page shows.

use crate::newer::Shop;
use crate::program::Ran;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/disaster.md"));
/// Printed before each command, so that it is known whose output is whose.
const MARK: &str = "the next command of the page";

/// A command, and what the page shows of its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// Returns the page's sections that have commands: each its heading and its steps.
fn sections() -> Vec<(String, Vec<Step>)> {
    let mut sections: Vec<(String, Vec<Step>)> = Vec::new();
    let mut is_console = false;
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push((heading.to_owned(), Vec::new()));
        } else if line.starts_with("```") {
            is_console = line == "```console";
        } else if is_console {
            let steps = &mut sections.last_mut().unwrap().1;
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                None => steps.last_mut().unwrap().shown.push(line.to_owned()),
            }
        }
    }
    sections
}

/// Whether a line is one that the page shows; `…` stands for anything.
fn is_shown(line: &str, shown: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (words(line), words(shown));
    match shown.split_once(" … ") {
        Some((begin, end)) => line.starts_with(begin) && line.ends_with(end),
        // A purpose may stand behind a command.
        None => line == shown || line.starts_with(&format!("{shown} #")),
    }
}

/// Runs the commands of a section in one shell; each has to succeed and to print what is shown.
fn follow(shop: &Shop, heading: &str, steps: &[Step]) {
    let (project, disk) = (shop.path().display().to_string(), shop.disk().display().to_string());
    let here = |text: &str| text.replace("/srv/shop", &project).replace("/mnt/backup", &disk);
    let lines = steps.iter().map(|step| format!("echo '{MARK}'\n{}\n", here(&step.command)));
    let script = format!("set -euo pipefail\n{}", lines.collect::<String>());
    let mut shell = shop.shell();
    let ran = Ran::of(shell.args(["-c", &script]));
    let printed = format!("{}\n{}", ran.stdout(), ran.stderr());
    assert_eq!(ran.code(), Some(0), "{heading}: {printed}");
    assert!(!printed.contains("not created by Docker Compose"), "{heading}: {printed}");
    for (step, output) in steps.iter().zip(ran.stdout().split(MARK).skip(1)) {
        for shown in step.shown.iter().map(|shown| here(shown)) {
            let found = output.lines().any(|line| is_shown(line, &shown));
            assert!(found, "{heading}: {} does not print {shown:?}:\n{output}", step.command);
        }
    }
}

#[tokio::test]
async fn whoever_has_only_the_repository_gets_the_service_back_by_the_page() {
    let Some(shop) = Shop::open() else { return };
    shop.compose(&["up", "-d", "--wait", "db"]);
    shop.ask("db", "create table orders as select generate_series(1, 1000) as n");
    let sections = sections();
    assert_eq!(sections.len(), 4, "the page has other sections");
    for (number, (heading, steps)) in sections.iter().enumerate() {
        assert!(steps.len() >= 4, "{heading} has few commands");
        if number > 0 {
            shop.lose();
        }
        follow(&shop, heading, steps);
    }
    let volumes = shop.engine.docker(&["volume", "ls", "-q"]);
    assert_eq!(volumes, "shop_db_data", "and nothing else is left behind");
}
