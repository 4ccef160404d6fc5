//! What `init` says: what a repository is like.

use volsnap::crypt::Recipients;
use volsnap::repository::Repository;

use super::human::Rows;
use super::text::escape;

/// Says what a repository is like that was made, or was there.
pub(crate) fn repository(repository: &Repository, is_new: bool) -> String {
    let place = escape(&repository.location().display().to_string());
    let head = if is_new { "made the repository" } else { "there is a repository in" };
    let mut rows = Rows::new(&format!("{head} {place}"));
    rows.row("id", repository.id());
    for (number, recipient) in repository.recipients().into_iter().flat_map(Recipients::iter).enumerate() {
        rows.row(if number == 0 { "encrypted" } else { "" }, &escape(&format!("to {recipient}")));
    }
    let Some(probed) = repository.probed() else { return rows.0 };
    rows.row(
        "overwriting",
        if probed.conditional_create {
            "the server refuses it, as it is asked to"
        } else {
            "the server would do it: no two objects have one name, and each is looked for before it is written"
        },
    );
    if !probed.deletes {
        rows.row("deleting", "we may not: what a failed run leaves stays there");
    }
    if !probed.lists_uploads {
        rows.row(
            "leftovers",
            "the server does not tell of unfinished uploads: give the bucket a rule that removes them after two days (Azure \
             does it by itself, after a week)",
        );
    }
    rows.0
}
