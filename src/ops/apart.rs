//! What a snapshot of a database's data does not bring back: configuration that lies elsewhere, and tables
//! without a log. It is named when the snapshot is taken, tried and restored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::{self, CopyConfiguration, Database, Server};
use crate::engine::Docker;
use crate::model::container::{Container, Mount};
use crate::model::facts::Facts;
use crate::model::inspection::Inspection;
use crate::model::manifest::{Consistency, Manifest};
use crate::model::plural::and_more;
use crate::selector::configuration::{ConfigurationApart, configuration_apart, mounts_of};

/// How many are named; the rest is counted.
const NAMED: usize = 5;
/// How long a database may take to name its configuration.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Returns what to say of the configuration that a database has from elsewhere, when its data is saved; `named` is what
/// the database names of it.
pub(super) fn of_snapshot(
    container: &Container,
    data_at: Option<&Path>,
    named: &[PathBuf],
) -> Option<String> {
    let named = names(&configuration_apart(&container.mounts, data_at, named))?;
    Some(format!("configuration from elsewhere is no part of the snapshot, keep it as well: {named}"))
}

/// Returns what to say of a snapshot that is restored where its container's mounts are not.
pub(super) fn of_restore(manifest: &Manifest) -> Option<String> {
    let (mounted, own): (Vec<_>, Vec<_>) =
        of_manifest(manifest).into_iter().partition(ConfigurationApart::is_mounted);
    let mounted = names(&mounted).map(|named| format!("mount it again: {named}"));
    let own =
        names(&own).map(|named| format!("the new one needs the same image, or the same files: {named}"));
    let ways: Vec<_> = mounted.into_iter().chain(own).collect();
    (!ways.is_empty())
        .then(|| format!("the database had configuration that is not in the snapshot; {}", ways.join("; ")))
}

/// Returns the mounts through which the container of a snapshot had configuration that is not in it.
pub(super) fn mounts_of_restore(manifest: &Manifest) -> Vec<&Mount> {
    mounts_of(&manifest.environment.mounts, &of_manifest(manifest))
}

/// Returns what to say of a drill: how the copy differed from the service. `copy` is which of its configuration the copy
/// says that it has.
pub(super) fn of_drill(manifest: &Manifest, copy: Option<&CopyConfiguration>) -> Vec<String> {
    let (without, with) = configuration_of_drill(manifest, copy);
    let without =
        list(&without).map(|named| format!("it ran without the configuration from elsewhere: {named}"));
    let with = list(&with)
        .map(|named| format!("it ran with what its image has of the configuration from elsewhere: {named}"));
    let facts = manifest.facts.as_ref().map(|facts| &facts.seen);
    without.into_iter().chain(with).chain(emptied(facts, manifest.consistency)).collect()
}

/// Returns which configuration from elsewhere a copy had to do without, and of which it had what its image has.
fn configuration_of_drill(
    manifest: &Manifest,
    copy: Option<&CopyConfiguration>,
) -> (Vec<String>, Vec<String>) {
    let nothing = CopyConfiguration::default();
    let CopyConfiguration { used, absent } = copy.unwrap_or(&nothing);
    let apart = of_manifest(manifest);
    let is_told = |path: &PathBuf| apart.iter().any(|one| path.starts_with(&one.destination));
    // What was mounted there is not what an image has there.
    let is_used = |one: &&ConfigurationApart| {
        !one.is_mounted() && used.iter().any(|path| path.starts_with(&one.destination))
    };
    let without = apart.iter().filter(|one| !is_used(one)).map(ToString::to_string);
    let untold = absent.iter().filter(|path| !is_told(path)).map(|path| path.display().to_string());
    let data = manifest.mounted_at();
    let is_apart = |path: &&PathBuf| data.as_ref().is_none_or(|data| !path.starts_with(data));
    let with = used.iter().filter(is_apart).map(|path| path.display().to_string());
    (without.chain(untold).collect(), with.collect())
}

/// Returns the files and directories, absolute in its container, that a database takes its configuration from and that
/// lie outside its data directory. A running one is asked; of another, and of one that does not answer, its
/// container's command and its files tell.
pub(super) async fn configuration_of(
    docker: &dyn Docker,
    container: &Container,
    files: Option<&Inspection>,
) -> Vec<PathBuf> {
    let named_by = |files: &Inspection| database::named(&files.engine).and_then(Database::server);
    let Some(server) = database::server_of(container).or_else(|| files.and_then(named_by)) else {
        return Vec::new();
    };
    match asked(docker, container, server).await {
        Some(said) => said,
        None => server.configuration(container, files),
    }
}

async fn asked(docker: &dyn Docker, container: &Container, server: &dyn Server) -> Option<Vec<PathBuf>> {
    let runs = container.state.running && !container.state.paused;
    let command = server.configuration_command(container).filter(|_| runs)?;
    let output = docker.exec(&container.id, &command, ASK_LIMIT).await.ok()?;
    let said = String::from_utf8(output.stdout).ok().filter(|_| output.exit_code == 0)?;
    Some(said.lines().filter(|line| line.starts_with('/')).map(PathBuf::from).collect())
}

/// Returns what to say of tables without a log: after anything but a clean shutdown, the server empties them.
pub(super) fn emptied(facts: Option<&Facts>, consistency: Consistency) -> Option<String> {
    let unlogged = facts.filter(|_| !consistency.is_at_rest())?.unlogged();
    let named = list(&unlogged)?;
    Some(format!(
        "UNLOGGED tables come back empty, since the data is of a server that had not shut down: {named}"
    ))
}

/// Returns the files of the data, relative to the root of its source, over which another is mounted in its container:
/// where nothing was there, the engine has made an empty one, which is nobody's data.
pub(super) fn covered(container: &Container, data_at: Option<&Path>) -> Vec<PathBuf> {
    let apart = configuration_apart(&container.mounts, data_at, &[]);
    apart.into_iter().filter_map(|one| one.covers).collect()
}

fn of_manifest(manifest: &Manifest) -> Vec<ConfigurationApart> {
    let environment = &manifest.environment;
    configuration_apart(&environment.mounts, manifest.mounted_at().as_deref(), &environment.configuration)
}

fn names(apart: &[ConfigurationApart]) -> Option<String> {
    list(&apart.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn list(names: &[String]) -> Option<String> {
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| format!("{named}{}", and_more(names.len(), NAMED)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::MountKind;

    fn manifest() -> Manifest {
        let stored = include_str!("../../fixtures/formats/v2/manifest-with-facts.json");
        let mut manifest = Manifest::from_json(stored.as_bytes()).unwrap();
        manifest.environment.mounts.push(Mount {
            kind: MountKind::Bind,
            source: "/srv/pg.conf".into(),
            destination: "/etc/postgresql/pg.conf".into(),
            ..Mount::default()
        });
        manifest.environment.configuration = vec!["/opt/own.conf".into(), "/opt/lost.conf".into()];
        manifest
    }

    #[test]
    fn a_drill_says_of_each_file_from_elsewhere_whether_the_copy_had_it() {
        let said = "used /var/lib/postgresql/data/postgresql.conf\nused /opt/own.conf\n\
                    used /etc/postgresql/pg.conf\nabsent /opt/lost.conf\nabsent /opt/unheard-of.d\n";
        let said = of_drill(&manifest(), Some(&CopyConfiguration::parse(said)));
        let without = "it ran without the configuration from elsewhere: /srv/pg.conf (at /etc/postgresql/pg.conf), \
                       /opt/lost.conf (in the container itself), /opt/unheard-of.d";
        let with = "it ran with what its image has of the configuration from elsewhere: /opt/own.conf, \
                    /etc/postgresql/pg.conf";
        assert_eq!(said, [without, with]);
    }

    #[test]
    fn a_copy_that_says_nothing_is_taken_to_have_had_none_of_it() {
        let said = of_drill(&manifest(), None);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("it ran without") && said[0].contains("/opt/own.conf"), "{said:?}");
    }
}
