//! What migrations and snapshots left on purpose: the volume that the data was in, and stages. Pure: no engine, no
//! clock, no files.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::rules::{days, shown, target_of};
use super::ways::Trial;
use super::{Finding, Kind, Risk};
use crate::compose::{Membership, VolumeKey};
use crate::database;
use crate::model::container::{Container, Mount, MountKind, Volume};
use crate::model::hint::Hint;
use crate::model::plural::size;
use crate::model::quote::{printable, shell_quote};
use crate::ops::migrate::record::Migration;

/// A remembered migration whose volume still exists.
pub(super) struct Migrated<'m> {
    pub(super) migration: &'m Migration,
    /// Containers that mount the volume again.
    pub(super) users: Vec<&'m Container>,
    /// The container that has the directory.
    pub(super) service: Option<&'m Container>,
    /// Whether the directory is known to be gone.
    pub(super) gone: bool,
    /// Whether the data can go back into a volume.
    pub(super) back: Trial,
    /// What takes a snapshot of the volume, or leads to one.
    pub(super) snapshot: Vec<Hint>,
}

/// A volume in which a snapshot keeps a copy for the next one.
pub(super) struct Stage<'s> {
    pub(super) volume: &'s str,
    /// The key of the source that it is a copy of.
    pub(super) source: &'s str,
    pub(super) made: Option<DateTime<Utc>>,
    /// What it occupies, if that could be seen without a helper.
    pub(super) bytes: Option<u64>,
}

impl Migrated<'_> {
    /// Returns what to say of the volume.
    pub(super) fn findings(&self) -> Vec<Finding> {
        match (self.users.is_empty(), self.gone) {
            (true, false) => vec![self.left_over()],
            (true, true) => vec![self.last_copy()],
            (false, false) => self.users.iter().map(|user| self.in_use(user)).collect(),
            // Somebody went back and removed the directory: there is one database, and that is in use.
            (false, true) => Vec::new(),
        }
    }

    fn finding(&self, kind: Kind, risk: Risk, what: String, mitigation: Vec<Hint>) -> Finding {
        let subject = format!("volume {}", printable(&self.migration.volume));
        Finding { kind, risk, subject, container: None, what, mitigation }
    }

    fn directory(&self) -> String {
        shown(&self.migration.directory)
    }

    /// Returns the moment that the volume's data is of.
    fn moment(&self) -> String {
        self.migration.at.format("%Y-%m-%d %H:%M UTC").to_string()
    }

    fn left_over(&self) -> Finding {
        let what = format!(
            "no container uses it: it has the data as of {}, which has been in {} since",
            self.moment(),
            self.directory()
        );
        let remove = Hint::docker(["volume", "rm", &self.migration.volume]);
        let mitigation = match self.service {
            Some(service) => {
                let remove = remove.why("once it is not needed any more");
                let back = match &self.back {
                    Trial::Open => vec![self.back(service).why("takes the data back into a volume")],
                    refused => refused.refusal().to_vec(),
                };
                std::iter::once(remove).chain(back).collect()
            }
            None => vec![remove],
        };
        self.finding(Kind::LeftoverVolume, Risk::Low, what, mitigation)
    }

    /// Returns whether the volume is of no use to anybody any more, and the directory has the data.
    pub(super) fn is_left_over(&self) -> bool {
        self.users.is_empty() && !self.gone
    }

    /// Returns the volume for the way back; `None` for the volume itself: only its files can tell whose it is.
    pub(super) fn volume_back(&self) -> Option<String> {
        let tells = self.service.and_then(database::of).is_some_and(|database| database.files().is_some());
        (!tells).then(|| format!("{}-back", self.migration.volume))
    }

    fn back(&self, service: &Container) -> Hint {
        let back = Hint::volsnap(["migrate", &target_of(service).spelling(), "--back"]);
        match self.volume_back() {
            Some(volume) => back.and(["--volume", &volume]),
            None => back,
        }
    }

    fn last_copy(&self) -> Finding {
        let what = format!(
            "no container uses it, and {}, where its data went, is gone: what it has, as of {}, may be the last copy",
            self.directory(),
            self.moment()
        );
        self.finding(Kind::LeftoverVolume, Risk::Medium, what, self.snapshot.clone())
    }

    fn in_use(&self, user: &Container) -> Finding {
        let (risk, uses) = if user.state.running {
            (Risk::High, "uses")
        } else {
            (Risk::Medium, "will use, when it starts,")
        };
        let name = printable(&user.name);
        let elsewhere = match self.service.filter(|service| service.id != user.id) {
            Some(service) => format!("is in {}, which {} uses", self.directory(), printable(&service.name)),
            None => format!("is in {} alone", self.directory()),
        };
        let what = format!(
            "container {name} {uses} the volume again that was migrated on {}: what was written after that {elsewhere}",
            self.moment()
        );
        let mut mitigation = self.mount_again(user);
        if self.service.is_none() {
            let directory = self.migration.directory.to_string_lossy();
            let (from, to) = (shell_quote(&directory), shell_quote(&format!("{directory}.old")));
            let aside = Hint::shell(format!("mv {from} {to}"));
            mitigation.push(aside.why("if what the volume has is what is wanted"));
        }
        let container = Some(user.name.clone());
        Finding { container, ..self.finding(Kind::LeftoverInUse, risk, what, mitigation) }
    }

    /// Returns how a container can use the directory.
    fn mount_again(&self, user: &Container) -> Vec<Hint> {
        let is_volume = |mount: &&Mount| mount.volume.as_deref() == Some(&*self.migration.volume);
        let at = user.mounts.iter().find(is_volume).map(|mount| mount.destination.as_path());
        let mount = format!("{}:{}", self.directory(), shown(at.unwrap_or(Path::new("…"))));
        match Membership::of(&user.labels) {
            // `restart --recreate` refuses files that name another place for the data than the container has.
            Some(member) => vec![Hint::advice(format!(
                "mount `{mount}` in the service {} in the project's file, and have Compose make its container anew",
                member.service
            ))],
            None => vec![Hint::advice(format!("make the container anew with: docker run -v {mount} …"))],
        }
    }
}

impl Stage<'_> {
    /// Returns what to say of it.
    pub(super) fn finding(&self, now: DateTime<Utc>) -> Finding {
        let size = self.bytes.map(|bytes| format!("; it takes {}", size(bytes)));
        let mut mitigation = vec![Hint::docker(["volume", "rm", self.volume])];
        if size.is_none() {
            mitigation.push(Hint::volsnap(["list", "--stages"]).why("says what it takes"));
        }
        let made = self.made.map_or_else(String::new, |made| format!(", made {} ago", days(now - made)));
        Finding {
            kind: Kind::KeptStage,
            risk: Risk::Low,
            subject: format!("stage {}", printable(self.volume)),
            container: None,
            what: format!(
                "a copy of {} for its next snapshot{made}{}",
                printable(self.source),
                size.unwrap_or_default()
            ),
            mitigation,
        }
    }
}

/// Returns where a project's database has its data, if that is a directory and the project had that volume.
pub(super) fn moved_from(volume: &Volume, container: &Container, mount: &Mount) -> Option<PathBuf> {
    let key = VolumeKey::of(&volume.labels)?;
    let member = Membership::of(&container.labels)?;
    (key.project == member.project && mount.kind == MountKind::Bind).then(|| mount.source.clone())
}

/// Says of a volume what is only a guess: nobody remembers a migration of it.
pub(super) fn leftover_volume(name: &str, directory: &Path, snapshot: Vec<Hint>) -> Finding {
    let snapshot = snapshot.into_iter().map(|hint| match hint {
        Hint::Advice(_) => hint,
        command => command.why("keeps what is in it"),
    });
    Finding {
        kind: Kind::LeftoverVolume,
        risk: Risk::Low,
        subject: format!("volume {}", printable(name)),
        container: None,
        what: format!(
            "no container uses it, and the project's database has its data in {}",
            shown(directory)
        ),
        // It may belong to another service, which is down.
        mitigation: snapshot.chain([Hint::docker(["volume", "rm", name])]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::container::ContainerState;

    fn migration() -> Migration {
        Migration {
            engine: "engine".into(),
            directory: "/srv/shop/db".into(),
            volume: "shop_data".into(),
            labels: BTreeMap::new(),
            at: "2026-11-20T20:30:11Z".parse().unwrap(),
            edits: Vec::new(),
        }
    }

    fn container(name: &str, running: bool) -> Container {
        Container {
            id: name.into(),
            name: name.into(),
            state: ContainerState { running, ..ContainerState::default() },
            mounts: vec![Mount {
                kind: MountKind::Volume,
                volume: Some("shop_data".into()),
                destination: "/var/lib/postgresql/data".into(),
                ..Mount::default()
            }],
            ..Container::default()
        }
    }

    fn in_project(mut container: Container) -> Container {
        let labels = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", "db")];
        container.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        container
    }

    fn only(findings: Vec<Finding>) -> Finding {
        let [one] = findings.try_into().unwrap();
        one
    }

    #[test]
    fn what_a_migration_has_left_can_go_or_have_the_data_back() {
        let (migration, mut service) = (migration(), in_project(container("shop_db_1", true)));
        service.command = vec!["postgres".to_owned()];
        let mut migrated = Migrated {
            migration: &migration,
            users: Vec::new(),
            service: Some(&service),
            gone: false,
            back: Trial::Open,
            snapshot: Vec::new(),
        };
        let finding = only(migrated.findings());
        assert_eq!((finding.kind, finding.risk), (Kind::LeftoverVolume, Risk::Low));
        assert_eq!(
            finding.what,
            "no container uses it: it has the data as of 2026-11-20 20:30 UTC, which has been in /srv/shop/db since"
        );
        assert_eq!(
            finding.mended_by(),
            "docker volume rm shop_data    # once it is not needed any more\n\
             volsnap migrate service:shop/db --back    # takes the data back into a volume"
        );
        let store = in_project(container("shop_db_1", true));
        migrated.service = Some(&store);
        let back = only(migrated.findings()).mended_by();
        assert!(
            back.contains("service:shop/db --back --volume shop_data-back "),
            "nobody can tell whose it is"
        );
        // What would be refused is not printed; its reason is.
        migrated.back = Trial::Refused(vec![Hint::advice("it is refused: the file is gone")]);
        assert_eq!(
            only(migrated.findings()).mended_by(),
            "docker volume rm shop_data    # once it is not needed any more\nit is refused: the file is gone"
        );
        migrated.service = None;
        assert_eq!(only(migrated.findings()).mended_by(), "docker volume rm shop_data");
    }

    #[test]
    fn the_last_copy_is_not_told_to_be_removed() {
        let migration = migration();
        let snapshot = vec![Hint::volsnap(["snapshot", "volume:shop_data"])];
        let migrated = Migrated {
            migration: &migration,
            users: Vec::new(),
            service: None,
            gone: true,
            back: Trial::Closed,
            snapshot,
        };
        let finding = only(migrated.findings());
        assert_eq!(finding.risk, Risk::Medium);
        assert_eq!(finding.mended_by(), "volsnap snapshot volume:shop_data");
    }

    #[test]
    fn who_uses_the_volume_again_is_a_high_risk_unless_the_directory_is_gone() {
        let migration = migration();
        let (back, service) = (in_project(container("shop_db_1", true)), container("other", true));
        let mut migrated = Migrated {
            migration: &migration,
            users: vec![&back],
            service: None,
            gone: false,
            back: Trial::Open,
            snapshot: Vec::new(),
        };
        let finding = only(migrated.findings());
        assert_eq!((finding.kind, finding.risk), (Kind::LeftoverInUse, Risk::High));
        assert_eq!(
            finding.what,
            "container shop_db_1 uses the volume again that was migrated on 2026-11-20 20:30 UTC: what was written \
             after that is in /srv/shop/db alone"
        );
        assert_eq!(
            finding.mended_by(),
            "mount `/srv/shop/db:/var/lib/postgresql/data` in the service db in the project's file, and have Compose make \
             its container anew\n\
             mv /srv/shop/db /srv/shop/db.old    # if what the volume has is what is wanted"
        );
        migrated.service = Some(&service);
        let finding = only(migrated.findings());
        assert!(finding.what.ends_with("is in /srv/shop/db, which other uses"), "{}", finding.what);
        assert!(!finding.mended_by().contains("mv "), "the directory is in use");
        let stopped = container("a b", false);
        migrated.users = vec![&stopped];
        let finding = only(migrated.findings());
        assert_eq!(finding.risk, Risk::Medium);
        assert_eq!(
            finding.mended_by(),
            "make the container anew with: docker run -v /srv/shop/db:/var/lib/postgresql/data …"
        );
        migrated.gone = true;
        assert_eq!(migrated.findings(), []);
    }

    #[test]
    fn a_stage_is_said_with_what_it_takes_and_how_it_goes() {
        let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut stage = Stage {
            volume: "volsnap-stage-x",
            source: "shop_data",
            made: Some("2026-11-18T12:00:00Z".parse().unwrap()),
            bytes: Some(3_200_000_001),
        };
        let finding = stage.finding(now);
        assert_eq!((finding.kind, finding.risk), (Kind::KeptStage, Risk::Low));
        assert_eq!(
            finding.what,
            "a copy of shop_data for its next snapshot, made 3 days ago; it takes 3.2 GB"
        );
        assert_eq!(finding.mended_by(), "docker volume rm volsnap-stage-x");
        (stage.made, stage.bytes) = (None, None);
        let finding = stage.finding(now);
        assert_eq!(finding.what, "a copy of shop_data for its next snapshot");
        assert!(finding.mended_by().ends_with("volsnap list --stages    # says what it takes"));
    }

    #[test]
    fn a_volume_is_left_over_only_in_a_project_whose_data_has_moved() {
        let mut container = in_project(container("shop_db_1", true));
        let pairs = [("com.docker.compose.project", "shop"), ("com.docker.compose.volume", "data")];
        let labels = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let volume = Volume { name: "shop_data".into(), labels, ..Volume::default() };
        let bind = Mount { kind: MountKind::Bind, source: "/srv/db".into(), ..Mount::default() };
        assert_eq!(moved_from(&volume, &container, &bind), Some("/srv/db".into()));
        assert_eq!(moved_from(&volume, &container, &container.mounts[0]), None);
        assert_eq!(moved_from(&Volume::default(), &container, &bind), None);
        container.labels.insert("com.docker.compose.project".to_owned(), "other".to_owned());
        assert_eq!(moved_from(&volume, &container, &bind), None);
    }
}
