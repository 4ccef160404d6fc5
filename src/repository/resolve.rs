//! Which snapshot a person means. Pure rules over a listing.
//!
//! Restoring the wrong snapshot is terrible, so nothing is guessed: a specification that can mean two snapshots, or
//! that would silently skip a damaged one, is refused, with what to type instead.

use std::collections::{BTreeMap, BTreeSet};

use super::error::RepositoryError;
use super::listing::{Listing, Snapshot};
use crate::compose::{Membership, project_of};
use crate::model::ids::SnapshotId;
use crate::model::location::MountSource;
use crate::model::manifest::Manifest;
use crate::model::source::key_of;

const LATEST: &str = "latest";
/// How alike two names must be for a suggestion; 1 is equal.
const NEAR: f64 = 0.7;
const NEAREST_MAX: usize = 3;

/// Something that a specification may mean: a snapshot, or one that exists but cannot be trusted.
struct Candidate<'a> {
    source: &'a str,
    id: &'a SnapshotId,
    found: Found<'a>,
}

enum Found<'a> {
    Snapshot(&'a Snapshot),
    Unreadable(RepositoryError),
}

impl Candidate<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.source, self.id)
    }

    fn is_safety(&self) -> bool {
        matches!(self.found, Found::Snapshot(snapshot) if snapshot.manifest.is_safety())
    }

    fn is_marked(&self) -> bool {
        matches!(self.found, Found::Snapshot(snapshot) if snapshot.deletion.is_some())
    }

    fn is_fresh(&self) -> bool {
        matches!(self.found, Found::Snapshot(snapshot) if snapshot.manifest.is_fresh())
    }

    fn into_snapshot(self) -> Result<Snapshot, RepositoryError> {
        match self.found {
            Found::Snapshot(snapshot) => Ok(snapshot.clone()),
            Found::Unreadable(error) => Err(error),
        }
    }
}

impl Listing {
    /// Returns the snapshot that `spec` means, wherever the user is: see [`resolve_in`](Self::resolve_in).
    ///
    /// # Errors
    /// When no snapshot is meant, more than one may be, or the one that is meant cannot be trusted.
    pub fn resolve(&self, spec: &str) -> Result<Snapshot, RepositoryError> {
        self.resolve_in(spec, None)
    }

    /// Returns the snapshot that `spec` means to somebody in this Compose project: an id or the beginning of one,
    /// `latest`, either of them after a source and a slash, or a source alone, which means its latest.
    ///
    /// `latest` is the snapshot with the newest id, of the only history: a service that was migrated has one. It skips
    /// what a restore has kept of the data that it replaced, and what is marked for deletion. If the newest snapshot cannot be trusted, this fails rather
    /// than skip it.
    ///
    /// # Errors
    /// When no snapshot is meant, more than one may be, or the one that is meant cannot be trusted.
    pub fn resolve_in(&self, spec: &str, project: Option<&str>) -> Result<Snapshot, RepositoryError> {
        let (source, wanted) = match spec.rsplit_once('/') {
            Some((source, wanted)) => (Some(source), wanted),
            None => (None, spec),
        };
        let mut candidates = self.candidates();
        if let Some(source) = source {
            let meant = self.meant(source, project);
            candidates.retain(|candidate| meant.contains(candidate.source));
        }
        if wanted == LATEST {
            return self.latest(spec, candidates, source.is_none());
        }
        candidates.retain(|candidate| !wanted.is_empty() && candidate.id.as_str().starts_with(wanted));
        match candidates.len() {
            0 => {
                let meant = self.meant(spec, project);
                let mut candidates = self.candidates();
                candidates.retain(|candidate| meant.contains(candidate.source));
                self.latest(spec, candidates, false)
            }
            1 => candidates.remove(0).into_snapshot(),
            _ => {
                let candidates = candidates.iter().map(Candidate::name).collect();
                Err(RepositoryError::Ambiguous { spec: spec.to_owned(), candidates })
            }
        }
    }

    /// Returns what it holds of the sources that a name means to somebody in this Compose project.
    #[must_use]
    pub fn only(mut self, name: &str, project: Option<&str>) -> Self {
        let meant: BTreeSet<String> = self.meant(name, project).into_iter().map(ToOwned::to_owned).collect();
        let is_meant = |source: &str| meant.contains(source);
        self.snapshots.retain(|snapshot| is_meant(&snapshot.manifest.source));
        self.incomplete.retain(|incomplete| is_meant(&incomplete.source));
        self.unreadable.retain(|unreadable| {
            let of = unreadable.snapshot.as_ref().map(|(source, _)| source).or(unreadable.obstructs.as_ref());
            of.is_some_and(|source| is_meant(source))
        });
        self.marks.deletions.retain(|(source, _), _| is_meant(source));
        self
    }

    /// Returns whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.incomplete.is_empty() && self.unreadable.is_empty()
    }

    /// Returns the sources that a name means: the names that a target has, and that of a source itself.
    fn meant(&self, name: &str, project: Option<&str>) -> BTreeSet<&str> {
        let of = |is_it: &dyn Fn(&Manifest) -> bool| -> BTreeSet<&str> {
            let manifests = self.snapshots.iter().map(|snapshot| &snapshot.manifest);
            manifests.filter(|manifest| is_it(manifest)).map(|manifest| manifest.source.as_str()).collect()
        };
        let service = |project: Option<&str>, service: &str| {
            of(&|manifest| {
                Membership::of(&manifest.environment.labels).is_some_and(|member| {
                    member.service == service && project.is_none_or(|project| member.project == project)
                })
            })
        };
        let container = |name: &str| of(&|manifest| manifest.environment.container.as_deref() == Some(name));
        // The place of an encrypted one may be sealed; its source's name comes from it.
        let is_at = |manifest: &Manifest, location: &MountSource| {
            manifest.location() == location
                || (manifest.is_encrypted() && manifest.source == key_of(location))
        };
        let at = |location: MountSource| of(&|manifest| is_at(manifest, &location));
        match name.split_once(':') {
            Some(("service", name)) => match name.split_once('/') {
                Some((project, name)) => service(Some(project), name),
                None => service(project, name),
            },
            Some(("container", name)) => container(name),
            Some(("volume", name)) => at(MountSource::Volume(name.to_owned())),
            Some(("path", path)) => at(MountSource::Directory(path.into())),
            _ => {
                let own = service(project, name);
                if project.is_some() && !own.is_empty() {
                    return own;
                }
                let mut meant = own;
                meant.extend(self.sources().into_iter().filter(|source| *source == name));
                meant.extend(container(name));
                meant.extend(of(&|manifest| {
                    let of_it = project_of(&manifest.environment.labels);
                    let of_it = of_it.filter(|of_it| project.is_none_or(|project| project == *of_it));
                    of_it.is_some_and(|project| {
                        *manifest.location() == MountSource::Volume(format!("{project}_{name}"))
                    })
                }));
                meant
            }
        }
    }

    /// Returns what has one history with a source: all that one service has had its data in, else the source alone.
    fn history(&self, source: &str) -> (String, String) {
        let of_source = self.snapshots.iter().rev().filter(|snapshot| snapshot.manifest.source == source);
        let mut services =
            of_source.filter_map(|snapshot| Membership::of(&snapshot.manifest.environment.labels));
        match services.next() {
            Some(member) => (member.project.to_owned(), member.service.to_owned()),
            None => (String::new(), source.to_owned()),
        }
    }

    /// Returns the newest of these, if they are of one history. Where a source is only there with leftovers, `all` of
    /// them count: its user expects `latest` to mean that source.
    fn latest(
        &self,
        spec: &str,
        candidates: Vec<Candidate<'_>>,
        all: bool,
    ) -> Result<Snapshot, RepositoryError> {
        let mut histories: BTreeMap<(String, String), Option<String>> = BTreeMap::new();
        for source in self.sources().into_iter().filter(|_| all) {
            histories.insert(self.history(source), None);
        }
        // The data that a restore replaced is kept, but a user who restores once more does not mean it.
        let candidates = candidates.into_iter().filter(|one| !one.is_fresh() && !one.is_marked());
        let (safety, meant): (Vec<_>, Vec<_>) = candidates.partition(Candidate::is_safety);
        let mut candidates = if meant.is_empty() { safety } else { meant };
        candidates.sort_by(|a, b| a.id.cmp(b.id));
        for candidate in &candidates {
            histories.insert(self.history(candidate.source), Some(candidate.name()));
        }
        if histories.len() > 1 {
            let newest =
                histories.into_iter().map(|((_, source), name)| name.unwrap_or(format!("{source}/{LATEST}")));
            return Err(RepositoryError::Ambiguous { spec: spec.to_owned(), candidates: newest.collect() });
        }
        match candidates.pop() {
            Some(newest) => newest.into_snapshot(),
            None => Err(self.unknown(spec)),
        }
    }

    /// Returns everything that exists, whether it can be trusted or not, by source and id.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let readable = self.snapshots.iter().map(|snapshot| Candidate {
            source: &snapshot.manifest.source,
            id: &snapshot.manifest.id,
            found: Found::Snapshot(snapshot),
        });
        let unreadable = self.unreadable.iter().filter_map(|unreadable| {
            let (source, id) = unreadable.snapshot.as_ref()?;
            let error =
                RepositoryError::Unreadable { path: unreadable.path.clone(), why: unreadable.why.clone() };
            Some(Candidate { source, id, found: Found::Unreadable(error) })
        });
        let mut candidates: Vec<_> = readable.chain(unreadable).collect();
        candidates.sort_by(|a, b| (a.source, a.id).cmp(&(b.source, b.id)));
        candidates
    }

    /// Returns the sources that have anything.
    fn sources(&self) -> BTreeSet<&str> {
        let incomplete = self.incomplete.iter().map(|incomplete| incomplete.source.as_str());
        self.candidates().iter().map(|candidate| candidate.source).chain(incomplete).collect()
    }

    /// Returns the error for a specification that means nothing.
    fn unknown(&self, spec: &str) -> RepositoryError {
        if let Some(incomplete) = self.incomplete.iter().find(|incomplete| {
            spec == incomplete.id.as_str() || spec == format!("{}/{}", incomplete.source, incomplete.id)
        }) {
            let path = incomplete.path.clone();
            let why = "it is incomplete: the run that wrote it did not finish".to_owned();
            return RepositoryError::Unreadable { path, why };
        }
        RepositoryError::Unknown { spec: spec.to_owned(), nearest: self.nearest(spec) }
    }

    /// Returns the specifications most like this one.
    fn nearest(&self, spec: &str) -> Vec<String> {
        let with_source = spec.contains('/');
        let mut names: BTreeSet<String> =
            self.sources().iter().map(|source| format!("{source}/{LATEST}")).collect();
        for candidate in self.candidates() {
            names.insert(if with_source { candidate.name() } else { candidate.id.to_string() });
        }
        let mut scored: Vec<_> = names.into_iter().map(|name| (likeness(spec, &name), name)).collect();
        scored.retain(|(score, _)| *score >= NEAR);
        scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        scored.into_iter().take(NEAREST_MAX).map(|(_, name)| name).collect()
    }
}

/// Returns how alike two specifications are; one without a slash is also compared with the source.
fn likeness(spec: &str, name: &str) -> f64 {
    let source = name.strip_suffix("/latest").filter(|_| !spec.contains('/'));
    let alike = strsim::jaro_winkler(spec, name);
    source.map_or(alike, |source| alike.max(strsim::jaro_winkler(spec, source)))
}
