//! The labels Compose puts on containers and volumes.

use std::collections::BTreeMap;

const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
const NUMBER_LABEL: &str = "com.docker.compose.container-number";
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";
const DEPENDS_ON_LABEL: &str = "com.docker.compose.depends_on";
/// The directory of the project's files, on the machine that ran Compose.
pub const WORKING_DIR_LABEL: &str = "com.docker.compose.project.working_dir";
/// The files of the project as they were named, separated by commas.
pub(super) const CONFIG_FILES_LABEL: &str = "com.docker.compose.project.config_files";
/// Files with variables that Compose was given, separated by commas.
pub(super) const ENVIRONMENT_FILE_LABEL: &str = "com.docker.compose.project.environment_file";
/// The digest of the service's configuration.
pub const CONFIG_HASH_LABEL: &str = "com.docker.compose.config-hash";
/// The name a volume has in the project's file, before Compose prefixes it.
pub const VOLUME_LABEL: &str = "com.docker.compose.volume";

/// What makes a container a part of a Compose service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership<'l> {
    /// The project.
    pub project: &'l str,
    /// The service.
    pub service: &'l str,
    /// Which of the service's containers this is.
    pub number: Option<&'l str>,
    depends_on: &'l str,
}

impl<'l> Membership<'l> {
    /// Returns the service a container belongs to, by its labels.
    ///
    /// A one-off container (`docker compose run`) carries the service's labels but is not the
    /// service: it belongs to none.
    #[must_use]
    pub fn of(labels: &'l BTreeMap<String, String>) -> Option<Self> {
        let one_off = labels.get(ONE_OFF_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if one_off {
            return None;
        }
        Some(Self {
            project: labels.get(PROJECT_LABEL)?,
            service: labels.get(SERVICE_LABEL)?,
            number: labels.get(NUMBER_LABEL).map(String::as_str),
            depends_on: labels.get(DEPENDS_ON_LABEL).map_or("", String::as_str),
        })
    }

    /// Returns whether this service was declared to depend on `service` of the same project.
    ///
    /// The label reads "db:service_healthy:true,cache:service_started:false".
    #[must_use]
    pub fn depends_on(&self, service: &str) -> bool {
        self.depends_on
            .split(',')
            .any(|entry| entry.split(':').next().is_some_and(|name| name.trim() == service))
    }
}

/// Returns the project that a container belongs to, also one that is made for a single command (`compose run`).
#[must_use]
pub fn project_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels.get(PROJECT_LABEL).map(String::as_str)
}

/// What a project's file calls a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeKey<'l> {
    /// The project.
    pub project: &'l str,
    /// The key below `volumes:`, such as `db_data`.
    pub key: &'l str,
}

impl<'l> VolumeKey<'l> {
    /// Returns what Compose calls a volume, by its labels.
    #[must_use]
    pub fn of(labels: &'l BTreeMap<String, String>) -> Option<Self> {
        Some(Self { project: labels.get(PROJECT_LABEL)?, key: labels.get(VOLUME_LABEL)? })
    }
}

/// Returns the labels by which Compose takes a volume called `name` for its own. It replaces the volume
/// `origin`, which a container with these labels used. None if that container was not Compose's.
#[must_use]
pub fn volume_labels(
    origin: &str,
    container: &BTreeMap<String, String>,
    name: &str,
) -> BTreeMap<String, String> {
    let Some(project) = container.get(PROJECT_LABEL) else { return BTreeMap::new() };
    let prefix = format!("{project}_");
    // Compose was told to give the volume another name, and that name does not tell its key.
    let Some(key) = origin.strip_prefix(&prefix) else { return BTreeMap::new() };
    let other_project = name.strip_suffix(&format!("_{key}")).filter(|project| !project.is_empty());
    let (project, key) = match (name.strip_prefix(&prefix), other_project) {
        (_, Some(project)) => (project, key),
        (Some(key), None) if !key.is_empty() => (project.as_str(), key),
        _ => (project.as_str(), key),
    };
    BTreeMap::from([
        (PROJECT_LABEL.to_owned(), project.to_owned()),
        (VOLUME_LABEL.to_owned(), key.to_owned()),
    ])
}

/// Returns the labels of a volume called `name` that takes the place of the volume `origin`: all that `origin` had, and
/// where that is not known, or under another name, those by which Compose takes it for its own. `volume` has the labels
/// of `origin`, `container` those of a container that used it.
#[must_use]
pub fn labels_in_place(
    origin: &str,
    (volume, container): (&BTreeMap<String, String>, &BTreeMap<String, String>),
    name: &str,
) -> BTreeMap<String, String> {
    let mut labels = volume.clone();
    if name == origin && VolumeKey::of(volume).is_some() {
        return labels;
    }
    // The digest has the name in it: Compose would ask whether to make such a volume anew, without its data.
    labels.remove(CONFIG_HASH_LABEL);
    labels.extend(volume_labels(origin, container, name));
    labels
}

/// Returns the labels by which Compose takes a volume for one of a project, if it is called as one of it; none
/// otherwise.
#[must_use]
pub fn labels_by_name(project: &str, name: &str) -> BTreeMap<String, String> {
    let key =
        name.strip_prefix(project).and_then(|rest| rest.strip_prefix('_')).filter(|key| !key.is_empty());
    let labels = key.into_iter().flat_map(|key| [(PROJECT_LABEL, project), (VOLUME_LABEL, key)]);
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case::none("", "db", false)]
    #[case::current_form("db:service_healthy:true,cache:service_started:false", "cache", true)]
    #[case::short_form("db:service_started", "db", true)]
    #[case::bare_form("db,cache", "cache", true)]
    #[case::no_prefix_match("db-replica:service_started:false", "db", false)]
    #[case::no_condition_match("db:cache:true", "cache", false)]
    fn a_dependency_is_read_from_the_label(
        #[case] label: &str,
        #[case] service: &str,
        #[case] expected: bool,
    ) {
        let labels = labels(&[(PROJECT_LABEL, "p"), (SERVICE_LABEL, "app"), (DEPENDS_ON_LABEL, label)]);
        assert_eq!(Membership::of(&labels).unwrap().depends_on(service), expected);
    }

    #[rstest]
    #[case::again("p_data", "p_data", "p", "data")]
    #[case::another_project("p_data", "q_data", "q", "data")]
    #[case::another_key("p_data", "p_data2", "p", "data2")]
    #[case::any_name("p_data", "elsewhere", "p", "data")]
    fn a_volume_made_anew_has_the_labels_of_the_one_it_replaces(
        #[case] origin: &str,
        #[case] name: &str,
        #[case] project: &str,
        #[case] key: &str,
    ) {
        let container = labels(&[(PROJECT_LABEL, "p")]);
        let expected = labels(&[(PROJECT_LABEL, project), (VOLUME_LABEL, key)]);
        assert_eq!(volume_labels(origin, &container, name), expected);
        assert!(volume_labels("pgdata", &container, name).is_empty());
        assert!(volume_labels(origin, &labels(&[]), name).is_empty());
    }

    #[test]
    fn a_volume_in_the_place_of_another_has_all_that_was_said_of_that_one() {
        let container = labels(&[(PROJECT_LABEL, "p")]);
        let had = [(PROJECT_LABEL, "p"), (VOLUME_LABEL, "data"), ("owner", "ops"), (CONFIG_HASH_LABEL, "1f")];
        let place =
            |origin, had: &[(&str, &str)], name| labels_in_place(origin, (&labels(had), &container), name);
        assert_eq!(place("p_data", &had, "p_data"), labels(&had));
        // Compose was told its name, which does not tell its key.
        assert_eq!(place("pgdata", &had, "pgdata"), labels(&had));
        assert_eq!(place("pgdata", &had, "other"), labels(&had[..3]));
        let renamed = [(PROJECT_LABEL, "q"), (VOLUME_LABEL, "data"), ("owner", "ops")];
        assert_eq!(place("p_data", &had, "q_data"), labels(&renamed));
        // What an earlier volsnap has saved does not say.
        assert_eq!(place("p_data", &[], "p_data"), labels(&had[..2]));
    }

    #[rstest]
    #[case("shop_db_data", &[(PROJECT_LABEL, "shop"), (VOLUME_LABEL, "db_data")])]
    #[case("shopping_data", &[])]
    #[case("shop_", &[])]
    #[case("data", &[])]
    fn a_name_tells_whether_a_volume_is_of_a_project(#[case] name: &str, #[case] expected: &[(&str, &str)]) {
        assert_eq!(labels_by_name("shop", name), labels(expected));
    }

    #[test]
    fn a_one_off_container_belongs_to_no_service() {
        let one_off = labels(&[(PROJECT_LABEL, "p"), (SERVICE_LABEL, "db"), (ONE_OFF_LABEL, "True")]);
        assert_eq!(Membership::of(&one_off), None);
        let regular = labels(&[(PROJECT_LABEL, "p"), (SERVICE_LABEL, "db"), (ONE_OFF_LABEL, "False")]);
        assert!(Membership::of(&regular).is_some());
    }
}
