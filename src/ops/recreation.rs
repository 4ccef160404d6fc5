//! What `restart --recreate` will do, found out before anything is stopped: whether Compose can make the containers
//! anew, and what would be other than before.
//!
//! A container was made with the variables of a shell that is long gone. Compose takes a variable without a value for
//! empty, and warns; so a password can become the empty one by a restart. What differs is named, and asked for.

use std::ffi::OsString;

use super::Context;
use super::made_from::{Changes, changes, set_variables};
use crate::compose::command::Spelling;
use crate::compose::configuration::{Configuration, ConfiguredVolume};
use crate::compose::edit::differences;
use crate::compose::environment::Environment;
use crate::compose::files::FoundProject;
use crate::compose::{Membership, Recreate, RecreateError};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, ErrorKind, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::Source;
use crate::selector::Target;
use crate::service::sharing::shares;

/// How Compose makes containers anew.
pub(super) struct Recreation {
    /// Compose, and the services.
    pub(super) recreate: Recreate,
    /// What the containers will have other than before: `db: environment PASSWORD`.
    pub(super) changes: Vec<String>,
    /// What Compose warns of.
    pub(super) warnings: Vec<String>,
}

impl Recreation {
    /// Looks at the files, the images and the volumes of these containers. The first to be started comes first, and its
    /// project is made anew. Touches nothing.
    ///
    /// # Errors
    /// When Compose would refuse, or would have to fetch or to build an image while the service is away. `otherwise` is
    /// the command that does without.
    pub(super) async fn plan(context: &Context, starts: &[&Container], otherwise: &Hint) -> Result<Self> {
        // A container that docker-compose 1 would give a network of its own is left to the engine.
        let joins = Spelling::find(&*context.compose).await.is_ok_and(Spelling::joins_stopped);
        let shares_another =
            |one: &Container| starts.iter().any(|other| one.id != other.id && shares(one, other));
        let starts: Vec<&Container> =
            starts.iter().copied().filter(|one| joins || !shares_another(one)).collect();
        let starts = starts.as_slice();
        let project =
            starts.first().and_then(|first| Membership::of(&first.labels)).map(|member| member.project);
        let is_of_it = |one: &Container| {
            project.is_some() && Membership::of(&one.labels).map(|member| member.project) == project
        };
        let recreate = Recreate::of(&context.compose, starts, Some(&context.address));
        let refused = |error: RecreateError| {
            let otherwise = otherwise.clone();
            Error::failed("make the containers anew").with_source(error).hint(otherwise)
        };
        let recreate = recreate.await.map_err(refused)?;
        let configuration = recreate.compose.configuration().await;
        let configuration = configuration.map_err(|error| refused(error.into()))?;
        let mut found = Vec::new();
        for container in starts.iter().filter(|one| is_of_it(one)) {
            let Some(member) = Membership::of(&container.labels) else { continue };
            refuse_missing_image(context, &configuration, (member.service, *container)).await?;
            for volume in configuration.volumes(member.service) {
                refuse_other_volume_options(context, &volume).await?;
            }
            let of = (member.service, *container);
            if let Changes::Named(names) = changes(context, &recreate.compose, &configuration, of).await? {
                found.extend(names.into_iter().map(|name| format!("{}: {name}", member.service)));
            }
        }
        let unset = configuration.unset.iter();
        let unset =
            unset.map(|name| format!("the variable {name} has no value here: Compose takes it for empty"));
        let warned = configuration.warnings.iter().map(|warning| format!("Compose says: {warning}"));
        Ok(Self { recreate, changes: found, warnings: unset.chain(warned).collect() })
    }
}

/// Refuses a service whose image the engine does not have, or cannot have, since a variable in its name is not set.
async fn refuse_missing_image(
    context: &Context,
    configuration: &Configuration,
    (service, container): (&str, &Container),
) -> Result<()> {
    let name = configuration.image(service).unwrap_or(&container.image);
    let refused = |error: Error| error.state("nothing was stopped");
    if name.is_empty() {
        let hint = set_variables(configuration)
            .unwrap_or_else(|| Hint::advice("name an image in the compose file, and try again"));
        return Err(refused(Error::failed(format!("the service {service} has no image")).hint(hint)));
    }
    match context.docker.image(name).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(refused(
            Error::failed(format!("the image {name} of the service {service} is not on the engine"))
                .hint(set_variables(configuration).unwrap_or_else(|| Hint::docker(["pull", name]))),
        )),
        Err(error) => {
            let hint = set_variables(configuration).unwrap_or_else(|| {
                Hint::advice("mend the name of the image in the compose file, and try again")
            });
            Err(refused(
                Error::failed(format!("look for the image {name} of the service {service}"))
                    .with_source(error)
                    .hint(hint),
            ))
        }
    }
}

/// Refuses files that give a volume another driver, or other options for it, than it has: Compose refuses them too, or
/// offers to make the volume anew, empty.
async fn refuse_other_volume_options(context: &Context, configured: &ConfiguredVolume) -> Result<()> {
    let name = &configured.name;
    let volume = context.docker.volume(name).await.context(|| format!("look at volume {name}"))?;
    let Some(volume) = volume else { return Ok(()) };
    let own = |options: &std::collections::BTreeMap<String, String>| {
        options.clone().into_iter().filter(|(name, _)| !name.starts_with("com.docker.")).collect::<Vec<_>>()
    };
    let other_driver = configured.driver.as_ref().is_some_and(|driver| *driver != volume.driver);
    let what = match (other_driver, own(&configured.options) == own(&volume.options)) {
        (true, _) => "driver",
        (_, false) => "driver_opts",
        _ => return Ok(()),
    };
    Err(Error::failed(format!(
        "the compose file gives volume {name} another `{what}` than it has, and no volume takes that afterwards"
    ))
    .hint(
        Hint::shell(format!(
            "docker volume inspect --format '{{{{.Driver}}}} {{{{json .Options}}}}' {}",
            shell_quote(name)
        ))
        .why("shows what it has; let the compose file say the same"),
    )
    .state("nothing was stopped"))
}

/// Refuses compose files that have another volume where the data is. Files that we do not understand are left to
/// Compose: afterwards we look at what it mounted.
pub(super) fn refuse_other_volume(source: &Source, stops: &[Container], target: &Target) -> Result<()> {
    for container in stops {
        let MountSource::Volume(volume) = &source.location else { continue };
        let Some((destination, service)) =
            source.mounted_at(container).zip(Membership::of(&container.labels))
        else {
            continue;
        };
        let mount = (service.service.to_owned(), destination, source.location.clone());
        let Ok(project) = FoundProject::of(&container.labels, &shell()) else { continue };
        let Ok(differences) = differences(&project.files, &[mount]) else { continue };
        if let Some(difference) = differences.into_iter().next() {
            let (line, file) = (difference.line, shell_quote(&difference.file.to_string_lossy()));
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("the compose file has another volume for the data of container {}", container.name),
            )
            .with_source(difference)
            .hint(Hint::shell(format!("sed -n {line}p {file}")).why("mend it, then once more"))
            .or(Hint::volsnap(["snapshot", &target.spelling()]).why(
                "if another volume is meant, save what is to get there, and restore it with --new-volume",
            ))
            .state(format!("nothing was stopped, and the data is in volume {volume}")));
        }
    }
    Ok(())
}

/// Returns the variables that Compose gets from us.
fn shell() -> Environment {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| !name.starts_with("COMPOSE_")).collect()
}
