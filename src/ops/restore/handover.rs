//! What a restore leaves to whoever made the service. It makes no service itself: a new volume is to look to Compose and
//! to its owner like the one that is gone, and whoever restored where nothing runs is told what brings the service up.

use std::collections::BTreeMap;

use super::RestoreRun;
use super::prepare::Prepared;
use crate::compose::command::{Compose, Spelling};
use crate::compose::{DirectoryProject, Membership, VolumeKey, labels_by_name, labels_in_place};
use crate::database;
use crate::model::hint::{Hint, command_line};
use crate::model::labels::lasting_labels;
use crate::model::location::MountSource;
use crate::model::manifest::Manifest;
use crate::model::orchestrator::Orchestrator;
use crate::ops::apart;

impl RestoreRun<'_> {
    /// Returns the labels of a new volume: those of the volume that it replaces; where nothing is known of one, those
    /// that Compose expects of a volume which is called as one of the current project. One for this run alone is
    /// nobody's.
    pub(super) fn labels_of_new(&self, name: &str) -> BTreeMap<String, String> {
        if self.is_scratch {
            return BTreeMap::new();
        }
        let manifest = self.options.archive.snapshot().map(|snapshot| &snapshot.manifest);
        match manifest.map(|manifest| (manifest.location(), &manifest.environment)) {
            Some((MountSource::Volume(origin), environment)) => {
                let had = lasting_labels(environment.volume_labels.clone());
                labels_in_place(origin, (&had, &environment.labels), name)
            }
            _ => self.project().map(|project| labels_by_name(&project, name)).unwrap_or_default(),
        }
    }

    /// Returns what to say of a new volume that is plain where the one that it replaces was not.
    pub(super) fn warn_of_options(&self, name: &str) -> Vec<String> {
        let snapshot = self.options.archive.snapshot();
        let options = snapshot.map(|snapshot| &snapshot.manifest.environment.volume_options[..]);
        let warning = |options: &[String]| {
            format!(
                "the volume of the snapshot had options ({}), and the new one has none: for a volume with them, have it made \
                 by whoever declares them, as by `docker compose up --no-start`, and restore with --to volume:{name}",
                options.join(", ")
            )
        };
        options.filter(|options| !options.is_empty()).map(warning).into_iter().collect()
    }

    /// Returns the Compose project of the current directory.
    fn project(&self) -> Option<String> {
        let context = &self.run.context;
        let found = DirectoryProject::discover(&context.directory)?.name;
        Some(context.compose_project.clone().unwrap_or(found))
    }

    /// Returns what brings up a database on what was restored; nothing where one runs, or where nobody knows what ran.
    pub(super) async fn next(&self, prepared: &Prepared) -> Vec<Hint> {
        let (source, plan) = (&prepared.source, &prepared.plan);
        if let Some(container) = source.database() {
            let start = Hint::docker(["start", &container.name]).why("it did not run before");
            // One of an orchestrator is started by that alone.
            let runs = Orchestrator::of(container).is_some()
                || container.state.running
                || plan.starts.contains(&container.name);
            return if runs { Vec::new() } else { vec![start] };
        }
        let manifest = self.options.archive.snapshot().map(|snapshot| &snapshot.manifest);
        let Some(manifest) = manifest.filter(|_| source.users.is_empty()) else { return Vec::new() };
        let up = if manifest.location() == &source.location { self.up(manifest).await } else { None };
        // Data that was there before may have a service that is only away; a second one beside it would be its end.
        let is_last = !plan.makes || up.as_ref().is_some_and(|up| !matches!(up, Hint::Advice(_)));
        let run = if is_last { None } else { self.run_on(manifest, &source.location).await };
        up.into_iter().chain(run.into_iter().flatten()).collect()
    }

    /// Returns how Compose brings up the project that the data is of; `None` if it was no service of Compose.
    async fn up(&self, manifest: &Manifest) -> Option<Hint> {
        let (context, environment) = (&self.run.context, &manifest.environment);
        let labels = &environment.labels;
        // Of a service that is no known database, the volume alone says whose it is.
        let of_volume = || VolumeKey::of(&environment.volume_labels).map(|key| key.project);
        let project = Membership::of(labels).map(|member| member.project).or_else(of_volume)?;
        let spelling = Spelling::find(&*context.compose).await.unwrap_or(Spelling::Plugin);
        if self.project().as_deref() == Some(project) {
            let named = context.compose_project.as_ref().map(|name| ["-p", name]);
            let words =
                spelling.words().iter().copied().chain(named.into_iter().flatten()).chain(["up", "-d"]);
            return Some(Hint::shell(command_line(words)));
        }
        Some(match Compose::of(&context.compose, spelling, labels, Some(&context.address)) {
            Ok(compose) => Hint::shell(compose.command(&["up", "-d"])),
            // Its files lie elsewhere now, if anywhere.
            Err(_) => Hint::advice(format!(
                "in the directory of the Compose file of {project}, type: {} up -d",
                spelling.words().join(" ")
            )),
        })
    }

    /// Returns how the engine runs a new container on what was restored, and how to look into it.
    async fn run_on(&self, manifest: &Manifest, location: &MountSource) -> Option<Vec<Hint>> {
        let environment = &manifest.environment;
        let (image, mounted_at) = (environment.image.as_deref()?, manifest.mounted_at()?);
        let advice = match &manifest.evidence.database {
            Some(database) => database::advice_of(&database.engine),
            None => database::advice_of(""),
        };
        let from = match location {
            MountSource::Volume(name) => name.clone(),
            MountSource::Directory(path) => path.display().to_string(),
        };
        // A colon would end it.
        let mount = (!from.contains(':')).then(|| format!("{from}:{}", mounted_at.display()))?;
        let name = self.free_name(environment.container.as_deref()?, location == manifest.location()).await?;
        let options = environment.data_directory.iter().flat_map(|directory| advice.options_on(directory));
        let run = Hint::docker(["run", "-d", "--name", &name])
            .and(options)
            .and(["-v", &mount])
            .and(self.configuration_mounts(manifest).await)
            .and([image])
            .why("the image and the mounts that it had; add its ports, networks and settings");
        let show = environment.superuser.as_deref().and_then(|superuser| advice.show(&name, superuser));
        Some(std::iter::once(run).chain(show).collect())
    }

    /// Returns the options that mount the configuration which the data's container had from elsewhere, without which its
    /// database may not start. None of them makes what is not there.
    async fn configuration_mounts(&self, manifest: &Manifest) -> Vec<String> {
        let mut options = Vec::new();
        for mount in apart::mounts_of_restore(manifest) {
            let (kind, from) = match &mount.volume {
                Some(name) => ("volume", name.clone()),
                None => ("bind", mount.source.display().to_string()),
            };
            let at = mount.destination.display().to_string();
            let is_there =
                kind == "bind" || matches!(self.run.context.docker.volume(&from).await, Ok(Some(_)));
            // A comma would end a field.
            if is_there && !from.contains(',') && !at.contains(',') {
                let field = format!("type={kind},source={from},target={at},readonly");
                options.extend(["--mount".to_owned(), field]);
            }
        }
        options
    }

    /// Returns a name for a container like the one that the data ran in. On data that has the place of that container's,
    /// it is the same name, so that nobody can run both; `None` if there is one already.
    async fn free_name(&self, name: &str, in_its_place: bool) -> Option<String> {
        let restored = if in_its_place { name.to_owned() } else { format!("{name}-restored") };
        match self.run.context.docker.container(&restored).await {
            Ok(None) => Some(restored),
            _ if in_its_place => None,
            _ => Some(format!("{restored}-{}", self.run.id)),
        }
    }
}
