//! What is compared before anything is touched: mismatches that would break the data. Pure rules.

use chrono::{DateTime, SecondsFormat, Utc};

use super::plan::RestorePlan;
use crate::database;
use crate::database::advice::{Platform, Transplant};
use crate::model::container::Container;
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::plural::{counted, grouped, size};

/// Which mismatches are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Force {
    /// The data that is there belongs to another cluster.
    pub different_cluster: bool,
    /// The target runs another major version.
    pub version: bool,
    /// The snapshot is of another architecture.
    pub architecture: bool,
    /// The target has another C library, and so may sort text differently.
    pub collation: bool,
}

/// Returns the database that a container runs, and its major version.
pub(super) fn server_version(container: &Container) -> Option<(String, Option<String>)> {
    let database = database::of(container)?;
    Some((database.name().to_owned(), database.server()?.major_version(container)))
}

/// What is known of the database on either side.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The engine and the major version in the archive.
    pub(super) database: Option<(String, String)>,
    /// The identifier of the archive's cluster.
    pub(super) identifier: Option<String>,
    /// The architecture the archive was made on.
    pub(super) arch: Option<String>,
    /// The image the database ran in, by name and by content.
    pub(super) image: Option<(String, String)>,
    /// The C library of the archive's database, such as "glibc 2.36".
    pub(super) libc: Option<String>,
    /// Who owns the archive's data.
    pub(super) owner: Option<(u32, u32)>,
    /// The engine and major version of the server that uses the target.
    pub(super) server: Option<(String, Option<String>)>,
    /// The image of that server, by name and by content.
    pub(super) server_image: Option<(String, String)>,
    /// The C library of that server, if it runs.
    pub(super) server_libc: Option<String>,
    /// The user that server runs as, if its container gives it by number.
    pub(super) server_user: Option<u32>,
    /// The owner of its first process, if it runs.
    pub(super) running_owner: Option<(u32, u32)>,
    /// The identifier of the cluster that is there.
    pub(super) present_identifier: Option<String>,
    /// Whether that cluster is a fresh one, which nobody would miss.
    pub(super) present_is_fresh: bool,
    /// When it was made, if its identifier tells.
    pub(super) present_made: Option<DateTime<Utc>>,
    /// Who owns the data that is there.
    pub(super) present_owner: Option<(u32, u32)>,
    /// The engine's architecture.
    pub(super) engine_arch: String,
}

/// A mismatch that would break the data, with the flag that accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    what: String,
    flag: Option<&'static str>,
}

/// Refuses what would break the data; returns what is only worth knowing.
pub(super) fn check(facts: &Facts, force: Force) -> Result<Vec<String>> {
    let (mut mismatches, mut warnings) = (Vec::new(), Vec::new());
    compare_database(facts, &mut mismatches);
    compare_machine(facts, &mut mismatches, &mut warnings);
    compare_owner(facts, &mut warnings);
    let accepted = |mismatch: &Mismatch| match mismatch.flag {
        Some("--force-different-cluster") => force.different_cluster,
        Some("--force-version") => force.version,
        Some("--force-architecture") => force.architecture,
        Some("--force-collation") => force.collation,
        _ => false,
    };
    let (accepted, refused): (Vec<_>, Vec<_>) = mismatches.into_iter().partition(accepted);
    warnings.extend(accepted.into_iter().map(|mismatch| format!("accepted: {}", mismatch.what)));
    let what: Vec<_> = refused.iter().map(|mismatch| mismatch.what.as_str()).collect();
    if what.is_empty() {
        return Ok(warnings);
    }
    let error = Error::failed(what.join("; "));
    let flags: Vec<_> = refused.iter().filter_map(|mismatch| mismatch.flag).collect();
    Err(if flags.is_empty() {
        error.hint(
            Hint::instead(&["--to=", "--dir=", "--new-volume="], ["--new-volume", "NAME"])
                .why("restores it beside what is there"),
        )
    } else {
        error.hint(Hint::again(flags).why("restores all the same; only if you are sure"))
    })
}

fn compare_database(facts: &Facts, mismatches: &mut Vec<Mismatch>) {
    let mut mismatch = |what: String, flag| mismatches.push(Mismatch { what, flag });
    match (&facts.database, &facts.server) {
        (Some((engine, _)), Some((server, _))) if engine != server => {
            mismatch(format!("the archive is of {engine}, and the target runs {server}"), None);
        }
        (Some((engine, version)), Some((_, Some(server)))) if version != server => mismatch(
            format!(
                "the archive is of {engine} {version}, and the target runs {server}, which cannot read it"
            ),
            Some("--force-version"),
        ),
        (None, Some((server, _))) => {
            mismatch(
                format!("the archive holds no database, and the target is that of a {server} server"),
                None,
            );
        }
        _ => {}
    }
    if let (Some(archive), Some(present)) = (&facts.identifier, &facts.present_identifier)
        && archive != present
        && !facts.present_is_fresh
    {
        let made = facts.present_made.map(|made| made.to_rfc3339_opts(SecondsFormat::Secs, true));
        let made = made.map_or_else(String::new, |made| format!(", made {made}"));
        mismatch(
            format!(
                "the target holds another cluster (system identifier {present}{made}, and the archive's is {archive})"
            ),
            Some("--force-different-cluster"),
        );
    }
}

fn compare_machine(facts: &Facts, mismatches: &mut Vec<Mismatch>, warnings: &mut Vec<String>) {
    if let Some(arch) = facts.arch.as_ref().filter(|arch| **arch != facts.engine_arch) {
        mismatches.push(Mismatch {
            what: format!("the archive was made on {arch}, and the engine runs {}", facts.engine_arch),
            flag: Some("--force-architecture"),
        });
    }
    compare_images(facts, mismatches, warnings);
}

/// One image has one C library: only the data of another image may suffer.
fn compare_images(facts: &Facts, mismatches: &mut Vec<Mismatch>, warnings: &mut Vec<String>) {
    let (Some((engine, _)), Some((image, id))) = (&facts.database, &facts.image) else { return };
    let Some((server_image, _)) = facts.server_image.as_ref().filter(|(_, other)| other != id) else {
        return;
    };
    let from = Platform { image, libc: facts.libc.as_deref() };
    let to = Platform { image: server_image, libc: facts.server_libc.as_deref() };
    match database::advice_of(engine).transplant(&from, &to) {
        Transplant::Fits => {}
        Transplant::MayBreak(what) => warnings.push(what),
        Transplant::Breaks(what) => mismatches.push(Mismatch { what, flag: Some("--force-collation") }),
    }
}

fn compare_owner(facts: &Facts, warnings: &mut Vec<String>) {
    let Some(owner) = facts.owner else { return };
    let expected = match (facts.server_user, facts.present_owner) {
        (Some(user), _) => Some((user, owner.1)),
        (None, present) => {
            let present = present.filter(|_| facts.present_identifier.is_some());
            // One that begins as root drops its rights later, and so tells nothing.
            present.or(facts.running_owner.filter(|owner| owner.0 != 0))
        }
    };
    if let Some(expected) = expected.filter(|expected| expected.0 != owner.0) {
        warnings.push(format!(
            "the archive's files belong to user {}, and the target's database runs as user {}: it may refuse them \
             (--owner {}:{} gives them to it)",
            owner.0, expected.0, expected.0, expected.1
        ));
    }
}

/// Refuses a restore for which there is no room.
pub(super) fn refuse_without_room(plan: &RestorePlan, names: Option<u64>) -> Result<()> {
    let free = plan.free_bytes.unwrap_or(u64::MAX);
    if free < plan.needed_bytes {
        return Err(Error::failed(format!(
            "{} has {} free, and the restored data needs up to {} beside what is there",
            plan.into,
            size(free),
            size(plan.needed_bytes)
        ))
        .hint(if plan.replaces_entries > 0 && plan.safety.is_none() {
            Hint::instead(&["--no-safety"], [""; 0])
                .why("what is there is then kept elsewhere, and removed first")
        } else {
            Hint::instead(&["--to=", "--dir=", "--new-volume="], ["--new-volume", "NAME"])
                .why("on a disk with more room")
        })
        .or(Hint::advice("free some space")));
    }
    match names {
        Some(names) if names < plan.members.saturating_add(1000) => Err(Error::failed(format!(
            "{} has room for {}, and the archive has {}",
            plan.into,
            counted(names, "more file"),
            grouped(plan.members)
        ))
        .hint(
            Hint::instead(&["--to=", "--dir=", "--new-volume="], ["--new-volume", "NAME"])
                .why("on a disk with more room"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            database: Some(("postgresql".into(), "15".into())),
            identifier: Some("7".into()),
            arch: Some("amd64".into()),
            image: Some(("postgres:15".into(), "sha256:a".into())),
            libc: None,
            owner: Some((999, 999)),
            server: Some(("postgresql".into(), Some("15".into()))),
            server_image: Some(("postgres:15".into(), "sha256:a".into())),
            server_libc: None,
            server_user: None,
            running_owner: None,
            present_identifier: Some("7".into()),
            present_is_fresh: false,
            present_made: None,
            present_owner: Some((999, 999)),
            engine_arch: "amd64".into(),
        }
    }

    #[track_caller]
    fn refused(facts: &Facts, flag: &str, force: Force) {
        let error = check(facts, Force::default()).unwrap_err();
        assert!(error.hint_text().is_some_and(|hint| hint.contains(flag)), "{error:?}");
        let warnings = check(facts, force).unwrap();
        assert!(warnings[0].starts_with("accepted: "), "{warnings:?}");
    }

    #[test]
    fn what_fits_is_let_pass_without_a_word() {
        assert!(check(&facts(), Force::default()).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_known_is_let_pass() {
        assert!(check(&Facts { engine_arch: "amd64".into(), ..Facts::default() }, Force::default()).is_ok());
    }

    #[test]
    fn each_mismatch_is_refused_with_the_flag_that_accepts_it() {
        let version = Facts { server: Some(("postgresql".into(), Some("16".into()))), ..facts() };
        refused(&version, "--force-version", Force { version: true, ..Force::default() });
        let cluster = Facts { present_identifier: Some("8".into()), ..facts() };
        refused(&cluster, "--force-different-cluster", Force { different_cluster: true, ..Force::default() });
        let fresh = Facts { present_is_fresh: true, ..cluster };
        assert!(check(&fresh, Force::default()).unwrap().is_empty(), "the plan shows it");
        let arch = Facts { engine_arch: "arm64".into(), ..facts() };
        refused(&arch, "--force-architecture", Force { architecture: true, ..Force::default() });
        let libc = Facts { server_image: Some(("postgres:15-alpine".into(), "sha256:b".into())), ..facts() };
        refused(&libc, "--force-collation", Force { collation: true, ..Force::default() });
    }

    #[test]
    fn data_suffers_from_another_image_only_and_as_its_database_says() {
        let other = Facts {
            server_image: Some(("postgres:15-alpine".into(), "sha256:b".into())),
            libc: Some("glibc 2.27".into()),
            server_libc: Some("glibc 2.36".into()),
            ..facts()
        };
        refused(&other, "--force-collation", Force { collation: true, ..Force::default() });
        let same_image = Facts { server_image: facts().image, ..other.clone() };
        assert!(check(&same_image, Force::default()).is_ok(), "one image has one library");
        let same_library = Facts { server_libc: other.libc.clone(), ..other.clone() };
        assert!(check(&same_library, Force::default()).unwrap().is_empty());
        let no_database = Facts { database: None, server: None, ..other };
        assert!(check(&no_database, Force::default()).unwrap().is_empty(), "files are not sorted");
    }

    #[test]
    fn no_flag_makes_another_engine_read_it() {
        let all = Force { different_cluster: true, version: true, architecture: true, collation: true };
        let other = Facts { server: Some(("mysql".into(), None)), ..facts() };
        assert!(check(&other, all).is_err());
        assert!(check(&Facts { database: None, ..facts() }, all).is_err());
    }

    #[test]
    fn another_owner_is_told_with_what_mends_it() {
        let warnings = check(&Facts { present_owner: Some((70, 70)), ..facts() }, Force::default()).unwrap();
        assert!(warnings[0].contains("--owner 70:70"), "{warnings:?}");
        let warnings = check(&Facts { server_user: Some(1000), ..facts() }, Force::default()).unwrap();
        assert!(warnings[0].contains("--owner 1000:999"), "{warnings:?}");
        let elsewhere = Facts { present_identifier: None, present_owner: Some((0, 0)), ..facts() };
        let runs = Facts { running_owner: Some((70, 71)), ..elsewhere.clone() };
        let warnings = check(&runs, Force::default()).unwrap();
        assert!(warnings[0].contains("--owner 70:71"), "{warnings:?}");
        let root = Facts { running_owner: Some((0, 0)), ..elsewhere };
        assert!(check(&root, Force::default()).unwrap().is_empty());
    }
}
