//! The labels by which volsnap knows its own containers, volumes and images.

use std::collections::BTreeMap;

/// Label that an owner gives a container, with "true": it may be killed if it does not stop in time.
pub const LABEL_KILL: &str = "volsnap.kill";
/// Label of the image: the version of volsnap it was packed from.
pub const LABEL_HELPER: &str = "volsnap.helper";
/// Label of the container, or of a volume that a restore made: the run it belongs to.
pub const LABEL_RUN: &str = "volsnap.run";
/// Label of the container: the source it reads, `volume:NAME` or `path:DIR`.
pub const LABEL_SOURCE: &str = "volsnap.source";
/// Label of a volume that is a stage: the key of the source that it copies.
pub const LABEL_STAGE: &str = "volsnap.stage";
/// Label of the container: the process that made it.
pub const LABEL_PID: &str = "volsnap.pid";
/// Label of the container: the names of the containers that its run holds or is about to hold, each after a space.
pub const LABEL_HOLDS: &str = "volsnap.holds";
/// Label of the container that guards a run whose command is in a container itself: that run.
pub const LABEL_GUARD: &str = "volsnap.guard";
/// Label that a user gives a container which is nobody's business: `true` excludes it, however much it can see.
pub const LABEL_IGNORE: &str = "volsnap.ignore";

/// The engine's label of a volume that has no name of its own.
const LABEL_ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Returns those labels of a volume that another one in its place has as well. Left out is what ties it to a run, and
/// that nobody has named it: `docker volume prune` would take that for leave to remove the data.
#[must_use]
pub fn lasting_labels(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.retain(|label, _| ![LABEL_RUN, LABEL_STAGE, LABEL_ANONYMOUS].contains(&label.as_str()));
    labels
}
