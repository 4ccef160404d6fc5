//! Which names and ids may become part of a URL.

use super::failure::not_found;
use crate::engine::Result;

/// Whether the engine could have a container or a volume of this name or id.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

pub(super) fn check_container_name(doing: &str, id: &str) -> Result<()> {
    if is_name(id) { Ok(()) } else { Err(not_found(doing, format!("no such container: {id}"))) }
}

/// Whether this could name an image; never a path that climbs.
pub(super) fn is_image_reference(reference: &str) -> bool {
    reference.split('/').all(|part| part.starts_with(|first: char| first.is_ascii_alphanumeric()))
        && reference
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@'))
}
