//! A container like another one except for what is mounted at one place, if that is to change: what to ask the engine
//! for, and the proof that it made that. This is pure, over the engine's own JSON, and keeps even the fields that nobody here knows.
//!
//! The whole configuration is copied. Only these parts are not taken as they are:
//!
//! - The host name that the engine made from the old container's id; the new container gets its own.
//! - Volumes that nobody named: the new container gets the same ones, by their names. Its image would give it empty
//!   ones.
//! - Of its networks, everything that the engine handed out (addresses that nobody asked for, ids).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::RawInspect;
use crate::model::container::Namespace;
use crate::model::location::MountSource;

/// The parts of a network that the engine handed out and nobody asked for.
const HANDED_OUT: [&str; 10] = [
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "MacAddress",
    "DNSNames",
];

/// What to ask the engine for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Likeness {
    /// The body of the request that creates the container.
    pub(super) body: Value,
    /// Networks to connect it to afterwards, and how.
    pub(super) networks: Vec<(String, Value)>,
}

/// The mount that changes.
#[derive(Debug, Clone, Copy)]
pub struct NewMount<'m> {
    /// The path in the container.
    pub destination: &'m Path,
    /// What is mounted there from now on.
    pub source: &'m MountSource,
}

impl RawInspect {
    /// Returns the container of which this one shares that, as it names it.
    #[must_use]
    pub fn owner(&self, namespace: Namespace) -> Option<&str> {
        self.0["HostConfig"][namespace.field()].as_str()?.strip_prefix("container:")
    }

    /// Returns the same of a container that shares that of another one, which has this id.
    #[must_use]
    pub fn sharing(&self, namespace: Namespace, owner: &str) -> Self {
        let mut described = self.clone();
        described.0["HostConfig"][namespace.field()] = json!(format!("container:{owner}"));
        described
    }
}

/// Returns what to ask for, from what the engine says about a container. `image` is the name to ask for its image by.
///
/// # Errors
/// When something cannot be made alike; the error says what.
pub(super) fn likeness(
    inspected: &Value,
    new: Option<NewMount<'_>>,
    image: &str,
) -> Result<Likeness, String> {
    let mut config = object(inspected, "Config")?;
    let mut host = object(inspected, "HostConfig")?;
    let mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or_default().to_owned();
    config.insert("Image".to_owned(), json!(image));
    let shares_network = shares_network(&host);
    let shares_name =
        shares_network || mode == "host" || host.get("UTSMode").is_some_and(|uts| uts == "host");
    if shares_name || is_generated(&config, inspected) {
        config.remove("Hostname");
        config.remove("Domainname");
    }
    if shares_network {
        // They belong to the container whose network it is; the engine refuses them here.
        for field in ["ExposedPorts", "MacAddress"] {
            config.remove(field);
        }
    }
    if let Some(links) = host.get_mut("Links").and_then(Value::as_array_mut) {
        links.iter_mut().for_each(|link| *link = json!(asked_link(link.as_str().unwrap_or_default())));
    }
    if let Some(new) = new {
        replace_mount(&mut host, inspected, new)?;
    }
    name_anonymous_volumes(&mut host, inspected, new.map(|new| new.destination));

    let mut own = Map::new();
    let mut networks = Vec::new();
    for (name, endpoint) in endpoints(inspected) {
        let is_own = *name == mode || endpoint["NetworkID"] == mode.as_str();
        let is_default = name == "bridge" && matches!(mode.as_str(), "default" | "bridge" | "");
        if is_default || matches!(name.as_str(), "host" | "none") {
            continue;
        }
        let asked = asked_endpoint(endpoint, inspected);
        // Older engines take only one network at creation.
        if is_own {
            own.insert(name.clone(), asked);
        } else {
            networks.push((name.clone(), asked));
        }
    }
    let mut body = config;
    body.insert("HostConfig".to_owned(), Value::Object(host));
    body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": own }));
    Ok(Likeness { body: Value::Object(body), networks })
}

/// Returns where the two containers differ although they must not, by the names of the fields, never by their content.
/// `new` says what may differ.
pub(super) fn differences(old: &Value, made: &Value, new: Option<NewMount<'_>>) -> Vec<String> {
    let mut found = Vec::new();
    let at = new.map(|new| new.destination);
    compare(&comparable(old, at), &comparable(made, at), "", &mut found);
    let Some(new) = new else { return found };
    let destination = text(new.destination);
    let mount = mounts(made).find(|mount| mount["Destination"] == destination.as_str());
    let (field, wanted) = match new.source {
        MountSource::Volume(name) => ("Name", name.clone()),
        MountSource::Directory(path) => ("Source", text(path)),
    };
    if mount.is_none_or(|mount| mount[field] != wanted.as_str()) {
        found.push(format!("Mounts.{destination}"));
    }
    found
}

fn object(inspected: &Value, field: &str) -> Result<Map<String, Value>, String> {
    inspected[field].as_object().cloned().ok_or_else(|| format!("the engine says nothing of its {field}"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn short_id(inspected: &Value) -> &str {
    let id = inspected["Id"].as_str().unwrap_or_default();
    id.get(..12).unwrap_or(id)
}

fn is_generated(config: &Map<String, Value>, inspected: &Value) -> bool {
    config.get("Hostname").is_some_and(|name| *name == short_id(inspected))
}

fn endpoints(inspected: &Value) -> impl Iterator<Item = (&String, &Value)> {
    inspected["NetworkSettings"]["Networks"].as_object().into_iter().flatten()
}

fn is_mounted_at(mount: &Value, path: Option<&Path>) -> bool {
    path.is_some_and(|path| mount["Destination"] == text(path).as_str())
}

fn shares_network(host: &Map<String, Value>) -> bool {
    host.get("NetworkMode").and_then(Value::as_str).is_some_and(|mode| mode.starts_with("container:"))
}

fn mounts(inspected: &Value) -> impl Iterator<Item = &Value> {
    inspected["Mounts"].as_array().into_iter().flatten()
}

/// Returns a link as a request has it (`other:alias`), from the engine's form (`/other:/this/alias`).
fn asked_link(told: &str) -> String {
    match told.split_once(':') {
        Some((other, alias)) if told.starts_with('/') => {
            format!("{}:{}", other.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or(alias))
        }
        _ => told.to_owned(),
    }
}

/// Returns a network as a request has it. The container's own id is an alias that the engine adds.
fn asked_endpoint(endpoint: &Value, inspected: &Value) -> Value {
    let Some(fields) = endpoint.as_object() else { return json!({}) };
    let mut asked = fields.clone();
    asked.retain(|field, _| !HANDED_OUT.contains(&field.as_str()));
    if let Some(aliases) = asked.get_mut("Aliases").and_then(Value::as_array_mut) {
        aliases.retain(|alias| *alias != short_id(inspected));
    }
    Value::Object(asked)
}

/// Replaces what is mounted at the destination, however that was requested.
fn replace_mount(host: &mut Map<String, Value>, inspected: &Value, new: NewMount<'_>) -> Result<(), String> {
    let destination = text(new.destination);
    let source = match new.source {
        MountSource::Volume(name) => name.clone(),
        MountSource::Directory(path) => path.to_str().ok_or("the directory is not UTF-8")?.to_owned(),
    };
    let is_here = |target: &str| target.trim_end_matches('/') == destination;
    let mut read_only = None;
    if let Some(binds) = host.get_mut("Binds").and_then(Value::as_array_mut) {
        binds.retain(|bind| {
            let mut parts = bind.as_str().unwrap_or_default().split(':').skip(1);
            let found = parts.next().is_some_and(is_here);
            if found {
                read_only = Some(parts.next().unwrap_or_default().split(',').any(|mode| mode == "ro"));
            }
            !found
        });
    }
    let mut kept = None;
    if let Some(mounts) = host.get_mut("Mounts").and_then(Value::as_array_mut) {
        let found = mounts.iter().position(|mount| mount["Target"].as_str().is_some_and(is_here));
        kept = found.map(|found| mounts.remove(found));
    }
    let told = mounts(inspected).find(|mount| mount["Destination"].as_str().is_some_and(is_here));
    let Some(told) = told else { return Err(format!("nothing is mounted at {destination}")) };
    let read_only = read_only.unwrap_or_else(|| told["RW"] == json!(false));
    let mut mount = kept.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    // Options of a volume mean nothing to a directory, and the other way round.
    mount.remove("VolumeOptions");
    mount.remove("BindOptions");
    let kind = if matches!(new.source, MountSource::Volume(_)) { "volume" } else { "bind" };
    mount.extend([
        ("Type".to_owned(), json!(kind)),
        ("Source".to_owned(), json!(source)),
        ("Target".to_owned(), json!(destination)),
        ("ReadOnly".to_owned(), json!(read_only)),
    ]);
    add_mount(host, Value::Object(mount));
    Ok(())
}

/// Requests the volumes that nobody named by their names, so that the new container has the same ones.
fn name_anonymous_volumes(host: &mut Map<String, Value>, inspected: &Value, replaced: Option<&Path>) {
    let asked = |host: &Map<String, Value>, name: &str| {
        let binds = host.get("Binds").and_then(Value::as_array).into_iter().flatten();
        let named = host.get("Mounts").and_then(Value::as_array).into_iter().flatten();
        binds.filter_map(Value::as_str).any(|bind| bind.split(':').next() == Some(name))
            || named.clone().any(|mount| mount["Source"] == name)
    };
    for mount in
        mounts(inspected).filter(|mount| mount["Type"] == "volume" && !is_mounted_at(mount, replaced))
    {
        let (Some(name), Some(target)) = (mount["Name"].as_str(), mount["Destination"].as_str()) else {
            continue;
        };
        if asked(host, name) {
            continue;
        }
        // It may also have been requested without a name: that would make a new one.
        if let Some(mounts) = host.get_mut("Mounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| mount["Target"] != target);
        }
        let named = json!({ "Type": "volume", "Source": name, "Target": target, "ReadOnly": mount["RW"] == json!(false) });
        add_mount(host, named);
    }
}

fn add_mount(host: &mut Map<String, Value>, mount: Value) {
    match host.get_mut("Mounts").and_then(Value::as_array_mut) {
        Some(mounts) => mounts.push(mount),
        None => {
            host.insert("Mounts".to_owned(), json!([mount]));
        }
    }
}

/// Returns what must be the same in two containers, in one spelling, apart from what is mounted at that path.
fn comparable(inspected: &Value, replaced: Option<&Path>) -> Value {
    let mut config = inspected["Config"].as_object().cloned().unwrap_or_default();
    let image = inspected["Image"].clone();
    config.remove("Image");
    let mut host = inspected["HostConfig"].as_object().cloned().unwrap_or_default();
    if is_generated(&config, inspected) {
        config.remove("Hostname");
    }
    if shares_network(&host) {
        // It has the name of the one whose network it is, but only once it has run.
        config.remove("Hostname");
        config.remove("Domainname");
    }
    // The requests differ if volumes now have names; the comparison uses what is mounted.
    host.remove("Binds");
    host.remove("Mounts");
    if let Some(links) = host.get_mut("Links").and_then(Value::as_array_mut) {
        links.iter_mut().for_each(|link| *link = json!(asked_link(link.as_str().unwrap_or_default())));
    }
    let networks: Map<String, Value> = endpoints(inspected)
        .map(|(name, endpoint)| (name.clone(), asked_endpoint(endpoint, inspected)))
        .collect();
    let mounted = mounts(inspected).filter(|mount| !is_mounted_at(mount, replaced)).map(|mount| {
        let at = mount["Destination"].as_str().unwrap_or_default().to_owned();
        (at, json!([mount["Type"], mount["Name"], mount["Source"], mount["Driver"], mount["RW"]]))
    });
    let mounted: Map<String, Value> = mounted.collect();
    let read_only = mounts(inspected).find(|mount| is_mounted_at(mount, replaced)).map(|mount| &mount["RW"]);
    json!({
        "Image": image,
        "Config": config,
        "HostConfig": host,
        "Networks": networks,
        "Mounts": mounted,
        "MountMode": read_only,
        "Platform": inspected["Platform"],
    })
}

/// Finds the fields that differ. An empty field equals a missing one.
fn compare(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |fields: &Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                compare(&value(a), &value(b), &path, found);
            }
        }
        _ if says_nothing(old) && says_nothing(new) => {}
        _ if old == new => {}
        _ => found.push(path.to_owned()),
    }
}

#[cfg(test)]
#[path = "clone_tests.rs"]
mod tests;
