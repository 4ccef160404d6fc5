//! Whether containers are still what the compose files say: making them anew would change whatever is not.

use super::Context;
use crate::compose::command::Compose;
use crate::compose::configuration::{Change, Configuration};
use crate::model::container::{Container, Namespace};
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;

/// What making a container anew would change, by names of fields and variables, never by their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changes {
    /// Nothing: Compose itself would leave it as it is.
    None,
    /// This.
    Named(Vec<Change>),
    /// Compose does not tell, and nothing that can be compared differs.
    Unknown,
}

/// Returns what would change in a service's container if Compose made it anew from the files as they are now.
///
/// # Errors
/// When the engine does not tell of the service's image.
pub(super) async fn changes(
    context: &Context,
    compose: &Compose,
    configuration: &Configuration,
    (service, container): (&str, &Container),
) -> Result<Changes> {
    let keeps = compose.keeps(service, &container.labels).await;
    // The digest of one that shares something has the other one's id in it, which no question about it alone knows.
    let keeps = keeps.filter(|keeps| *keeps || !shares_something(container));
    let name = configuration.image(service).unwrap_or(&container.image);
    let image = context.docker.image(name).await.context(|| format!("look for the image {name}"))?;
    if keeps == Some(true) {
        // That compares the image's name, which may be the name of another image by now.
        let is_other = image.as_ref().is_some_and(|image| image.id != container.image_id);
        return Ok(if is_other { Changes::Named(vec![Change::field("image")]) } else { Changes::None });
    }
    let mut named = configuration.differences(service, container, image.as_ref());
    if named.is_empty() && keeps == Some(false) {
        let others = configuration.not_compared(service);
        named.push(Change::field(if others.is_empty() {
            "something that Compose does not name".to_owned()
        } else {
            format!("something among {}", others.join(", "))
        }));
    }
    Ok(if named.is_empty() { Changes::Unknown } else { Changes::Named(named) })
}

fn shares_something(container: &Container) -> bool {
    Namespace::ALL.into_iter().any(|namespace| namespace.mode_of(container).starts_with("container:"))
}

/// Returns the advice to give variables the values that they had, if some have none.
pub(super) fn set_variables(configuration: &Configuration) -> Option<Hint> {
    let unset = &configuration.unset;
    (!unset.is_empty()).then(|| {
        Hint::advice(format!(
            "set {} as when the containers were made, in the shell or in the project's .env, and try again",
            unset.join(", ")
        ))
    })
}
