//! Which C library a container has. The library decides how a database sorts text, and so whether its indexes hold.

use std::time::Duration;

use crate::engine::Docker;
use crate::model::container::Container;

/// How long it may take to say so.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// glibc's own tool tells the version; the loader of musl prints it on its standard error.
const ASK: &str = "getconf GNU_LIBC_VERSION 2>/dev/null || \
    for loader in /lib/ld-musl-*.so.1; do \"$loader\" 2>&1 | sed -n 's/^Version /musl /p'; done";

/// Returns the C library of a running container with its version, such as "glibc 2.36" or "musl 1.2.4"; `None` if
/// nothing tells it.
pub(super) async fn libc_of(docker: &dyn Docker, container: &Container) -> Option<String> {
    if !container.state.running {
        return None;
    }
    let command = ["sh", "-c", ASK].map(str::to_owned);
    let said = docker.exec(&container.id, &command, ASK_LIMIT).await.ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    understood(&text)
}

fn understood(text: &str) -> Option<String> {
    let line = text.lines().next()?.trim();
    let (name, version) = line.split_once(' ')?;
    let is_version = version.starts_with(|first: char| first.is_ascii_digit()) && version.len() < 32;
    (matches!(name, "glibc" | "musl") && is_version).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_name_and_a_version_is_understood() {
        assert_eq!(understood("glibc 2.36\n").as_deref(), Some("glibc 2.36"));
        assert_eq!(understood("musl 1.2.4\nmusl 1.2.4\n").as_deref(), Some("musl 1.2.4"));
        for strange in ["", "\n", "glibc", "uClibc 1.0", "glibc \u{1b}[2J", "sh: getconf: not found"] {
            assert_eq!(understood(strange), None, "{strange:?}");
        }
    }
}
