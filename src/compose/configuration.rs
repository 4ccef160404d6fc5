//! What Compose makes of a project's files, with every variable replaced; and where a container has something else.
//!
//! Compose itself decides whether a container is still as the files say ([`Compose::keeps`]). This only names
//! what differs, for a person: by the names of fields and variables, never by their values.
//!
//! [`Compose::keeps`]: super::command::Compose::keeps

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::edit::{MASK, said};
use crate::model::container::{Container, Image, MountKind};

/// What Compose warns of where the name of a variable may be a piece of a password.
const PIECE: &str =
    "what follows a `$` in a value is taken for a variable, which is not set (`$$` stands for a `$`)";
/// The labels that Compose puts on everything by itself.
const OWN_LABELS: &str = "com.docker.compose.";
/// What is compared here; of all else a service says, only the name can be told.
const COMPARED: [&str; 12] = [
    "command",
    "entrypoint",
    "environment",
    "image",
    "labels",
    "network_mode",
    "pid",
    "restart",
    "stop_grace_period",
    "stop_signal",
    "user",
    "volumes",
];
/// What says nothing of a container.
const NOT_OF_CONTAINERS: [&str; 6] = ["build", "depends_on", "env_file", "profiles", "pull_policy", "scale"];

/// What Compose makes of a project's files.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    project: String,
    said: Value,
    /// Variables of the files that have no value: Compose takes them for empty.
    pub unset: Vec<String>,
    /// What else Compose warns of.
    pub warnings: Vec<String>,
}

impl Configuration {
    /// Reads what `config` has printed, and what it has warned of in the meantime.
    pub(super) fn of(project: &str, printed: &str, warned: &str) -> Self {
        let mut configuration = Self {
            project: project.to_owned(),
            said: said(printed).unwrap_or_default(),
            unset: Vec::new(),
            warnings: Vec::new(),
        };
        for line in warned.lines().map(message).filter(|line| !line.is_empty()) {
            let list = match unset_variable(&line) {
                Some(MASK) => (&mut configuration.warnings, PIECE.to_owned()),
                Some(name) => (&mut configuration.unset, name.to_owned()),
                None => (&mut configuration.warnings, line),
            };
            if !list.0.contains(&list.1) {
                list.0.push(list.1);
            }
        }
        configuration
    }

    /// Returns what a service says; none if the files have no such service.
    fn service(&self, name: &str) -> Option<&Map<String, Value>> {
        self.said["services"][name].as_object()
    }

    /// Returns the name of a service's image; none for one that is built and has no name in the files.
    #[must_use]
    pub fn image(&self, service: &str) -> Option<&str> {
        self.service(service)?.get("image")?.as_str()
    }

    /// Returns the volumes that a service mounts: the engine's name of each, its driver if the files name one, and the
    /// driver's options. Volumes that Compose does not make itself are not among them.
    #[must_use]
    pub fn volumes(&self, service: &str) -> Vec<ConfiguredVolume> {
        let mounts = self.service(service).and_then(|service| service.get("volumes"));
        let keys: BTreeSet<String> =
            mounts.into_iter().flat_map(items).filter_map(|mount| Mounted::of(mount)?.volume()).collect();
        let of = |key: String| {
            let volume = self.said["volumes"].get(&key)?;
            let external = !matches!(volume["external"].as_str(), None | Some("false"))
                || volume["external"].as_object().is_some();
            let text = |value: &Value| unescaped(value.as_str().unwrap_or_default());
            let options = volume["driver_opts"].as_object().into_iter().flatten();
            (!external).then(|| ConfiguredVolume {
                name: self.volume_name(&key),
                driver: volume["driver"].as_str().map(str::to_owned),
                options: options.map(|(name, value)| (name.clone(), text(value))).collect(),
            })
        };
        keys.into_iter().filter_map(of).collect()
    }

    fn volume_name(&self, key: &str) -> String {
        let volume = &self.said["volumes"][key];
        let external = &volume["external"];
        let named = volume["name"].as_str().or_else(|| external["name"].as_str());
        match named {
            Some(name) => unescaped(name),
            None if matches!(external.as_str(), None | Some("false")) && !external.is_object() => {
                format!("{}_{key}", self.project)
            }
            None => key.to_owned(),
        }
    }

    /// Returns whether the files have a service of that name; where nobody knows what they have, they may.
    #[must_use]
    pub fn has(&self, service: &str) -> bool {
        self.said.get("services").is_none() || self.service(service).is_some()
    }

    /// Returns what differs between a service and a container of it, by name: `image`, `environment PASSWORD`. `image`
    /// is the service's, if the engine has it: a container has from it what the files leave out.
    #[must_use]
    pub fn differences(&self, service: &str, container: &Container, image: Option<&Image>) -> Vec<Change> {
        let Some(said) = self.service(service) else { return vec![Change::Gone] };
        let said = Said(said);
        let mut found = Vec::new();
        let mut note = |differs: bool, name: &str| differs.then(|| found.push(Change::field(name)));
        let other_image =
            image.is_some_and(|image| !container.image_id.is_empty() && image.id != container.image_id);
        note(said.text("image").is_some_and(|name| name != container.image) || other_image, "image");
        note(said.runs_other(container, image), "command");
        note(said.text("user").unwrap_or_default() != container.user && said.has("user"), "user");
        note(
            policy(&said.text("restart").unwrap_or_default()) != policy(&container.restart_policy),
            "restart",
        );
        let signal = said.text("stop_signal");
        note(signal.is_some() && signal != container.stop_signal, "stop_signal");
        let grace = said.text("stop_grace_period").and_then(|text| seconds(&text));
        note(grace.is_some() && grace != container.stop_timeout, "stop_grace_period");
        note(!shares(said.text("network_mode").as_deref(), &container.network_mode), "network_mode");
        note(!shares(said.text("pid").as_deref(), &container.pid_mode), "pid");
        let of_image = image.map(|image| pairs(&image.env));
        found.extend(named(
            "environment",
            &said.pairs("environment"),
            &pairs(&container.env),
            of_image.as_ref(),
        ));
        let labels: BTreeMap<_, _> = container
            .labels
            .iter()
            .filter(|(name, _)| !name.starts_with(OWN_LABELS))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        found.extend(named("labels", &said.pairs("labels"), &labels, image.map(|image| &image.labels)));
        found.extend(self.other_mounts(&said, container));
        found
    }

    /// Returns what a service says that is not compared here, by name.
    #[must_use]
    pub fn not_compared(&self, service: &str) -> Vec<String> {
        let names = self.service(service).into_iter().flatten().filter(|(_, value)| !is_nothing(value));
        let names = names.map(|(name, _)| name.clone());
        let is_known = |name: &str| COMPARED.contains(&name) || NOT_OF_CONTAINERS.contains(&name);
        names.filter(|name| !is_known(name)).collect()
    }

    fn other_mounts(&self, said: &Said<'_>, container: &Container) -> Vec<Change> {
        let place = |mount: &crate::model::container::Mount| match (mount.kind, &mount.volume) {
            (MountKind::Volume, Some(name)) => name.clone(),
            _ => mount.source.display().to_string(),
        };
        let wanted = said.0.get("volumes").into_iter().flat_map(items).filter_map(Mounted::of);
        let differs = |mounted: &Mounted| {
            let now = container.mounts.iter().find(|mount| mount.destination == Path::new(&mounted.target));
            let source = match (&mounted.source, mounted.volume()) {
                (Some(_), Some(key)) => Some(self.volume_name(&key)),
                (source, _) => source.clone(),
            };
            now.is_none_or(|now| {
                source.is_some_and(|source| source != place(now)) || now.read_only != mounted.read_only
            })
        };
        wanted.filter(differs).map(|mounted| Change::Mount(mounted.target)).collect()
    }
}

/// What making a container anew from its files would change, by its name and never by its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The service is not in the files any more.
    Gone,
    /// Another volume or directory is mounted here, or none: the service would find other data, if it has it here.
    Mount(String),
    /// A field, or one name of it: `image`, `environment PASSWORD`.
    Field(String),
}

impl Change {
    /// Returns the change of a field.
    pub fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the service, which is gone"),
            Self::Mount(target) => write!(f, "volumes {target}"),
            Self::Field(name) => f.write_str(name),
        }
    }
}

/// A volume as the files describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredVolume {
    /// The engine's name of it.
    pub name: String,
    /// Its driver, if the files name one.
    pub driver: Option<String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// What a service says.
struct Said<'s>(&'s Map<String, Value>);

impl Said<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !is_nothing(value))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(unescaped)
    }

    /// Returns `NAME: value`, also written as `NAME=value`; one without a value is left out, as Compose does.
    fn pairs(&self, name: &str) -> BTreeMap<String, String> {
        match self.0.get(name) {
            Some(Value::Object(pairs)) => pairs
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), unescaped(value.as_str()?))))
                .collect(),
            Some(list) => pairs(&items(list).filter_map(Value::as_str).map(unescaped).collect::<Vec<_>>()),
            None => BTreeMap::new(),
        }
    }

    /// Returns the words of a command; none if the service has none, or if only a shell could tell its words.
    fn words(&self, name: &str) -> Option<Vec<String>> {
        match self.0.get(name).filter(|value| !is_nothing(value))? {
            Value::String(line) if line.contains(['\'', '"', '\\']) => None,
            Value::String(line) => Some(line.split_whitespace().map(unescaped).collect()),
            list => Some(items(list).filter_map(Value::as_str).map(unescaped).collect()),
        }
    }

    /// Returns whether entrypoint and command together are others than the container's.
    fn runs_other(&self, container: &Container, image: Option<&Image>) -> bool {
        let unknown = |name: &str| self.has(name) && self.words(name).is_none();
        let Some(image) = image.filter(|_| !unknown("entrypoint") && !unknown("command")) else {
            return false;
        };
        let (entrypoint, command) = match (self.words("entrypoint"), self.words("command")) {
            (None, None) => (image.entrypoint.clone(), image.command.clone()),
            (None, Some(command)) => (image.entrypoint.clone(), command),
            // With an entrypoint of one's own, the image's command does not count.
            (Some(entrypoint), command) => (entrypoint, command.unwrap_or_default()),
        };
        [entrypoint, command].concat() != container.command
    }
}

/// An entry of `volumes`, in either form.
struct Mounted {
    kind: Option<String>,
    source: Option<String>,
    target: String,
    read_only: bool,
}

impl Mounted {
    fn of(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry[name].as_str().map(unescaped);
        let Some(short) = entry.as_str().map(unescaped) else {
            let read_only = entry["read_only"].as_str() == Some("true");
            return Some(Self {
                kind: text("type"),
                source: text("source"),
                target: text("target")?,
                read_only,
            });
        };
        let parts: Vec<&str> = short.splitn(3, ':').collect();
        let mode = |mode: &str| mode.split(',').any(|word| word == "ro");
        let (source, target, read_only) = match parts[..] {
            [target] => (None, target, false),
            [source, target] => (Some(source), target, false),
            [source, target, said, ..] => (Some(source), target, mode(said)),
            [] => return None,
        };
        Some(Self { kind: None, source: source.map(str::to_owned), target: target.to_owned(), read_only })
    }

    /// Returns the key of the volume; none for anything else.
    fn volume(&self) -> Option<String> {
        let source = self.source.clone()?;
        match self.kind.as_deref() {
            Some("volume") => Some(source),
            Some(_) => None,
            None => (!source.starts_with(['/', '.', '~'])).then_some(source),
        }
    }
}

/// Returns what differs between pairs of names and values, by name. What the image sets is nobody's difference where
/// the files are silent; if the image is not known, all that they are silent about is taken for the image's.
fn named(
    kind: &str,
    files: &BTreeMap<String, String>,
    container: &BTreeMap<String, String>,
    image: Option<&BTreeMap<String, String>>,
) -> Vec<Change> {
    let of_image = |name: &String, value: &String| image.is_none_or(|image| image.get(name) == Some(value));
    let other = files.iter().filter(|(name, value)| container.get(*name) != Some(value));
    let more = container.iter().filter(|(name, value)| !files.contains_key(*name) && !of_image(name, value));
    let names: BTreeSet<&String> = other.chain(more).map(|(name, _)| name).collect();
    names.into_iter().map(|name| Change::field(format!("{kind} {name}"))).collect()
}

fn pairs(list: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    list.iter().filter_map(pair).collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Returns whether a service says nothing by this, as Compose prints it for what is not in the files.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(pairs) => pairs.is_empty(),
        _ => false,
    }
}

/// `config` doubles each `$`, so that what it prints can be read again.
fn unescaped(text: &str) -> String {
    text.replace("$$", "$")
}

fn policy(text: &str) -> &str {
    match text.split(':').next().unwrap_or_default() {
        "no" => "",
        policy => policy,
    }
}

/// Returns whether a container shares what the files say: nothing, the host's, or that of a service.
fn shares(said: Option<&str>, mode: &str) -> bool {
    let of_another = mode.starts_with("container:");
    match said {
        Some(said) if said.starts_with("service:") || said.starts_with("container:") => of_another,
        Some(said @ ("host" | "none")) => said == mode,
        Some(_) | None => !of_another && !matches!(mode, "host" | "none"),
    }
}

/// Returns the seconds of a duration such as `1m30s`; none if it has parts of a second.
fn seconds(text: &str) -> Option<i64> {
    let (mut total, mut number) = (0, String::new());
    for c in text.chars() {
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => {
                number.push(c);
                continue;
            }
        };
        total += std::mem::take(&mut number).parse::<i64>().ok()? * unit;
    }
    number.is_empty().then_some(total)
}

/// Returns what a line of Compose's log says: `time=… level=warning msg="…"`, or the line itself.
fn message(line: &str) -> String {
    let line = line.trim();
    match line.split_once("msg=\"") {
        Some((_, said)) => said.trim_end_matches('"').replace("\\\"", "\""),
        None => line.to_owned(),
    }
}

/// Returns the name of the variable that a warning says is not set.
fn unset_variable(said: &str) -> Option<&str> {
    let (before, _) = said.split_once(" variable is not set")?;
    before.rsplit(' ').next().map(|name| name.trim_matches('"'))
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
