//! A container like another one, on another place; compared with it once it is made.

use serde_json::{Value, json};

use super::failure::{not_found, other, within};
use super::names::{check_container_name, is_name};
use super::{CREATE_LIMIT, DockerEngine};
use crate::engine::clone::{Likeness, NewMount, differences, likeness};
use crate::engine::{Docker as _, DockerError, DockerErrorKind, RawInspect, Result};
use crate::model::location::MountSource;

impl DockerEngine {
    /// Creates one; removes it again if it cannot be finished.
    pub(super) async fn create_alike(
        &self,
        RawInspect(old): &RawInspect,
        name: &str,
        new: Option<NewMount<'_>>,
    ) -> Result<String> {
        let id = old["Id"].as_str().unwrap_or_default();
        let doing = format!("create container {name} like {}", id.get(..12).unwrap_or(id));
        check_container_name(&doing, name)?;
        if self.container(id).await?.is_some_and(|now| now.state.running) {
            let message = "it runs, and two of it must not".to_owned();
            return Err(DockerError { kind: DockerErrorKind::Conflict, doing, message });
        }
        // The engine would make a missing volume, empty.
        if let Some(MountSource::Volume(volume)) = new.map(|new| new.source)
            && self.volume(volume).await?.is_none()
        {
            return Err(not_found(&doing, format!("no such volume: {volume}")));
        }
        let image = self.image_name(old).await?;
        let Likeness { body, networks } =
            likeness(old, new, &image).map_err(|message| other(&doing, message))?;
        let path = format!("/containers/create?name={name}");
        let made = within(&doing, CREATE_LIMIT, self.raw.post(&doing, &path, &body)).await?;
        let Some(made) = made["Id"].as_str() else { return Err(other(&doing, "the engine names no id")) };
        match self.finish_likeness(&doing, made, old, &networks, new).await {
            Ok(()) => Ok(made.to_owned()),
            Err(error) => {
                // If the removal fails too, the container has the name, which finds it.
                let _ = self.remove_stopped_container(made).await;
                Err(error)
            }
        }
    }

    /// Returns by what name to ask for a container's image so that the engine takes the same one: its name, unless
    /// another image now has that name.
    async fn image_name(&self, inspected: &Value) -> Result<String> {
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, name) = (field(&inspected["Image"]), field(&inspected["Config"]["Image"]));
        let same = self.image(&name).await?.is_some_and(|image| image.id == id);
        Ok(if same { name } else { id })
    }

    /// Connects a created container to its further networks, and compares it with the original.
    async fn finish_likeness(
        &self,
        doing: &str,
        id: &str,
        old: &Value,
        networks: &[(String, Value)],
        new: Option<NewMount<'_>>,
    ) -> Result<()> {
        for (network, endpoint) in networks {
            if !is_name(network) {
                return Err(other(
                    doing,
                    format!("the network {network} has a name that cannot be asked for"),
                ));
            }
            let body = json!({ "Container": id, "EndpointConfig": endpoint });
            let path = format!("/networks/{network}/connect");
            within(doing, CREATE_LIMIT, self.raw.post(doing, &path, &body)).await?;
        }
        let differing = differences(old, &self.inspect_all(doing, id).await?, new);
        if differing.is_empty() {
            return Ok(());
        }
        Err(other(doing, format!("the engine made it otherwise than the old one: {}", differing.join(", "))))
    }
}
