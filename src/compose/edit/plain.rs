//! What a text says, without where it says it.

use serde_json::{Map, Value};

use super::yaml::{Document, Kind, NodeId};

/// Deeper than anybody nests what Compose prints.
const MAX_DEPTH: usize = 64;

/// Returns what a YAML text says: every scalar as text, and nothing at all as null. `None` if it makes no sense.
#[must_use]
pub(in crate::compose) fn said(text: &str) -> Option<Value> {
    let document = Document::parse(text).ok()?;
    Some(document.roots().first().map_or(Value::Null, |root| value(&document, *root, 0)))
}

fn value(document: &Document, id: NodeId, depth: usize) -> Value {
    let id = document.resolve(id);
    match &document.node(id).kind {
        _ if depth > MAX_DEPTH || document.is_null(id) => Value::Null,
        Kind::Scalar(text, _) => Value::String(text.clone()),
        Kind::Sequence(items, _) => items.iter().map(|item| value(document, *item, depth + 1)).collect(),
        Kind::Mapping(pairs, _) => {
            let pair = |(key, of): &(NodeId, NodeId)| {
                Some((document.scalar(*key)?.to_owned(), value(document, *of, depth + 1)))
            };
            Value::Object(pairs.iter().filter_map(pair).collect::<Map<_, _>>())
        }
        // What it stands for is no alias.
        Kind::Alias(_) => Value::Null,
    }
}
