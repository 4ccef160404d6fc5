//! Keys as they are made, named and changed at the command line, and what is said of what they open.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::hand_made::{Recipe, make, tree};
use crate::program::{Ran, Volsnap};
use crate::schema::assert_fits;

/// A machine with an encrypted repository.
struct Machine {
    volsnap: Volsnap,
    /// The recipients, in the order in which their identities were made.
    recipients: Vec<String>,
}

impl Machine {
    fn new(identities: usize) -> Self {
        let mut machine = Self { volsnap: Volsnap::new(), recipients: Vec::new() };
        for number in 0..identities {
            machine.make_key(number);
        }
        machine
    }

    /// One that has its repository, for the first two recipients.
    fn encrypted(identities: usize) -> Self {
        let machine = Self::new(identities);
        let [one, two] = [0, 1].map(|number| machine.recipients[number].as_str());
        let _ = machine.run(&["init", "--recipient", one, "--recipient", two]).expect(0);
        machine
    }

    fn make_key(&mut self, number: usize) {
        let file = self.file(number);
        let made = self.volsnap.run(["key", "generate", "-o", file.to_str().unwrap(), "--json"]).json();
        assert_fits("key generate", &made);
        self.recipients.push(made["recipient"].as_str().unwrap().to_owned());
    }

    fn file(&self, number: usize) -> PathBuf {
        self.volsnap.home().join(format!("identity-{number}.txt"))
    }

    fn secret(&self, number: usize) -> String {
        fs::read_to_string(self.file(number)).unwrap().lines().last().unwrap().to_owned()
    }

    /// Runs the program; it must not say any secret.
    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let ran = self.volsnap.run_with(arguments, environment);
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        for number in 0..self.recipients.len() {
            assert!(!said.contains(&self.secret(number)[16..]), "{arguments:?} says a secret:\n{said}");
        }
        ran
    }

    /// Runs it with an identity.
    fn with(&self, number: usize, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[("VOLSNAP_IDENTITY_FILE", self.file(number).to_str().unwrap())])
    }

    /// Puts a snapshot into the repository, as a run does.
    fn take(&self, second: i64) {
        make(&self.volsnap, tree(1).path(), &Recipe { second, ..Recipe::default() });
    }
}

#[test]
fn an_identity_is_made_for_its_owner_alone_and_never_over_another() {
    let machine = Machine::new(1);
    let file = machine.file(0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).unwrap();
    let again = machine.run(&["key", "generate", "--output", file.to_str().unwrap()]);
    again.refused(2, &["no identity is ever overwritten", "nothing was written"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    let other = machine.volsnap.home().join("other.txt");
    let said = machine.run(&["key", "generate", "--output", other.to_str().unwrap()]).expect(0).stdout();
    assert!(said.contains("recipient age1") && said.contains("keep a second copy"), "{said}");
}

#[test]
fn a_repository_is_made_for_two_recipients_or_for_one_if_that_is_said() {
    let machine = Machine::new(2);
    let one = machine.recipients[0].as_str();
    let refused = machine.run(&["init", "--recipient", one]);
    refused.refused(2, &["whoever loses its identity loses every snapshot", "nothing was changed"]);
    assert!(!machine.volsnap.repository().exists());
    let single = refused.next().into_iter().find(|line| line.contains("--single-key")).unwrap();
    let _ = machine.volsnap.paste(&single).expect(0);
    let listed = machine.run(&["key", "list", "--json"]).json();
    assert_fits("key list", &listed);
    assert_eq!(listed["recipients"], serde_json::json!([one]));
    // One that is there stays as it is, and is not what is asked for.
    let both = machine.run(&["init", "--recipient", one, "--recipient", &machine.recipients[1]]);
    both.refused(2, &["is encrypted to"]);
    let made = machine.run(&["init", "--recipient", one, "--json"]).json();
    assert_fits("init", &made);
    assert_eq!((&made["made"], &made["recipients"]), (&false.into(), &serde_json::json!([one])));
}

#[test]
fn a_secret_in_the_place_of_a_recipient_is_refused_and_not_repeated() {
    let machine = Machine::new(1);
    let secret = machine.secret(0);
    for arguments in [&["init", "--recipient", &secret][..], &["key", "add", &secret]] {
        let ran = machine.run(arguments);
        ran.refused(2, &[]);
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        assert!(!said.contains("AGE-SECRET-KEY-1"), "{said}");
    }
    let ran = machine.run_with(&["init"], &[("VOLSNAP_RECIPIENTS", &secret)]);
    ran.refused(2, &["which is secret"]);
}

#[test]
fn the_environment_names_recipients_and_then_nothing_else_counts() {
    let machine = Machine::new(3);
    let [one, two, three] = [0, 1, 2].map(|number| machine.recipients[number].clone());
    let file = machine.volsnap.home().join("recipients");
    fs::write(&file, format!("# those of the operators\n{one}\n{two}\n")).unwrap();
    let from_file = [("VOLSNAP_RECIPIENTS_FILE", file.to_str().unwrap())];
    let made = machine.run_with(&["init", "--json"], &from_file).json();
    assert_eq!(made["recipients"].as_array().unwrap().len(), 2);
    let both = format!("{two},{one}");
    let named = [("VOLSNAP_RECIPIENTS", both.as_str())];
    let _ = machine.run_with(&["key", "list"], &named).expect(0);
    let others = format!("{one},{three}");
    let other = [("VOLSNAP_RECIPIENTS", others.as_str())];
    let listed = machine.run_with(&["key", "list", "--json"], &other);
    assert_eq!(listed.code(), Some(3), "{}", listed.stderr());
    assert!(listed.stderr().contains("by VOLSNAP_RECIPIENTS"), "{}", listed.stderr());
    machine
        .run_with(&["key", "trust"], &named)
        .refused(2, &["would go on saying it", "unset VOLSNAP_RECIPIENTS"]);
    let twice = [from_file[0], named[0]];
    machine.run_with(&["key", "list"], &twice).refused(2, &["only one of them counts"]);
}

#[test]
fn what_needs_no_identity_works_without_and_what_needs_one_says_so() {
    let machine = Machine::encrypted(3);
    machine.take(0);
    let list = machine.run(&["list", "--json"]).json();
    assert!(list[0]["archive"].as_str().unwrap().ends_with(".tar.zst.age"), "{list:#}");
    let shown = machine.run(&["show", "latest", "--json"]).json();
    assert_fits("show", &shown);
    assert_eq!(shown["sealed"]["recipients"].as_array().unwrap().len(), 2);
    let text = machine.run(&["show", "latest"]).expect(0).stdout();
    assert!(
        text.contains("an identity opens it") && text.contains("age --decrypt --identity FILE"),
        "{text}"
    );
    let verified = machine.run(&["verify", "latest", "--json"]).json();
    assert_fits("verify", &verified);
    assert_eq!(
        (&verified["ok"], &verified["sealed"], &verified["files"]),
        (&true.into(), &true.into(), &0.into())
    );
    let text = machine.run(&["verify", "latest"]).expect(0).stdout();
    assert!(text.contains("nobody looked inside") && text.contains("was NOT checked"), "{text}");

    let locked = machine.run(&["show", "latest", "--files"]);
    locked.refused(
        2,
        &["it is encrypted, and no identity was given", &machine.recipients[0], "nothing was written"],
    );
    assert!(locked.stderr().contains("next: export VOLSNAP_IDENTITY_FILE=FILE"), "{}", locked.stderr());
    machine.with(2, &["show", "latest", "--files"]).refused(2, &["no identity that was given opens it"]);
    // Who has another key is told, and sees no less than who has none.
    for command in ["verify", "show"] {
        let by_stranger = machine.with(2, &[command, "latest", "--json"]);
        assert!(
            by_stranger.stderr().contains("no identity that was given opens it"),
            "{}",
            by_stranger.stderr()
        );
        assert_eq!(by_stranger.json()["id"], shown["id"]);
    }
    let checks = machine.run(&["show", "latest", "--json"]).json()["verified"].clone();
    let proofs: Vec<_> = checks.as_array().unwrap().iter().map(|one| one["proof"].clone()).collect();
    assert_eq!(proofs, ["stored", "stored", "stored"], "nobody has looked inside as yet");
    let listed = machine.run(&["list"]).expect(0).stdout();
    assert!(listed.contains("stored as it was"), "{listed}");
    // The most that is ever logged says no secret either.
    let _ = machine.with(0, &["-vv", "verify", "latest"]).expect(0);
    for number in [0, 1] {
        let files = machine.with(number, &["show", "latest", "--files"]).expect(0).stdout();
        assert!(files.contains("sub/random"), "{files}");
        let verified = machine.with(number, &["verify", "latest", "--json"]).json();
        assert_eq!((&verified["ok"], &verified["sealed"]), (&true.into(), &false.into()));
        assert!(verified["files"].as_u64().unwrap() > 0);
    }
}

#[test]
fn an_identity_comes_from_a_command_which_may_fail() {
    let machine = Machine::encrypted(2);
    machine.take(0);
    let by = |command: &str| machine.run_with(&["key", "check"], &[("VOLSNAP_IDENTITY_COMMAND", command)]);
    let print = format!("cat '{}'", machine.file(1).display());
    assert!(by(&print).expect(0).stdout().contains("opens the newest encrypted snapshot"));
    by("echo nothing; exit 3").refused(1, &["run the command in VOLSNAP_IDENTITY_COMMAND", "exit status: 3"]);
    by("echo nothing").refused(2, &["it has no identity"]);
    let missing = machine.run_with(&["key", "check"], &[("VOLSNAP_IDENTITY_FILE", "/nonexistent")]);
    missing.refused(2, &["read /nonexistent, which VOLSNAP_IDENTITY_FILE names"]);
    machine.run(&["key", "check"]).refused(2, &["no identity was given", "nothing was decrypted"]);
}

#[test]
fn keys_are_added_and_taken_away_and_a_check_tells_what_an_identity_opens() {
    let machine = Machine::encrypted(3);
    let [one, _, three] = [0, 1, 2].map(|number| machine.recipients[number].clone());
    let nothing = machine.with(0, &["key", "check", "--json"]);
    let checked: Value = serde_json::from_str(&nothing.stdout()).unwrap();
    assert_eq!(nothing.code(), Some(6), "there is nothing yet to prove it with");
    assert_fits("key check", &checked);
    machine.take(0);
    let added = machine.run(&["key", "add", &three, "--json"]).json();
    assert_fits("key add", &added);
    assert_eq!((&added["changed"], added["recipients"].as_array().unwrap().len()), (&true.into(), 3));
    let removed = machine.run(&["key", "remove", &one, "--json"]).json();
    assert_fits("key remove", &removed);
    assert!(!removed["recipients"].to_string().contains(&one));

    let old = machine.with(0, &["key", "check"]);
    assert_eq!(old.code(), Some(6), "it opens what there is, and not what comes");
    assert!(old.stdout().contains("does NOT open what is encrypted from now on"), "{}", old.stdout());
    machine.take(60);
    machine.with(0, &["key", "check"]).refused(2, &["no identity that was given opens it"]);
    let new = machine.with(2, &["key", "check"]).expect(0).stdout();
    assert!(new.contains("it does not open 1 of the 2 encrypted snapshots"), "{new}");
    machine
        .run(&["key", "remove", &three])
        .refused(2, &["one recipient alone would be left", "nothing was changed"]);
    let trusted = machine.run(&["key", "trust", "--json"]).json();
    assert_fits("key trust", &trusted);
}

#[test]
fn a_repository_whose_recipients_others_have_changed_is_not_trusted_until_a_person_says_so() {
    let machine = Machine::encrypted(3);
    let mut marker: Value =
        serde_json::from_slice(&fs::read(machine.volsnap.repository().join("volsnap.json")).unwrap())
            .unwrap();
    marker["recipients"] = serde_json::json!([machine.recipients[2]]);
    fs::write(machine.volsnap.repository().join("volsnap.json"), marker.to_string()).unwrap();
    let listed = machine.run(&["key", "list"]);
    assert_eq!(listed.code(), Some(3), "{}", listed.stdout());
    assert!(listed.stdout().contains("does not trust them"), "{}", listed.stdout());
    machine.run(&["key", "add", &machine.recipients[0]]).refused(2, &["as this host knows it", "key trust"]);
    let trust = listed.next().into_iter().find(|line| line.contains("key trust")).unwrap();
    let _ = machine.volsnap.paste(&trust).expect(0);
    let _ = machine.run(&["key", "list"]).expect(0);
}

#[test]
fn a_repository_that_is_gone_is_made_again_for_the_same_recipients() {
    let machine = Machine::encrypted(2);
    fs::remove_dir_all(machine.volsnap.repository()).unwrap();
    let gone = machine.run(&["init"]);
    gone.refused(2, &["is gone", "it was encrypted", "nothing was touched"]);
    assert!(!machine.volsnap.repository().exists(), "none is made that anybody could read");
    let _ = machine.volsnap.paste(&gone.next()[0]).expect(0);
    let listed = machine.run(&["key", "list", "--json"]).json();
    let mut recipients = machine.recipients.clone();
    recipients.sort();
    assert_eq!((&listed["recipients"], &listed["trusted"]), (&serde_json::json!(recipients), &true.into()));
}

#[test]
fn nothing_in_a_plain_repository_is_encrypted_by_a_key() {
    let machine = Machine::new(2);
    machine.take(0);
    machine.run(&["key", "list"]).refused(2, &["nothing in", "is encrypted"]);
    machine.run(&["key", "add", &machine.recipients[0]]).refused(2, &["nothing was changed"]);
    machine.with(0, &["key", "check"]).refused(2, &["is encrypted"]);
}

#[test]
fn what_is_in_clear_is_compared_with_what_is_sealed() {
    let machine = Machine::encrypted(2);
    machine.take(0);
    machine.take(60);
    // The sealed part of one snapshot in the manifest of another; its own seal is made good again.
    let manifests: Vec<PathBuf> = fs::read_dir(machine.volsnap.repository().join("snapshots/shop_db_data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    let [first, second] = [0, 1].map(|at| fs::read_to_string(&manifests[at]).unwrap());
    let contents =
        |text: &str| serde_json::from_str::<Value>(text).unwrap()["sealed"]["contents"].to_string();
    let swapped = sealed_again(&first.replace(&contents(&first), &contents(&second)));
    fs::write(&manifests[0], swapped).unwrap();
    let id = serde_json::from_str::<Value>(&first).unwrap()["id"].as_str().unwrap().to_owned();
    machine
        .with(0, &["show", &id, "--files"])
        .refused(3, &["what it says in clear is not what is sealed in it"]);
}

/// Returns a manifest with a seal that matches.
fn sealed_again(text: &str) -> String {
    let body = &text[..text.rfind(",\n  \"seal\"").unwrap()];
    format!("{body},\n  \"seal\": \"{}\"\n}}\n", blake3::hash(body.as_bytes()).to_hex())
}

#[test]
fn a_repository_of_an_encrypted_format_is_read_with_its_identity() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/v2/encrypted");
    let volsnap = Volsnap::new();
    crate::formats::copy(&fixture.join("repository"), &volsnap.repository());
    let identity = fixture.join("identity.txt");
    let with = [("VOLSNAP_IDENTITY_FILE", identity.to_str().unwrap())];
    assert_eq!(volsnap.list()[0]["id"], "20261129T145900Z-df1976");
    let listed = volsnap.run(["key", "list", "--json"]).json();
    assert_eq!(listed["recipients"].as_array().unwrap().len(), 1, "the change counts: {listed}");
    let files = volsnap.run_with(&["show", "latest", "--files"], &with).expect(0).stdout();
    assert!(files.contains("sub/link"), "{files}");
    let shown = volsnap.run_with(&["show", "latest", "--json"], &with).json();
    assert_eq!(shown["location"]["volume"], "shop_files");
    let verified = volsnap.run_with(&["verify", "latest", "--json"], &with).json();
    assert_eq!((&verified["ok"], &verified["files"]), (&true.into(), &4.into()));
    let marker: Value =
        serde_json::from_slice(&fs::read(fixture.join("repository/volsnap.json")).unwrap()).unwrap();
    assert_eq!(marker["format_version"], 2, "an earlier volsnap refuses it");
    let manifest = fs::read_to_string(
        fixture.join("repository/snapshots/shop_files/shop_files-20261129T145900Z-df1976.json"),
    );
    assert!(manifest.unwrap().contains("\"age-encryption\""), "and names what it does not know");
}
