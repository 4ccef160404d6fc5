//! The containers that a target is about, whatever their data is.

use super::names::{Match, matches};
use super::{Target, suggest};
use crate::model::container::Container;
use crate::model::error::Result;
use crate::model::location::MountSource;
use crate::selector::EngineInventory;
use crate::selector::inventory::inventory;

/// Returns the containers that a target means: those of a service, the one of that name, the users of a
/// volume or directory. Unlike [`resolve`](super::resolve()) it refuses nothing that exists.
///
/// # Errors
/// When the target names nothing.
pub fn containers<'w>(target: &Target, world: &'w EngineInventory) -> Result<Vec<&'w Container>> {
    let matches = matches(target, world);
    if matches.is_empty() {
        return Err(suggest::unknown(target, world));
    }
    let users = |location: MountSource| {
        let users = inventory(&location, world).users;
        let uses = |container: &&Container| users.iter().any(|user| user.container.id == container.id);
        world.containers.iter().filter(uses).collect::<Vec<_>>()
    };
    let mut found: Vec<&Container> = Vec::new();
    for one in matches {
        let meant = match one {
            Match::Service { containers, .. } => containers,
            Match::Container(container) => vec![container],
            Match::Volume(volume) => users(MountSource::Volume(volume.name.clone())),
            Match::Directory(path) => users(MountSource::Directory(path)),
        };
        for container in meant {
            if !found.iter().any(|known| known.id == container.id) {
                found.push(container);
            }
        }
    }
    Ok(found)
}
