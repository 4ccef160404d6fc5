//! Where a server takes its configuration from, if that is not the data directory: no copy of the data has it.
//!
//! A running server says it. Of one that nobody can ask, `postgresql.conf` and `postgresql.auto.conf` are read as the
//! server would read them (`guc-file.l`), with all that they include inside the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::files::Tree;

/// Has the server name the files of its configuration, a line each.
pub(super) const NAMED: &str = "select regexp_replace(setting, '^FILE:', '') from pg_settings
    where source <> 'default' and setting <> '' and name in ('config_file', 'hba_file', 'ident_file', 'ssl_cert_file',
        'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file', 'ssl_crl_dir', 'ssl_dh_params_file', 'krb_server_keyfile')";

/// Has the server name the files that those include; only PostgreSQL 16 and later tell it of `pg_hba.conf`.
pub(super) const INCLUDED: &str = "select sourcefile from pg_file_settings where sourcefile is not null
    union select to_jsonb(r) ->> 'file_name' from pg_hba_file_rules r where to_jsonb(r) ? 'file_name'";

/// What is read, the later over the earlier.
const FILES: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];
/// The settings that name a file or a directory of configuration.
const SETTINGS: [&str; 9] = [
    "hba_file",
    "ident_file",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "ssl_crl_dir",
    "ssl_dh_params_file",
    "krb_server_keyfile",
];
/// How deep the server itself follows what is included.
const DEPTH: usize = 10;
/// How much of a file is read, and of how many files.
const BYTES: u64 = 1 << 20;
const COUNT: usize = 200;

/// Returns the files and directories that the configuration in a data directory, relative to the root of the tree,
/// names outside the tree.
pub(super) fn named_outside(tree: &Tree<'_>, data_directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut reader = Reader { tree, left: COUNT, settings: BTreeMap::new(), outside: BTreeSet::new() };
    let home = tree.mounted_at.join(data_directory);
    for name in FILES {
        reader.read(&home.join(name), 0)?;
    }
    // What a setting names is relative to the data directory, whichever file has the setting.
    for value in std::mem::take(&mut reader.settings).into_values().filter(|value| !value.is_empty()) {
        reader.place(&home.join(value.strip_prefix("FILE:").unwrap_or(&value)))?;
    }
    Ok(reader.outside.into_iter().collect())
}

struct Reader<'a> {
    tree: &'a Tree<'a>,
    /// How many files may still be read.
    left: usize,
    settings: BTreeMap<String, String>,
    outside: BTreeSet<PathBuf>,
}

impl Reader<'_> {
    /// Returns where a path, absolute in the container, is on this side; takes note of one outside.
    fn place(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        let Some(place) = self.tree.follow(path)? else { return Ok(None) };
        if let Ok(inside) = place.strip_prefix(self.tree.mounted_at) {
            return Ok(Some(self.tree.root.join(inside)));
        }
        self.outside.insert(place);
        Ok(None)
    }

    fn read(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let Some(here) = self.place(path)?.filter(|_| depth <= DEPTH && self.left > 0) else { return Ok(()) };
        self.left -= 1;
        let Some(text) = text_of(&here) else { return Ok(()) };
        for (name, value) in text.lines().filter_map(setting) {
            let beside = path.parent().unwrap_or(path).join(&value);
            match name.as_str() {
                "include" | "include_if_exists" => self.read(&beside, depth + 1)?,
                "include_dir" => self.read_directory(&beside, depth + 1)?,
                name if SETTINGS.contains(&name) => {
                    self.settings.insert(name.to_owned(), value);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_directory(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let Some(here) = self.place(path)? else { return Ok(()) };
        let Ok(entries) = fs::read_dir(here) else { return Ok(()) };
        let names = entries.take(COUNT).filter_map(|entry| Some(entry.ok()?.file_name()));
        let is_read = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name.ends_with(".conf") && !name.starts_with('.')
        };
        let mut names: Vec<_> = names.filter(is_read).collect();
        names.sort();
        names.into_iter().try_for_each(|name| self.read(&path.join(name), depth))
    }
}

/// Returns what a file says; `None` for one that cannot be read, is none, or is too long for configuration. Names on the
/// way have been followed, so that what is a link now was put there meanwhile.
fn text_of(path: &Path) -> Option<String> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = fs::File::options().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(|found| found.is_file() && found.len() <= BYTES)?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the name and the value in a line: `name = 'value' # comment`, `name value`.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|letter: char| !letter.is_ascii_alphanumeric() && !"_.$".contains(letter))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted)?,
        None => rest.split(|letter: char| letter.is_whitespace() || letter == '#').next()?.to_owned(),
    };
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

/// Returns the text up to the quote that ends it; `''` and `\'` stand for a quote.
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => value.extend(letters.next()),
            '\'' => return Some(value),
            '\\' => value.extend(letters.next()),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    const AT: &str = "/var/lib/pg";

    fn named(root: &TempDir) -> Vec<String> {
        let tree = Tree { root: root.path(), mounted_at: Path::new(AT) };
        let named = named_outside(&tree, Path::new("data")).unwrap();
        named.iter().map(|path| path.display().to_string()).collect()
    }

    fn with(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (name, text) in files {
            let path = root.path().join("data").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[rstest]
    #[case::its_own("hba_file = 'pg_hba.conf'\nssl_cert_file=server.crt\n#hba_file = '/etc/hba'\n", &[])]
    #[case::in_another_form("HBA_FILE '/etc/it''s' # mine\nssl_ca_file=/run/ca.pem#x\n", &["/etc/it's", "/run/ca.pem"])]
    #[case::the_last_counts("hba_file = '/etc/a'\nhba_file = '/etc/b'\n", &["/etc/b"])]
    #[case::by_its_absolute_name("include '/var/lib/pg/data/x.conf'\nident_file = '/var/lib/pg/ident'\n", &[])]
    #[case::out_by_dots("include_dir '../../conf.d'\n", &["/var/lib/conf.d"])]
    #[case::itself("include 'postgresql.conf'\ninclude_if_exists '/etc/more.conf'\n", &["/etc/more.conf"])]
    #[case::no_settings("= x\n'\nhba_file = 'open\nhba_file\n", &[])]
    fn what_lies_outside_the_source_is_named(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(named(&with(&[("postgresql.conf", text)])), expected);
    }

    #[test]
    fn what_is_included_inside_the_source_is_read_in_its_order() {
        let root = with(&[
            ("postgresql.conf", "include_dir = 'conf.d'\n"),
            ("conf.d/10.conf", "hba_file = '/etc/first'\ninclude 'deep/er'\n"),
            ("conf.d/20.conf", "hba_file = '/etc/second'\n"),
            ("conf.d/.30.conf", "hba_file = '/etc/hidden'\n"),
            ("conf.d/deep/er", "ident_file = '/etc/ident'\n"),
            ("postgresql.auto.conf", "ssl_key_file = '/run/secrets/key'\n"),
        ]);
        assert_eq!(named(&root), ["/etc/ident", "/etc/second", "/run/secrets/key"]);
    }

    #[test]
    fn a_link_is_followed_in_the_container_not_here() {
        let root = with(&[("pg_ident.conf", "")]);
        symlink("/etc/postgresql/postgresql.conf", root.path().join("data/postgresql.conf")).unwrap();
        assert_eq!(named(&root), ["/etc/postgresql/postgresql.conf"]);
        fs::remove_file(root.path().join("data/postgresql.conf")).unwrap();
        nix::unistd::mkfifo(&root.path().join("data/postgresql.conf"), nix::sys::stat::Mode::S_IRWXU)
            .unwrap();
        assert_eq!(named(&root), [""; 0]);
    }
}
