//! An encrypted repository on a real PostgreSQL: `docs/encryption.md` is true, as every command on it is run; the archive is
//! what age and tar open; and no secret is anywhere but in its file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use volsnap::crypt::{Identities, opened};

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::world::docker;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/encryption.md"));
/// The verbs that the page has.
const VERBS: usize = 17;

/// Returns the commands of the page, each with the lines that it prints.
fn steps() -> Vec<(String, Vec<String>)> {
    let (mut steps, mut is_console) = (Vec::<(String, Vec<String>)>::new(), false);
    for line in PAGE.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if is_console {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push((command.to_owned(), Vec::new())),
                None => steps.last_mut().unwrap().1.push(line.to_owned()),
            }
        }
    }
    steps
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Runs the page; returns all that was printed.
fn follow(volsnap: &Volsnap, target: &str, volume: &str) -> String {
    let root = volsnap.home().display().to_string();
    let here = |text: &str| {
        text.replace("/media/", &format!("{root}/media-"))
            .replace("/mnt/second", &format!("{root}/second"))
            .replace("snapshot db", &format!("snapshot {target}"))
            .replace("--new-volume copy", &format!("--new-volume {volume}"))
    };
    for medium in ["one", "two", "three"] {
        std::fs::create_dir_all(format!("{root}/media-{medium}")).unwrap();
    }
    let steps = steps();
    let verbs = steps.iter().filter(|(command, _)| command.starts_with("volsnap ")).count();
    assert_eq!(verbs, VERBS, "the page has other commands");
    let mark = "the next command of the page";
    let lines = steps.iter().map(|(command, _)| format!("echo '{mark}'\n{}\n", here(command)));
    let script = format!("set -euo pipefail\n{}", lines.collect::<String>());
    let ran = Ran::of(volsnap.shell().args(["-c", &script]));
    let printed = format!("{}\n{}", ran.stdout(), ran.stderr());
    assert_eq!(ran.code(), Some(0), "{printed}");
    for ((command, shown), output) in steps.iter().zip(ran.stdout().split(mark).skip(1)) {
        for shown in shown {
            // What stands for the name of the service is another one here.
            let end = shown.rsplit_once(" of shop ").map_or(shown.as_str(), |(_, end)| end);
            assert!(output.contains(end.trim()), "{command} does not print {shown:?}:\n{output}");
        }
    }
    printed
}

#[tokio::test]
async fn the_page_is_followed_on_a_database_and_only_an_identity_opens_what_is_stored() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let copy = format!("{}-copy", postgres.volume);
    let printed = follow(&volsnap, &postgres.target(), &copy);
    postgres.assert_whole();
    docker(&["volume", "rm", &copy]);
    volsnap.assert_no_leftovers();

    let file = volsnap.home().join("media-one/identity.txt");
    let identity = std::fs::read_to_string(&file).unwrap();
    let secret = identity.lines().last().unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1") && !printed.contains(secret), "it was printed");
    for place in [volsnap.repository(), volsnap.state(), volsnap.home().join("second")] {
        for path in files_below(&place) {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the identity is in {}", path.display());
        }
    }

    // What age decrypts is what tar unpacks: here with the library of age, since its program may not be there.
    let archive = files_below(&volsnap.repository())
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".tar.zst.age"));
    let stored = std::fs::File::open(archive.unwrap()).unwrap();
    let mut plain = Vec::new();
    opened(stored, &Identities::parse(&identity).unwrap()).unwrap().read_to_end(&mut plain).unwrap();
    let tar = volsnap.home().join("plain.tar.zst");
    std::fs::write(&tar, plain).unwrap();
    let listed = std::process::Command::new("tar").arg("--zstd").arg("-tf").arg(&tar).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("global/pg_control"), "{listed}");

    let stranger = volsnap.home().join("stranger.txt");
    let _ = volsnap.run(["key", "generate", "-o", stranger.to_str().unwrap()]).expect(0);
    let wrong = [("VOLSNAP_IDENTITY_FILE", stranger.to_str().unwrap())];
    for command in [&["restore", "latest", "--new-volume", &copy, "-y"][..], &["verify", "--drill", "latest"]]
    {
        volsnap
            .run_with(command, &wrong)
            .refused(2, &["no identity that was given opens it", "nothing was written"]);
        volsnap.run(command.to_vec()).refused(2, &["it is encrypted, and no identity was given"]);
    }
    let taken = volsnap.list().len();
    let drilled = volsnap.run_with(&["snapshot", &postgres.target(), "--drill"], &wrong);
    drilled.refused(2, &["opens nothing that is encrypted to", "nothing was touched"]);
    assert_eq!(volsnap.list().len(), taken, "nothing is taken that cannot be drilled as was asked");
    let undrilled = drilled.next().into_iter().find(|line| !line.contains("--drill")).unwrap();
    let _ = volsnap.paste(&undrilled).expect(0);
    assert_eq!(volsnap.list().len(), taken + 1);
    postgres.assert_whole();
    make_by_the_printed_commands(&volsnap, &postgres, &identity);
}

/// Repositories that are to be encrypted are made by no other command by the way, and each refusal says by which.
fn make_by_the_printed_commands(volsnap: &Volsnap, postgres: &Postgres, identity: &str) {
    let one = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let third = volsnap.home().join("third").display().to_string();
    let single = volsnap.run(["copy", "--to", &third, "--init", "--encrypt-to", one]);
    single.refused(2, &["whoever loses its identity loses every snapshot there"]);
    let make = single.next().into_iter().find(|line| line.contains("--single-key")).unwrap();
    let _ = volsnap.paste(&make).expect(0);
    let fourth = volsnap.home().join("fourth").display().to_string();
    let recipients = std::fs::read_to_string(volsnap.home().join("media-three/identity.txt")).unwrap();
    let three = recipients.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let (both, target) = (format!("{one},{three}"), postgres.target());
    let named = [("VOLSNAP_RECIPIENTS", both.as_str())];
    let none = volsnap.run_with(&["--repo", &fourth, "snapshot", &target], &named);
    none.refused(2, &["VOLSNAP_RECIPIENTS says that it is to be encrypted", "nothing was touched"]);
    assert!(!Path::new(&fourth).exists());
    let init = none.next().into_iter().find(|line| line.contains("init")).unwrap();
    let _ = Ran::of(volsnap.shell().env(named[0].0, named[0].1).args(["-c", &init])).expect(0);
    let taken = volsnap.run_with(&["--repo", &fourth, "snapshot", &target, "--json"], &named).json();
    assert!(taken["archive"].as_str().unwrap().ends_with(".age"), "{taken:#}");
}
