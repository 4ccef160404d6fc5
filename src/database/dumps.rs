//! Files that people keep as backups and that are no archive of a data directory: dumps, and whatever is encrypted. They
//! are recognised by their first bytes, or those of a file in them, so that a person is told what it is and what reads it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::model::hint::Hint;
use crate::model::quote::shell_quote;

/// How many bytes tell what a file is.
pub const HEAD: usize = 512;

/// What a file is, if it is known and no archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// What it is, for a person: "a dump of pg_dump".
    pub what: &'static str,
    /// What reads it. None of these changes what is there already.
    pub way: Hint,
}

/// What is known of one kind: how it begins, and what reads it.
#[derive(Debug)]
pub struct DumpKind {
    pub(super) begins: &'static [&'static [u8]],
    pub(super) what: &'static str,
    pub(super) way: fn(&DumpNames<'_>) -> Hint,
}

/// What is known of a dump that is a directory.
#[derive(Debug)]
pub struct DumpDirectory {
    /// The file in it that tells, by how it begins.
    pub(super) file: &'static str,
    pub(super) kind: DumpKind,
}

/// What the commands name, as words of a shell.
#[derive(Debug)]
pub struct DumpNames<'a> {
    /// The file.
    pub(super) file: &'a str,
    /// What prints the file, decompressed, or a directory as a tar.
    pub(super) print: &'a str,
    /// The container of the database.
    pub(super) container: &'a str,
    /// A name for what comes out.
    pub(super) output: &'a str,
}

const KINDS: &[DumpKind] = &[
    DumpKind {
        begins: &[b"-- MySQL dump", b"-- MariaDB dump", b"/*M!999999\\- enable the sandbox mode */"],
        what: "a dump of MariaDB or MySQL, statements in text, not an archive of files",
        way: |names| {
            let DumpNames { print, .. } = names;
            Hint::shell(format!("{print} | less"))
                .why("load it with the database's own client, into a new and empty database")
        },
    },
    DumpKind {
        begins: &[b"SQLite format 3\0"],
        what: "a file of SQLite, not an archive",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("tar -cf {output}.tar -C \"$(dirname {file})\" \"$(basename {file})\""))
                .why("makes an archive of it, which can be restored")
        },
    },
    DumpKind {
        begins: &[b"REDIS0"],
        what: "a snapshot of Redis (dump.rdb), not an archive",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("tar -cf {output}.tar -C \"$(dirname {file})\" \"$(basename {file})\""))
                .why("makes an archive of it, which can be restored; there it must be called dump.rdb")
        },
    },
    DumpKind {
        begins: &[b"age-encryption.org/v1", b"-----BEGIN AGE ENCRYPTED FILE-----"],
        what: "encrypted with age",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("age --decrypt --identity KEY --output {output} {file}"))
        },
    },
    DumpKind {
        begins: &[b"-----BEGIN PGP MESSAGE-----", b"\x85\x01", b"\x85\x02", b"\x84\x5e", b"\x8c\x0d"],
        what: "encrypted with OpenPGP",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("gpg --output {output} --decrypt {file}"))
        },
    },
    DumpKind {
        begins: &[b"Salted__"],
        what: "encrypted with openssl",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("openssl enc -d -aes-256-cbc -pbkdf2 -in {file} -out {output}"))
                .why("with the cipher that it was made with")
        },
    },
    DumpKind {
        begins: &[b"PK\x03\x04"],
        what: "a zip file, which keeps no owners, so no database starts from it",
        way: |names| {
            let DumpNames { file, output, .. } = names;
            Hint::shell(format!("unzip -d {output} {file}")).why("then restore that directory, with --owner")
        },
    },
];

/// Returns what a file is by its first bytes, decompressed; `None` for an archive, and for what nobody knows.
/// `container` is that of the database that it is for, where there is one.
#[must_use]
pub fn recognise(
    head: &[u8],
    file: &str,
    compressed: Option<&str>,
    container: Option<&str>,
) -> Option<Recognised> {
    let is = |kind: &&DumpKind| kind.begins.iter().any(|begin| head.starts_with(begin));
    let known = super::all().iter().flat_map(|database| super::advice_of(database.name()).dumps());
    let kind = known.chain(KINDS).find(is)?;
    let stem = Path::new(file).with_extension("").display().to_string();
    let output = if stem == file { format!("{file}.out") } else { stem };
    let quoted = shell_quote(file);
    let names = DumpNames {
        file: &quoted,
        print: &format!("{} {quoted}", compressed.unwrap_or("cat")),
        container: &container.map_or_else(|| "CONTAINER".to_owned(), shell_quote),
        output: &shell_quote(&output),
    };
    Some(Recognised { what: kind.what, way: (kind.way)(&names) })
}

/// Returns which dump a directory is; `None` for what nobody knows.
#[must_use]
pub fn recognise_directory(path: &Path, container: Option<&str>) -> Option<Recognised> {
    let is = |known: &&DumpDirectory| {
        let mut head = Vec::new();
        let file = File::open(path.join(known.file));
        let read = file.and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
        read.is_ok() && known.kind.begins.iter().any(|begin| head.starts_with(begin))
    };
    let mut known =
        super::all().iter().flat_map(|database| super::advice_of(database.name()).dump_directories());
    let kind = &known.find(is)?.kind;
    let quoted = shell_quote(&path.to_string_lossy());
    let names = DumpNames {
        file: &quoted,
        print: &format!("tar -C {quoted} -c ."),
        container: &container.map_or_else(|| "CONTAINER".to_owned(), shell_quote),
        output: &quoted,
    };
    Some(Recognised { what: kind.what, way: (kind.way)(&names) })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::custom(b"PGDMP\x01\x0e", "custom format", "cat db.dump | docker exec -i shop-db-1 sh -c")]
    #[case::tar(b"toc.dat\0\0", "tar format", "pg_restore --format=tar")]
    #[case::text(b"--\n-- PostgreSQL database dump\n--\n", "statements in text", "createdb")]
    #[case::cluster(b"--\n-- PostgreSQL database cluster dump\n", "pg_dumpall", "cat db.dump | less")]
    #[case::maria(b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB", "MariaDB", "less")]
    #[case::age(b"age-encryption.org/v1\n", "age", "age --decrypt --identity KEY --output db db.dump")]
    #[case::gpg(b"-----BEGIN PGP MESSAGE-----\n", "OpenPGP", "gpg --output db --decrypt db.dump")]
    #[case::sqlite(b"SQLite format 3\0", "SQLite", "tar -cf db.tar")]
    fn a_file_is_known_by_how_it_begins(#[case] head: &[u8], #[case] what: &str, #[case] way: &str) {
        let found = recognise(head, "db.dump", None, Some("shop-db-1")).unwrap();
        assert!(found.what.contains(what), "{found:?}");
        assert!(found.way.to_string().contains(way), "{found:?}");
    }

    #[test]
    fn a_compressed_one_is_decompressed_first_and_an_odd_name_is_one_word() {
        let found = recognise(b"-- MySQL dump", "my db.sql.gz", Some("gzip -dc"), None).unwrap();
        assert!(found.way.to_string().contains("gzip -dc 'my db.sql.gz' | less"), "{found:?}");
    }

    #[test]
    fn an_archive_and_what_nobody_knows_are_none() {
        assert_eq!(recognise(b"base/\0\0\0", "x.tar", None, None), None);
        assert_eq!(recognise(b"", "x", None, None), None);
    }
}
