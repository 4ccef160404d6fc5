//! Somebody who types commands, and pastes those that are printed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use volsnap::compose::runner::Invocation;
use volsnap::engine::{Docker as _, Grace};
use volsnap::model::container::Container;

use super::line::{Joint, commands};
use super::simulated::{DATA, KEPT, World};
use crate::cli::type_on;

/// What is at the begin of a line that has a command.
const LEADS: [&str; 9] = ["next:", "or:", "->", "undo", "verify", "back", "next", "anew:", "keep"];
/// The commands that are known here.
const PROGRAMS: [&str; 14] = [
    "volsnap", "docker", "(export", "rm", "mv", "ls", "df", "sed", "chmod", "tar", "zstd", "gzip", "mkdir",
    "cat",
];
/// How long a container may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(600);

/// Paper on which several may write.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What came of a command.
pub(crate) struct Ran {
    line: String,
    code: ExitCode,
    pub(crate) text: String,
}

impl Ran {
    fn of(line: &str, outcome: Result<String, String>) -> Self {
        let (code, text) = match outcome {
            Ok(text) => (0, text),
            Err(text) => (1, text),
        };
        Self { line: line.to_owned(), code: code.into(), text }
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: u8) -> &Self {
        assert_eq!(self.code, ExitCode::from(code), "{}\n{}", self.line, self.text);
        self
    }

    /// Returns the commands that were printed, without their purposes.
    pub(crate) fn printed(&self) -> Vec<String> {
        let command = |line: &str| {
            let line = line.trim_start();
            let rest = LEADS.iter().find_map(|lead| line.strip_prefix(lead)).unwrap_or(line).trim_start();
            let program = rest.split_whitespace().next()?;
            let line = rest.split("    # ").next()?.trim_end();
            PROGRAMS.contains(&program).then(|| line.to_owned())
        };
        self.text.lines().filter_map(command).collect()
    }
}

/// A world, and somebody who types there.
pub(crate) struct Desk {
    pub(crate) world: World,
    /// The options that name repository and engine.
    globals: [String; 4],
    /// What is not there now, and will be there again.
    taken_away: Mutex<Vec<Container>>,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        Self::at(World::new(false).await)
    }

    /// One whose services are those of a Compose project.
    pub(crate) async fn composed() -> Self {
        Self::at(World::new(true).await)
    }

    /// The same on a disk.
    pub(crate) async fn composed_on_disk() -> Self {
        Self::at(World::on_disk(true).await)
    }

    fn at(mut world: World) -> Self {
        world.arm(None);
        let repository = world.repository().display().to_string();
        let globals = ["--repo".to_owned(), repository, "--host".to_owned(), world.host.address.clone()];
        Self { world, globals, taken_away: Mutex::default() }
    }

    /// Has no call fail from here on.
    pub(crate) fn arm(&mut self) {
        self.world.arm(None);
    }

    /// The same with another repository.
    pub(crate) fn with_repository(mut self, place: &str) -> Self {
        place.clone_into(&mut self.globals[1]);
        self
    }

    /// The same on another engine.
    pub(crate) fn with_host(mut self, address: &str) -> Self {
        address.clone_into(&mut self.globals[3]);
        address.clone_into(&mut self.world.host.address);
        self
    }

    /// Has Compose make these containers, once it brings up what is not there.
    pub(crate) fn to_bring_up(&self, containers: Vec<Container>) {
        self.taken_away.lock().unwrap().extend(containers);
    }

    /// Types a command of ours, with repository and engine.
    pub(crate) async fn run(&self, words: &[&str]) -> Ran {
        let words: Vec<_> =
            self.globals.iter().cloned().chain(words.iter().map(|&word| word.to_owned())).collect();
        self.type_words(&words).await
    }

    async fn type_words(&self, words: &[String]) -> Ran {
        let paper = Paper::default();
        let code = Box::pin(type_on(&self.world.host, words, paper.clone())).await;
        let text = String::from_utf8_lossy(&paper.0.lock().unwrap()).into_owned();
        Ran { line: format!("volsnap {}", words.join(" ")), code, text }
    }

    /// Pastes a printed line. One that runs neither volsnap nor docker is for a real shell.
    pub(crate) async fn paste(&self, line: &str) -> Ran {
        let (mut last, mut is_ok) = (Ran::of(line, Ok(String::new())), true);
        for (joint, words) in commands(line) {
            if joint == Joint::And && !is_ok {
                continue;
            }
            last = match &*words[0] {
                "volsnap" => self.type_words(&words[1..]).await,
                "docker" => {
                    let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
                    Ran::of(line, self.docker(&words).await)
                }
                "export" => continue,
                _ => return self.shell(line),
            };
            is_ok = last.code == ExitCode::SUCCESS;
        }
        last
    }

    fn shell(&self, line: &str) -> Ran {
        let ours = commands(line).iter().any(|(_, words)| words[0] == "volsnap" || words[0] == "docker");
        assert!(!ours, "not for a real shell: {line}");
        let output = Command::new("bash").args(["-c", line]).current_dir(self.world.root()).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ran::of(line, if output.status.success() { Ok(text) } else { Err(text) })
    }

    /// Does what the engine's client does, as far as it is ever advised.
    async fn docker(&self, words: &[&str]) -> Result<String, String> {
        let words = match words {
            ["--host", host, rest @ ..] => {
                assert_eq!(*host, self.world.host.address);
                rest
            }
            rest => rest,
        };
        let engine = &self.world.engine;
        let there = async |name: &str| {
            let found = engine.container(name).await.map_err(|error| error.to_string())?;
            found.map(|container| container.name).ok_or_else(|| format!("no such container: {name}"))
        };
        let done = match words {
            ["start", names @ ..] => {
                for name in names {
                    engine.start(name).await.map_err(|error| error.to_string())?;
                }
                Ok(())
            }
            ["stop", "-t", _, name] | ["stop", name] => engine.stop(name, None, Grace::Own, STOP_LIMIT).await,
            ["pause", name] => engine.pause(name).await,
            ["unpause", names @ ..] => {
                for name in names {
                    engine.unpause(name).await.map_err(|error| error.to_string())?;
                }
                Ok(())
            }
            ["rm", "-f", name] => {
                there(name).await?;
                engine.remove_container(name).await
            }
            ["volume", "rm", name] => {
                let found = engine.volume(name).await.map_err(|error| error.to_string())?;
                found.ok_or_else(|| format!("no such volume: {name}"))?;
                engine.remove_volume(name).await
            }
            ["inspect", "--format", _, name] => return there(name).await,
            ["logs", "--tail", _, name] => {
                return engine.logs(name, 50).await.map_err(|error| error.to_string());
            }
            ["exec", name, command @ ..] => {
                let command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
                let answer = engine.exec(name, &command, Duration::from_secs(60)).await;
                let answer = answer.map_err(|error| error.to_string())?;
                let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return if answer.exit_code == 0 {
                    Ok(said(&answer.stdout))
                } else {
                    Err(said(&answer.stderr))
                };
            }
            ["image", "rm", tag] => match engine.image(tag).await.map_err(|error| error.to_string())? {
                Some(image) => engine.remove_image(&image.id).await,
                None => return Err(format!("no such image: {tag}")),
            },
            // What is copied out of the container's own layer is not there in memory; that it can be, is.
            ["cp", "--archive", from, _] => return there(from.split(':').next().unwrap_or_default()).await,
            ["service", "inspect", ..] => return Ok("{\"Replicated\":{\"Replicas\":1}}".to_owned()),
            ["service", "scale", change] => return self.scale(change).await,
            ["compose", .., "ps", "--all"] | ["ps", ..] | ["volume", "ls"] | ["info"] | ["service", "ls"] => {
                let all = engine.containers().await.map_err(|error| error.to_string())?;
                return Ok(all.into_iter().map(|one| one.name + "\n").collect());
            }
            ["compose", "version"] => return Ok("2.27.0".to_owned()),
            ["compose", ..] => return self.compose(words).await,
            other => panic!("this is not known here: docker {}", other.join(" ")),
        };
        done.map(|()| String::new()).map_err(|error| error.to_string())
    }

    async fn compose(&self, words: &[&str]) -> Result<String, String> {
        let is_up = words.contains(&"up");
        // What it only checks, it need not print.
        let words = words.iter().copied().filter(|word| *word != "--quiet");
        let words = std::iter::once("docker").chain(words).map(Into::into).collect();
        let invocation = Invocation { words, directory: self.world.root(), run: None, address: None };
        let output = self.world.engine.compose().run(invocation).await.map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(said(&output.stderr));
        }
        if is_up {
            self.bring_up().await?;
        }
        Ok(said(&output.stdout))
    }

    /// Starts what Compose has made anew, and makes what is not there.
    async fn bring_up(&self) -> Result<(), String> {
        let engine = &self.world.engine;
        let missing: Vec<_> = self.taken_away.lock().unwrap().drain(..).collect();
        for one in missing {
            engine.add(Container { id: String::new(), ..one }).map_err(|error| error.to_string())?;
        }
        for one in engine.containers().await.map_err(|error| error.to_string())? {
            if one.labels.contains_key("com.docker.compose.project") {
                engine.start(&one.id).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Takes the tasks of a service away, or brings them back, as its manager does.
    async fn scale(&self, change: &str) -> Result<String, String> {
        let (service, tasks) = change.split_once('=').unwrap();
        let engine = &self.world.engine;
        if tasks == "0" {
            let all = engine.containers().await.map_err(|error| error.to_string())?;
            let label = "com.docker.swarm.service.name";
            for task in
                all.into_iter().filter(|one| one.labels.get(label).is_some_and(|name| name == service))
            {
                engine
                    .stop(&task.id, None, Grace::Own, STOP_LIMIT)
                    .await
                    .map_err(|error| error.to_string())?;
                engine.remove_container(&task.id).await.map_err(|error| error.to_string())?;
                self.taken_away.lock().unwrap().push(task);
            }
            return Ok(String::new());
        }
        let again: Vec<_> = self.taken_away.lock().unwrap().drain(..).collect();
        assert_eq!(again.len().to_string(), tasks, "it has another number of tasks than before");
        for task in again {
            let id =
                engine.add(Container { id: String::new(), ..task }).map_err(|error| error.to_string())?;
            engine.start(&id).await.map_err(|error| error.to_string())?;
        }
        Ok(String::new())
    }

    /// Returns the printed command of this number. It keeps what was typed, and is another one.
    #[track_caller]
    fn chosen(&self, typed: &[&str], refused: &Ran, number: usize) -> String {
        let printed = refused.printed();
        let command = printed.get(number).unwrap_or_else(|| panic!("{printed:?}\n{}", refused.text)).clone();
        for (_, words) in commands(&command) {
            if words[0] == "volsnap" {
                assert!(words.contains(&self.globals[1]), "another repository: {command}");
                assert!(words.contains(&self.globals[3]), "another engine: {command}");
                let kept = ["--json", "--dry-run"].iter().filter(|word| typed.contains(word));
                kept.for_each(|word| {
                    assert!(words.iter().any(|one| one == word), "{word} is lost: {command}");
                });
            }
            assert!(
                words[0] != "docker" || words.contains(&self.globals[3]) || command.contains("DOCKER_HOST")
            );
        }
        let same = commands(&command).iter().any(|(_, words)| {
            let rest = words[1..].iter().filter(|word| !self.globals.contains(word));
            words[0] == "volsnap" && rest.eq(typed.iter())
        });
        assert!(!same || commands(&command).len() > 1, "the very command just typed: {command}");
        command
    }

    /// Types a command that ends with this code, and pastes the printed command of this number; returns both.
    pub(crate) async fn follow(&self, typed: &[&str], code: u8, number: usize) -> (String, Ran) {
        let refused = self.run(typed).await;
        refused.expect(code);
        let command = self.chosen(typed, &refused, number);
        let pasted = self.paste(&command).await;
        (command, pasted)
    }

    /// As [`follow`](Self::follow); the command has this in it and succeeds, and the service is well.
    pub(crate) async fn leads_on(&self, typed: &[&str], code: u8, number: usize, has: &str) -> Ran {
        let (command, pasted) = self.follow(typed, code, number).await;
        assert!(command.contains(has), "{has} is not in: {command}");
        pasted.expect(0);
        self.assert_well(&command).await;
        pasted
    }

    /// The database runs and has its rows, and nobody did what nobody may do.
    pub(crate) async fn assert_well(&self, context: &str) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(self.world.answers("db").await, "{context}: the database does not answer");
        assert_eq!(self.world.engine.violations(), Vec::<String>::new(), "{context}");
        assert_eq!(self.rows().await, KEPT.1, "{context}");
    }

    /// Returns the rows that the database has.
    pub(crate) async fn rows(&self) -> Vec<String> {
        let db = self.world.container("db").await;
        let mount = db.mounts.iter().find(|mount| mount.destination.as_os_str() == super::simulated::PGDATA);
        self.world
            .rows(&mount.map_or_else(|| self.world.engine.directory_of(DATA), |mount| mount.source.clone()))
    }

    /// Stops a container, as somebody does by hand.
    pub(crate) async fn stop(&self, name: &str) {
        self.world.engine.stop(name, None, Grace::Own, STOP_LIMIT).await.unwrap();
    }

    /// Makes a container anew, changed.
    pub(crate) async fn change(&self, name: &str, change: impl FnOnce(&mut Container)) {
        let engine = &self.world.engine;
        let before = self.world.container(name).await;
        self.stop(name).await;
        engine.remove_container(name).await.unwrap();
        let mut made = Container { id: String::new(), ..before.clone() };
        change(&mut made);
        let id = engine.add(made).unwrap();
        if before.state.running {
            engine.start(&id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Returns a path below the world's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.root().join(name)
    }
}
