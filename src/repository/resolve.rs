//! Which snapshot a person means. Pure rules over a listing.
//!
//! Restoring the wrong snapshot is terrible, so nothing is guessed: a specification that can mean two snapshots, or
//! that would silently skip a damaged one, is refused, with what to type instead.

use std::collections::BTreeSet;

use super::error::RepositoryError;
use super::listing::{Listing, Snapshot};
use crate::model::ids::SnapshotId;

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

    fn into_snapshot(self) -> Result<Snapshot, RepositoryError> {
        match self.found {
            Found::Snapshot(snapshot) => Ok(snapshot.clone()),
            Found::Unreadable(error) => Err(error),
        }
    }
}

impl Listing {
    /// Returns the snapshot that `spec` means: an id or the beginning of one, `latest`, or either of them after a
    /// source and a slash.
    ///
    /// `latest` is the snapshot with the newest id of the only source. It skips what a restore has kept of the data
    /// that it replaced. If the newest snapshot cannot be trusted, this fails rather than skip it.
    ///
    /// # Errors
    /// When no snapshot is meant, more than one may be, or the one that is meant cannot be trusted.
    pub fn resolve(&self, spec: &str) -> Result<Snapshot, RepositoryError> {
        let (source, wanted) = match spec.rsplit_once('/') {
            Some((source, wanted)) => (Some(source), wanted),
            None => (None, spec),
        };
        let mut candidates = self.candidates();
        candidates.retain(|candidate| source.is_none_or(|source| source == candidate.source));
        if wanted == LATEST {
            return self.latest(spec, source, candidates);
        }
        candidates.retain(|candidate| !wanted.is_empty() && candidate.id.as_str().starts_with(wanted));
        match candidates.len() {
            0 => Err(self.unknown(spec)),
            1 => candidates.remove(0).into_snapshot(),
            _ => {
                let candidates = candidates.iter().map(Candidate::name).collect();
                Err(RepositoryError::Ambiguous { spec: spec.to_owned(), candidates })
            }
        }
    }

    fn latest(
        &self,
        spec: &str,
        source: Option<&str>,
        candidates: Vec<Candidate<'_>>,
    ) -> Result<Snapshot, RepositoryError> {
        // A source with only leftovers counts: its user expects `latest` to mean that source.
        let sources = self.sources();
        if source.is_none() && sources.len() > 1 {
            let candidates = sources.iter().map(|source| format!("{source}/{LATEST}")).collect();
            return Err(RepositoryError::Ambiguous { spec: spec.to_owned(), candidates });
        }
        // The data that a restore replaced is kept, but a user who restores once more does not mean it.
        let (safety, meant): (Vec<_>, Vec<_>) = candidates.into_iter().partition(Candidate::is_safety);
        let candidates = if meant.is_empty() { safety } else { meant };
        match candidates.into_iter().max_by(|a, b| a.id.cmp(b.id)) {
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
