//! The dumps that PostgreSQL's own programs write.

use crate::database::dumps::{DumpDirectory, DumpKind, DumpNames};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;

pub(super) const DUMPS: &[DumpKind] = &[
    DumpKind {
        begins: &[b"PGDMP"],
        what: "a dump of pg_dump in its custom format, not an archive of files",
        way: |names| {
            into_a_new_database(names, "pg_restore --exit-on-error --username=\"$U\" --dbname=restored")
        },
    },
    DumpKind {
        begins: &[b"toc.dat\0"],
        what: "a dump of pg_dump in its tar format, not an archive of the data's files",
        way: |names| {
            into_a_new_database(
                names,
                "pg_restore --format=tar --exit-on-error --username=\"$U\" --dbname=restored",
            )
        },
    },
    DumpKind {
        begins: &[b"--\n-- PostgreSQL database cluster dump"],
        what: "a dump of pg_dumpall, statements in text, not an archive of files",
        way: |names| {
            let DumpNames { print, .. } = names;
            Hint::shell(format!("{print} | less"))
                .why("it makes roles and whole databases: load it with psql, into a new and empty server")
        },
    },
    DumpKind {
        begins: &[b"--\n-- PostgreSQL database dump", b"-- PostgreSQL database dump"],
        what: "a dump of pg_dump, statements in text, not an archive of files",
        way: |names| {
            into_a_new_database(names, "psql -X -v ON_ERROR_STOP=1 --username=\"$U\" --dbname=restored")
        },
    },
];

pub(super) const DIRECTORIES: &[DumpDirectory] = &[DumpDirectory {
    file: "toc.dat",
    kind: DumpKind {
        begins: &[b"PGDMP"],
        what: "a dump of pg_dump in its directory format, not a data directory",
        way: |names| {
            into_a_new_database(
                names,
                "T=$(mktemp -d) && trap 'rm -rf \"$T\"' EXIT && tar -xC \"$T\" && pg_restore --exit-on-error \
                 --username=\"$U\" --dbname=restored \"$T\"",
            )
        },
    },
}];

/// Has the dump loaded into a database that does not exist yet, so that nothing is overwritten.
fn into_a_new_database(names: &DumpNames<'_>, load: &str) -> Hint {
    let DumpNames { print, container, .. } = names;
    let script = format!("U=${{POSTGRES_USER:-postgres}}; createdb --username=\"$U\" restored && {load}");
    Hint::shell(format!("{print} | docker exec -i {container} sh -c {}", shell_quote(&script)))
        .why("loads it into a new database called restored, of a server that runs")
}
