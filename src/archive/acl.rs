//! POSIX access lists: the kernel's bytes in `system.posix_acl_*` and the text tar carries.
//!
//! The text has numbers only: a name means something else on another machine.

use super::error::MemberProblem;

/// The xattr of a file's access list.
pub(super) const ACCESS_XATTR: &[u8] = b"system.posix_acl_access";
/// The xattr of the list that a directory's new files get.
pub(super) const DEFAULT_XATTR: &[u8] = b"system.posix_acl_default";

/// The version the kernel's bytes begin with.
const VERSION: u32 = 2;
/// The id of an entry that names nobody.
const NOBODY: u32 = u32::MAX;

/// The kinds of entry: the kernel's tag, the text's, and whether it names someone.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// Returns the kernel's bytes as text; `None` if they are no access list.
pub(super) fn to_text(xattr: &[u8]) -> Option<String> {
    let (version, entries) = xattr.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (_, name, is_named) = TAGS.iter().find(|(number, ..)| *number == tag)?;
        let id = if *is_named { id.to_string() } else { String::new() };
        let bit = |mask: u16, letter| if permissions & mask != 0 { letter } else { '-' };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&format!("{name}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(text)
}

/// Returns the kernel's bytes for the text of any tar: separated by commas or lines, with comments,
/// short tags, and star's number as a fourth field.
pub(super) fn from_text(text: &[u8]) -> Result<Vec<u8>, MemberProblem> {
    let malformed = MemberProblem::Field { field: "access list" };
    let text = std::str::from_utf8(text).map_err(|_| malformed)?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(parse_entry(line)?);
        }
    }
    // The kernel wants them in this order.
    entries.sort_unstable();
    let mut xattr = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        xattr.extend_from_slice(&tag.to_le_bytes());
        xattr.extend_from_slice(&permissions.to_le_bytes());
        xattr.extend_from_slice(&id.to_le_bytes());
    }
    Ok(xattr)
}

/// Returns tag, id and permissions of one entry.
fn parse_entry(line: &str) -> Result<(u16, u32, u16), MemberProblem> {
    let malformed = || MemberProblem::Field { field: "access list" };
    let mut fields = line.split(':').map(str::trim);
    let name = match fields.next() {
        Some("u" | "user") => "user",
        Some("g" | "group") => "group",
        Some("m" | "mask") => "mask",
        Some("o" | "other") => "other",
        _ => return Err(malformed()),
    };
    let mut who = fields.next().ok_or_else(malformed)?;
    let permissions = match fields.next() {
        Some(permissions) => permissions,
        // "mask:rwx" and "other:rwx" are written as well.
        None if matches!(name, "mask" | "other") => std::mem::take(&mut who),
        None => return Err(malformed()),
    };
    let (tag, ..) = TAGS
        .iter()
        .find(|(_, tag_name, is_named)| *tag_name == name && *is_named != who.is_empty())
        .ok_or_else(malformed)?;
    let id = match (who, fields.next().map(str::parse)) {
        ("", _) => NOBODY,
        (_, Some(Ok(id))) => id,
        ("root", _) => 0,
        (who, _) => who.parse().map_err(|_| MemberProblem::Acl { who: format!("the {name} `{who}`") })?,
    };
    Ok((*tag, id, parse_permissions(permissions).ok_or_else(malformed)?))
}

fn parse_permissions(text: &str) -> Option<u16> {
    text.chars().try_fold(0, |permissions, letter| match letter {
        'r' => Some(permissions | 4),
        'w' => Some(permissions | 2),
        'x' => Some(permissions | 1),
        '-' => Some(permissions),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_list_survives_text() {
        let text = "user::rwx,user:70:r-x,user:999:---,group::r-x,group:50:rw-,mask::rwx,other::r--";
        let xattr = from_text(text.as_bytes()).unwrap();
        assert_eq!(xattr.len(), 4 + 7 * 8);
        assert_eq!(to_text(&xattr).unwrap(), text);
    }

    #[test]
    fn the_texts_of_other_tars_are_read() {
        let star = b"user::rw-,user:joe:r--:1000,group::---,mask:r--,other:---";
        let gnu = b"user::rw-\nuser:1000:r--\t#effective:r--\ngroup::---\nmask::r--\nother::---\n";
        assert_eq!(from_text(star).unwrap(), from_text(gnu).unwrap());
    }

    #[test]
    fn a_name_without_a_number_is_refused_by_name() {
        let problem = from_text(b"user::rw-,user:joe:r--,group::---,mask::r--,other::---");
        assert_eq!(problem, Err(MemberProblem::Acl { who: "the user `joe`".to_owned() }));
    }

    #[test]
    fn what_is_no_access_list_is_refused() {
        assert_eq!(to_text(b""), None);
        assert_eq!(to_text(&[2, 0, 0, 0, 1]), None);
        assert!(from_text(b"nonsense").is_err());
        assert!(from_text(b"user::rwz").is_err());
        assert!(from_text(b"user:1:rwx:x:y:z").is_ok());
    }
}
