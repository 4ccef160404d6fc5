//! A repository of every format is read by the program as it is now.

use std::fs;
use std::path::Path;

use crate::program::Volsnap;

/// Copies a repository, in which nothing of the tests is to be written.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_repository_of_every_format_is_listed_shown_and_verified() {
    for (format, number) in [("v1", 1), ("v2", 2)] {
        let volsnap = Volsnap::new();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(format);
        copy(&fixture.join("repository"), &volsnap.repository());
        let list = volsnap.list();
        assert_eq!(list.len(), 1, "{format}");
        assert_eq!(list[0]["id"], "20261129T145900Z-df1976");
        assert_eq!((&list[0]["quiesce"], &list[0]["capture"]), (&"stop".into(), &"staged".into()));
        assert_eq!(list[0]["verified"]["ok"], true);
        assert_eq!((&list[0]["files"], &list[0]["raw_bytes"]), (&4.into(), &9007.into()));
        // It was called clean when it was written, and no database's files prove that.
        assert_eq!(list[0]["consistency"], "stopped-and-quiet");
        let shown = volsnap.run(["show", "latest", "--json"]).json();
        assert_eq!(shown["format_version"], number);
        assert_eq!(shown["location"]["volume"], "shop_files");
        assert_eq!(shown["tags"]["why"], "upgrade");
        let files = volsnap.run(["show", "latest", "--files"]).expect(0).stdout();
        for file in ["blocks", "sub/link", "sub/nothing", "text"] {
            assert!(files.contains(file), "{file} is not in\n{files}");
        }
        // All of archive and file list is read, digested and compared; the outcome is written down beside.
        let _ = volsnap.run(["verify", "latest"]).expect(0);
        let verified = &volsnap.run(["show", "latest", "--json"]).json()["verified"];
        assert_eq!(verified.as_array().unwrap().len(), 2, "{format}: {verified}");
    }
}
