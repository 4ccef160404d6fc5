//! Which project a directory belongs to, by Compose's own rules.

use std::path::{Path, PathBuf};

/// The names under which Compose looks for its file, in its order.
pub(super) const FILE_NAMES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// The names under which it looks for an override beside its file.
pub(super) const OVERRIDE_NAMES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The project of a directory's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryProject {
    /// The project's name.
    pub name: String,
    /// The directory of its file.
    pub directory: PathBuf,
}

impl DirectoryProject {
    /// Returns the project of the nearest Compose file, in `directory` or above it.
    ///
    /// `None` without a file, and if only interpolation tells the name: a guessed project could reach
    /// another one's data.
    #[must_use]
    pub fn discover(directory: &Path) -> Option<Self> {
        directory
            .ancestors()
            .find_map(|directory| {
                let file = FILE_NAMES.iter().map(|name| directory.join(name)).find(|file| file.is_file())?;
                Some((directory, std::fs::read_to_string(file).unwrap_or_default()))
            })
            .and_then(|(directory, file)| {
                let env = std::fs::read_to_string(directory.join(".env")).unwrap_or_default();
                let name = project_name(directory, &file, &env)?;
                Some(Self { name, directory: directory.to_owned() })
            })
    }
}

/// How many directories are looked into for the files of projects below one.
const DIRECTORIES: usize = 200;

/// Returns the projects whose files lie in a directory right below this one, by name.
#[must_use]
pub fn projects_below(directory: &Path) -> Vec<DirectoryProject> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(DIRECTORIES);
    let has_file = |path: &PathBuf| FILE_NAMES.iter().any(|name| path.join(name).is_file());
    let found = entries.map(|entry| entry.path()).filter(has_file);
    let mut projects: Vec<_> = found.filter_map(|path| DirectoryProject::discover(&path)).collect();
    projects.sort_by(|one, other| one.name.cmp(&other.name));
    projects
}

/// Returns the name of the project in `directory`, whose files read `file` and `env`.
fn project_name(directory: &Path, file: &str, env: &str) -> Option<String> {
    let named = name_in_env(env).or_else(|| name_in_file(file));
    if let Some(name) = named {
        return (!name.contains('$')).then(|| name.to_owned());
    }
    let name = normalize_project_name(&directory.file_name()?.to_string_lossy());
    (!name.is_empty()).then_some(name)
}

/// Returns the name that Compose derives from a directory's: lower case, only `a-z0-9_-`, with a letter or
/// a digit at the beginning.
#[must_use]
pub fn normalize_project_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let kept: String = lower.chars().filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-')).collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

fn name_in_file(file: &str) -> Option<&str> {
    file.lines().find_map(|line| line.strip_prefix("name:")).map(scalar).filter(|name| !name.is_empty())
}

fn name_in_env(env: &str) -> Option<&str> {
    let value = |line: &'_ str| -> Option<usize> {
        let line_start = line.trim_start();
        let line_start = line_start.strip_prefix("export ").unwrap_or(line_start).trim_start();
        let rest = line_start.strip_prefix("COMPOSE_PROJECT_NAME")?.trim_start().strip_prefix('=')?;
        Some(line.len() - rest.len())
    };
    let line = env.lines().rfind(|line| value(line).is_some())?;
    Some(scalar(&line[value(line)?..])).filter(|name| !name.is_empty())
}

/// Returns a plain or quoted scalar without its quotes and the comment after it.
fn scalar(text: &str) -> &str {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            return quoted.split(quote).next().unwrap_or_default();
        }
    }
    text.split(" #").next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[test]
    fn the_projects_right_below_a_directory_are_found() {
        let directory = tempfile::tempdir().unwrap();
        for (name, file) in [("b", "compose.yaml"), ("a", "docker-compose.yml"), ("none", "other.yaml")] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join(file), "services: {}\n").unwrap();
        }
        let names: Vec<_> = projects_below(directory.path()).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    use super::*;

    #[rstest]
    #[case("memory-service", "memory-service")]
    #[case("Memory Service", "memoryservice")]
    #[case("my.app_1", "myapp_1")]
    #[case("_-x", "x")]
    #[case("ÄÖ", "")]
    fn a_directory_name_becomes_a_project_name(#[case] directory: &str, #[case] expected: &str) {
        assert_eq!(normalize_project_name(directory), expected);
    }

    #[rstest]
    #[case::basename("services:\n  db: {}\n", "", Some("app"))]
    #[case::named("name: shop\nservices: {}\n", "", Some("shop"))]
    #[case::quoted("name: \"shop\" # ours\n", "", Some("shop"))]
    #[case::commented("name: shop # ours\n", "", Some("shop"))]
    #[case::only_at_the_top("services:\n  db:\n    name: shop\n", "", Some("app"))]
    #[case::env_wins("name: shop\n", "A=1\nCOMPOSE_PROJECT_NAME=mall\n", Some("mall"))]
    #[case::env_forms("", "export COMPOSE_PROJECT_NAME = 'mall'\n", Some("mall"))]
    #[case::env_last_wins("", "COMPOSE_PROJECT_NAME=a\nCOMPOSE_PROJECT_NAME=b\n", Some("b"))]
    #[case::env_empty_is_none("name: shop\n", "COMPOSE_PROJECT_NAME=\n", Some("shop"))]
    #[case::env_commented_out("", "#COMPOSE_PROJECT_NAME=mall\n", Some("app"))]
    #[case::interpolated_is_not_guessed("name: ${STAGE}-shop\n", "", None)]
    fn the_project_name_follows_composes_order(
        #[case] file: &str,
        #[case] env: &str,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(project_name(Path::new("/srv/App"), file, env).as_deref(), expected);
    }

    #[test]
    fn the_nearest_file_above_is_found() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(root.path().join("a/docker-compose.yml"), "name: shop\n").unwrap();
        let project = DirectoryProject::discover(&below).unwrap();
        assert_eq!(project, DirectoryProject { name: "shop".to_owned(), directory: root.path().join("a") });
    }
}
