//! The names of unfinished objects at a server that shows them.
//!
//! Where a server knows no uploads apart, an object is written under a name of its own and then moved to its key. The name
//! is another for each writer, so two that write one key never write into each other's bytes, and what a dead one has left
//! is in nobody's way. Whoever lists a folder sees all of them as the unfinished object of the key.

use std::sync::LazyLock;

use super::local::{PARTIAL, partial};
use super::{Key, KeyError};

/// The digits that tell writers apart.
const TOKEN: usize = 12;

/// Tells this process from all others, on whatever machine.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let began = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{} {} {began} {boot}", host.to_string_lossy(), std::process::id())
});

/// Returns the key of an object while its writer, the `number`th of this process, writes it.
pub(super) fn temporary(key: &Key, number: u64) -> Result<Key, KeyError> {
    let token = blake3::hash(format!("{} {number} {key}", *PROCESS).as_bytes()).to_hex();
    Key::new(partial(&format!("{key}.{}", &token[..TOKEN])))
}

/// Returns the name of the object that is written under a name; `None` if nothing is.
pub(super) fn object_of(name: &str) -> Option<&str> {
    let (object, token) = name.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    let is_token =
        token.len() == TOKEN && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_token && !object.is_empty()).then_some(object)
}

/// Returns the key under which a list shows what has a name in a folder.
pub(super) fn shown(folder: &Key, name: &str) -> Result<Key, KeyError> {
    match object_of(name) {
        Some(object) => folder.join(&partial(object)),
        None => folder.join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_writer_has_a_name_of_its_own_and_all_are_shown_as_one() {
        let key = Key::new("snapshots/db/db-1.tar.zst").unwrap();
        let (one, other) = (temporary(&key, 1).unwrap(), temporary(&key, 2).unwrap());
        assert_ne!(one, other);
        for temporary in [&one, &other] {
            assert_eq!(object_of(temporary.name()), Some("db-1.tar.zst"));
            let folder = Key::literal("snapshots/db");
            assert_eq!(
                shown(&folder, temporary.name()).unwrap().as_str(),
                "snapshots/db/db-1.tar.zst.partial"
            );
        }
        for name in ["a", "a.partial", ".0123456789ab.partial", "a.0123456789AB.partial", "a.0123.partial"] {
            assert_eq!(object_of(name), None, "{name}");
        }
    }
}
