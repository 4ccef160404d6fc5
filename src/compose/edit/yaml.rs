//! YAML as it is written: a tree in which every node knows its bytes.
//!
//! The parser says what the text means; no emitter ever writes anything. An edit replaces bytes of the
//! original, so whatever it does not touch stays as it was typed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::relaxed::Relaxed;
use super::shown::Value;

/// A node of a [`Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(usize);

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes.
    Plain,
    /// Between `'`.
    Single,
    /// Between `"`.
    Double,
    /// Below `|` or `>`.
    Block,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, a number, nothing at all.
    Scalar(String, Style),
    /// A list; whether it is in brackets.
    Sequence(Vec<NodeId>, bool),
    /// Keys and values; whether they are in braces.
    Mapping(Vec<(NodeId, NodeId)>, bool),
    /// `*name`: the node it stands for.
    Alias(NodeId),
}

/// A node and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// What it is.
    pub(super) kind: Kind,
    /// The first byte of its content, behind anchor and tag. For a list or mapping without brackets,
    /// only its children say where it is.
    pub(super) start: usize,
    /// The byte behind it.
    pub(super) end: usize,
    /// Its tag, such as "!override".
    pub(super) tag: Option<String>,
    anchored: bool,
}

/// Why a text is no YAML that volsnap can edit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(super) struct Unreadable {
    line: usize,
    why: String,
}

/// A text and what it says.
#[derive(Debug, Clone)]
pub(super) struct Document {
    text: String,
    nodes: Vec<Node>,
    roots: Vec<NodeId>,
}

/// A place in a document, such as `services.db.volumes[0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

/// A step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Document {
    /// Reads a text, laid out as Compose takes it.
    pub(super) fn parse(text: &str) -> Result<Self, Unreadable> {
        let document = Self::build(text, Builder::new(text), text).or_else(|refusal| {
            let Some(relaxed) = Relaxed::of(text) else { return Err(refusal) };
            let builder = Builder { bytes: relaxed.bytes.clone(), ..Builder::new(text) };
            let document = Self::build(text, builder, &relaxed.text).ok();
            document.filter(|document| relaxed.is_sound(&document.loose())).ok_or(refusal)
        })?;
        document.refuse_twice()?;
        Ok(document)
    }

    /// Reads what was laid out of a text; the builder knows the bytes of the text for it.
    fn build(text: &str, mut builder: Builder<'_>, laid_out: &str) -> Result<Self, Unreadable> {
        for event in Parser::new_from_str(laid_out) {
            let (event, span) = event
                .map_err(|error| Unreadable { line: error.marker().line(), why: error.info().to_owned() })?;
            builder.take(event, span)?;
        }
        Ok(Self { text: text.to_owned(), nodes: builder.nodes, roots: builder.roots })
    }

    /// Returns where blanks at the beginning of a line mean nothing: between brackets, and in quoted text.
    fn loose(&self) -> Vec<Range<usize>> {
        let is_loose = |node: &&Node| {
            matches!(
                node.kind,
                Kind::Sequence(_, true)
                    | Kind::Mapping(_, true)
                    | Kind::Scalar(_, Style::Single | Style::Double)
            )
        };
        self.nodes.iter().filter(is_loose).map(|node| node.start..node.end).collect()
    }

    /// Refuses a key that stands twice in a mapping: versions of Compose differ on which of the two counts.
    fn refuse_twice(&self) -> Result<(), Unreadable> {
        for node in &self.nodes {
            let Kind::Mapping(pairs, _) = &node.kind else { continue };
            let mut seen = BTreeSet::new();
            for (key, _) in pairs {
                let name = self.scalar(*key).filter(|name| *name != "<<");
                if let Some(name) = name.filter(|name| !seen.insert(*name)) {
                    let line = self.line(self.node(*key).start);
                    return Err(Unreadable {
                        line,
                        why: format!("the key {name} stands here a second time"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the tops: one for each document in the text. Compose merges them like files, so a later one wins.
    pub(super) fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// Returns a node as it is written.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Returns the node itself, or what its alias stands for.
    pub(super) fn resolve(&self, id: NodeId) -> NodeId {
        match self.node(id).kind {
            // The target of an alias is no alias.
            Kind::Alias(target) => target,
            _ => id,
        }
    }

    /// Returns the text of a scalar.
    pub(super) fn scalar(&self, id: NodeId) -> Option<&str> {
        match &self.node(self.resolve(id)).kind {
            Kind::Scalar(value, _) => Some(value),
            _ => None,
        }
    }

    /// Returns whether a node is empty, as after `volumes:`.
    pub(super) fn is_null(&self, id: NodeId) -> bool {
        matches!(&self.node(self.resolve(id)).kind, Kind::Scalar(value, Style::Plain)
            if matches!(value.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the entries of a list; none of anything else.
    pub(super) fn items(&self, id: NodeId) -> &[NodeId] {
        match &self.node(self.resolve(id)).kind {
            Kind::Sequence(items, _) => items,
            _ => &[],
        }
    }

    /// Returns a mapping's own pairs; none of anything else.
    pub(super) fn pairs(&self, id: NodeId) -> &[(NodeId, NodeId)] {
        match &self.node(self.resolve(id)).kind {
            Kind::Mapping(pairs, _) => pairs,
            _ => &[],
        }
    }

    /// Returns a mapping's own pair with that key.
    pub(super) fn own_pair(&self, map: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        self.pairs(map).iter().copied().find(|(name, _)| self.scalar(*name) == Some(key))
    }

    /// Returns the value of a key: the mapping's own, else one that `<<` merges into it.
    pub(super) fn get(&self, map: NodeId, key: &str) -> Option<NodeId> {
        self.get_within(map, key, 0)
    }

    fn get_within(&self, map: NodeId, key: &str, depth: usize) -> Option<NodeId> {
        if let Some((_, value)) = self.own_pair(map, key) {
            return Some(value);
        }
        let (_, merged) = self.own_pair(map, "<<").filter(|_| depth < MAX_DEPTH)?;
        match &self.node(self.resolve(merged)).kind {
            Kind::Mapping(..) => self.get_within(merged, key, depth + 1),
            Kind::Sequence(items, _) => items.iter().find_map(|item| self.get_within(*item, key, depth + 1)),
            _ => None,
        }
    }

    /// Returns the node at the end of a path of keys; of several documents that have it, the last one's.
    pub(super) fn at(&self, keys: &[&str]) -> Option<NodeId> {
        self.all(keys).pop()
    }

    /// Returns the nodes at the end of a path of keys in each document that has it.
    pub(super) fn all(&self, keys: &[&str]) -> Vec<NodeId> {
        let at = |root: &NodeId| keys.iter().try_fold(*root, |node, key| self.get(node, key));
        self.roots.iter().filter_map(at).collect()
    }

    /// Returns whether a list or mapping is in brackets.
    pub(super) fn is_flow(&self, id: NodeId) -> bool {
        matches!(self.node(self.resolve(id)).kind, Kind::Sequence(_, true) | Kind::Mapping(_, true))
    }

    /// Returns whether a node is inside brackets, at any depth.
    pub(super) fn is_in_flow(&self, id: NodeId) -> bool {
        let at = self.node(id).start;
        self.nodes.iter().any(|node| {
            matches!(node.kind, Kind::Sequence(_, true) | Kind::Mapping(_, true))
                && node.start < at
                && at < node.end
        })
    }

    /// Returns the byte behind the last thing in a node.
    pub(super) fn content_end(&self, id: NodeId) -> usize {
        let node = self.node(id);
        match &node.kind {
            Kind::Sequence(items, false) => items.last().map_or(node.end, |item| self.content_end(*item)),
            Kind::Mapping(pairs, false) => pairs
                .last()
                .map_or(node.end, |(key, value)| self.content_end(*key).max(self.content_end(*value))),
            _ => node.end,
        }
    }

    /// Returns the ends of everything in a node, keys and values.
    pub(super) fn leaf_ends(&self, id: NodeId) -> Vec<usize> {
        match &self.node(id).kind {
            Kind::Sequence(items, false) => items.iter().flat_map(|item| self.leaf_ends(*item)).collect(),
            Kind::Mapping(pairs, false) => pairs
                .iter()
                .flat_map(|(key, value)| [self.leaf_ends(*key), self.leaf_ends(*value)].concat())
                .collect(),
            _ => vec![self.node(id).end],
        }
    }

    /// Returns every scalar as it is written, in the order of the text.
    pub(super) fn values(&self) -> Vec<Value<'_>> {
        let pairs = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Mapping(pairs, _) => Some(pairs),
            _ => None,
        });
        let keys: BTreeSet<NodeId> = pairs.flatten().map(|(key, _)| *key).collect();
        let scalars = self.nodes.iter().enumerate().filter(|(_, node)| matches!(node.kind, Kind::Scalar(..)));
        let value = |(index, node): (usize, &Node)| {
            let text = self.text.get(node.start..node.end).filter(|text| !text.is_empty())?;
            Some(Value { start: node.start, text, is_key: keys.contains(&NodeId(index)) })
        };
        scalars.filter_map(value).collect()
    }

    /// Returns the line of a byte, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }

    /// Returns the first byte of a byte's line.
    pub(super) fn line_start(&self, offset: usize) -> usize {
        self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Returns the end of a byte's line, before its line ending.
    pub(super) fn line_end(&self, offset: usize) -> usize {
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |newline| offset + newline);
        if self.text[..end].ends_with('\r') && end > offset { end - 1 } else { end }
    }

    /// Returns the column of a byte, in characters from 0.
    pub(super) fn column(&self, offset: usize) -> usize {
        let line = &self.text[self.line_start(offset)..offset];
        line.trim_start_matches('\u{feff}').chars().count()
    }

    /// Returns the line ending of the text.
    pub(super) fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Returns where the two documents differ in what they say, whatever their layout. Two aliases for
    /// the same place are equal.
    pub(super) fn differences(&self, other: &Self) -> Vec<Path> {
        let mut found = Vec::new();
        let places = (self.places(), other.places());
        for (left, right) in self.roots.iter().zip(&other.roots) {
            self.compare(*left, other, *right, &mut Vec::new(), &places, &mut found);
        }
        if self.roots.len() != other.roots.len() {
            found.push(Path(Vec::new()));
        }
        found
    }

    fn compare(
        &self,
        left: NodeId,
        other: &Self,
        right: NodeId,
        path: &mut Vec<Step>,
        places: &(Places, Places),
        found: &mut Vec<Path>,
    ) {
        let (a, b) = (self.node(left), other.node(right));
        let mut same = a.tag == b.tag && a.anchored == b.anchored;
        match (&a.kind, &b.kind) {
            (Kind::Scalar(x, style), Kind::Scalar(y, other_style)) => {
                // Quotes turn what might be a number into a string.
                same &= x == y && (*style == Style::Plain) == (*other_style == Style::Plain);
            }
            (Kind::Alias(x), Kind::Alias(y)) => same &= places.0.get(x) == places.1.get(y),
            (Kind::Sequence(xs, _), Kind::Sequence(ys, _)) => {
                for index in 0..xs.len().max(ys.len()) {
                    path.push(Step::Index(index));
                    match (xs.get(index), ys.get(index)) {
                        (Some(x), Some(y)) => self.compare(*x, other, *y, path, places, found),
                        _ => found.push(Path(path.clone())),
                    }
                    path.pop();
                }
            }
            (Kind::Mapping(xs, _), Kind::Mapping(ys, _)) => {
                let keys = |document: &Self, pairs: &[(NodeId, NodeId)]| -> Vec<String> {
                    pairs
                        .iter()
                        .map(|(key, _)| document.scalar(*key).unwrap_or_default().to_owned())
                        .collect()
                };
                let (left_keys, right_keys) = (keys(self, xs), keys(other, ys));
                for (key, (_, x)) in left_keys.iter().zip(xs) {
                    path.push(Step::Key(key.clone()));
                    match right_keys.iter().position(|name| name == key) {
                        Some(index) => self.compare(*x, other, ys[index].1, path, places, found),
                        None => found.push(Path(path.clone())),
                    }
                    path.pop();
                }
                for key in right_keys.iter().filter(|key| !left_keys.contains(key)) {
                    let added = path.iter().cloned().chain([Step::Key(key.clone())]);
                    found.push(Path(added.collect()));
                }
            }
            _ => same = false,
        }
        if !same {
            found.push(Path(path.clone()));
        }
    }

    /// Returns the place of every node.
    pub(super) fn places(&self) -> Places {
        let mut places = Places::new();
        let mut open: Vec<(NodeId, Vec<Step>)> = self.roots.iter().map(|root| (*root, Vec::new())).collect();
        while let Some((id, path)) = open.pop() {
            let below = |step: Step| path.iter().cloned().chain([step]).collect::<Vec<_>>();
            match &self.node(id).kind {
                Kind::Sequence(items, _) => {
                    open.extend(
                        items.iter().enumerate().map(|(index, item)| (*item, below(Step::Index(index)))),
                    );
                }
                Kind::Mapping(pairs, _) => open.extend(pairs.iter().map(|(key, value)| {
                    (*value, below(Step::Key(self.scalar(*key).unwrap_or_default().to_owned())))
                })),
                _ => {}
            }
            places.insert(id, Path(path));
        }
        places
    }
}

/// Where each node is.
pub(super) type Places = BTreeMap<NodeId, Path>;

impl Path {
    /// Returns whether this is that place, or is inside it.
    pub(super) fn is_in(&self, place: &Self) -> bool {
        self.0.starts_with(&place.0)
    }
}

/// Deeper than anybody nests a Compose file: a deeper one means harm.
const MAX_DEPTH: usize = 64;

struct Builder<'t> {
    text: &'t str,
    /// The byte at which each character begins.
    bytes: Vec<usize>,
    nodes: Vec<Node>,
    /// Open lists and mappings, with the key that waits for its value.
    open: Vec<(NodeId, Option<NodeId>)>,
    anchors: BTreeMap<usize, NodeId>,
    roots: Vec<NodeId>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        let bytes = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
        Self { text, bytes, nodes: Vec::new(), open: Vec::new(), anchors: BTreeMap::new(), roots: Vec::new() }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Unreadable> {
        let refuse = |why: &str| Err(Unreadable { line: span.start.line(), why: why.to_owned() });
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        match event {
            // What a document names, another one does not know.
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).copied() else {
                    return refuse("an alias for nothing");
                };
                if self.open.iter().any(|(id, _)| *id == target) {
                    return refuse("an alias for what it is in itself");
                }
                self.add(Kind::Alias(target), start, end, None, 0);
            }
            Event::Scalar(value, style, anchor, tag) => {
                let start = self.content_start(start, end, anchor, tag.is_some());
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let end = self.scalar_end(start, end, style);
                self.add(
                    Kind::Scalar(value.into_owned(), style),
                    start,
                    end,
                    tag.map(|tag| tag.to_string()),
                    anchor,
                );
            }
            Event::SequenceStart(anchor, tag) => {
                let start = self.content_start(start, end, anchor, tag.is_some());
                let kind = Kind::Sequence(Vec::new(), false);
                let id = self.add(kind, start, end, tag.map(|tag| tag.to_string()), anchor);
                self.open.push((id, None));
            }
            Event::MappingStart(anchor, tag) => {
                let start = self.content_start(start, end, anchor, tag.is_some());
                let kind = Kind::Mapping(Vec::new(), false);
                let id = self.add(kind, start, end, tag.map(|tag| tag.to_string()), anchor);
                self.open.push((id, None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(start, end),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        if self.open.len() > MAX_DEPTH {
            return refuse("nested too deep");
        }
        Ok(())
    }

    fn byte(&self, character: usize) -> usize {
        self.bytes.get(character).copied().unwrap_or(self.text.len())
    }

    fn add(&mut self, kind: Kind, start: usize, end: usize, tag: Option<String>, anchor: usize) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node { kind, start, end, tag, anchored: anchor != 0 });
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        match self.open.last_mut() {
            None => self.roots.push(id),
            Some((parent, key)) => match (&mut self.nodes[parent.0].kind, key.take()) {
                (Kind::Sequence(items, _), _) => items.push(id),
                (Kind::Mapping(pairs, _), Some(name)) => pairs.push((name, id)),
                (_, _) => *key = Some(id),
            },
        }
        id
    }

    fn close(&mut self, start: usize, end: usize) {
        let Some((id, _)) = self.open.pop() else { return };
        let node = &mut self.nodes[id.0];
        // The parser also takes what follows on the line, and may begin at a comma before the bracket.
        let at = start + before_bracket(&self.text[start..]);
        let brackets = end > start && self.text[at..].starts_with([']', '}']);
        if brackets {
            node.end = at + 1;
        }
        match &mut node.kind {
            Kind::Sequence(_, flow) | Kind::Mapping(_, flow) => *flow = brackets,
            Kind::Scalar(..) | Kind::Alias(_) => {}
        }
    }

    /// Returns where content begins behind an anchor or a tag.
    fn content_start(&self, start: usize, end: usize, anchor: usize, tagged: bool) -> usize {
        let mut at = start;
        for _ in 0..usize::from(anchor != 0) + usize::from(tagged) {
            let rest = &self.text[at..end];
            if !rest.starts_with(['&', '!']) {
                break;
            }
            let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let gap = rest[word..].len() - rest[word..].trim_start().len();
            at += word + gap;
        }
        at
    }

    /// Returns where a scalar ends. Of a quoted one, the parser also takes what follows on its line.
    fn scalar_end(&self, start: usize, end: usize, style: Style) -> usize {
        let text = &self.text[start..end.max(start)];
        let closing = match style {
            Style::Single => text
                .char_indices()
                .skip(1)
                .scan(false, |escaped, (at, c)| {
                    let doubled = c == '\'' && text[at + 1..].starts_with('\'');
                    let second = std::mem::replace(escaped, doubled && !*escaped);
                    Some((at, c == '\'' && !doubled && !second))
                })
                .find(|(_, closes)| *closes)
                .map(|(at, _)| at + 1),
            Style::Double => text
                .char_indices()
                .skip(1)
                .scan(false, |escaped, (at, c)| {
                    let literal = std::mem::replace(escaped, c == '\\' && !*escaped);
                    Some((at, c == '"' && !literal))
                })
                .find(|(_, closes)| *closes)
                .map(|(at, _)| at + 1),
            Style::Plain | Style::Block => None,
        };
        start + closing.unwrap_or_else(|| text.trim_end().len())
    }
}

/// Returns the length of what can stand between the last item and its bracket: a comma, blanks, comments.
fn before_bracket(text: &str) -> usize {
    let mut rest = text.strip_prefix(',').unwrap_or(text);
    loop {
        rest = rest.trim_start();
        if !rest.starts_with('#') {
            return text.len() - rest.len();
        }
        rest = rest.find('\n').map_or("", |newline| &rest[newline..]);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn written(document: &Document, keys: &[&str]) -> String {
        let node = document.node(document.at(keys).unwrap());
        document.text()[node.start..node.end].to_owned()
    }

    #[rstest]
    #[case::plain("a: x y  # c\n", "x y")]
    #[case::double("a: \"x # \\\" y\"   # c\n", "\"x # \\\" y\"")]
    #[case::backslash("a: \"x\\\\\" # c\n", "\"x\\\\\"")]
    #[case::single("a: 'it''s'   # c\n", "'it''s'")]
    #[case::single_at_the_end("a: 'its'''   # c\n", "'its'''")]
    #[case::empty("a: ''  # c\n", "''")]
    #[case::anchored("a: &v  x\n", "x")]
    #[case::tagged("a: !t &v \"x\" # c\n", "\"x\"")]
    #[case::not_ascii("ä: ö\na: ü # é\n", "ü")]
    #[case::flow("a: [b, c] # d\n", "[b, c]")]
    #[case::comma_before_the_brace("a: {b: c, # }\n  } # d\n", "{b: c, # }\n  }")]
    #[case::byte_order_mark("\u{feff}a: x\n", "x")]
    #[case::nothing("a:\nb: 1\n", "")]
    #[case::windows("a: x\r\nb: 1\r\n", "x")]
    #[case::brackets_to_the_left("b:\n  c: {\nd: é,\n  }\na: [\nb,\n]\n", "[\nb,\n]")]
    #[case::quoted_to_the_left("b:\n  c: \"one # \\\"\n two\"\na: x\n", "x")]
    #[case::single_quoted_to_the_left("b:\n  c: 'it''s\n two'\na: [\n]\n", "[\n]")]
    #[case::tab_behind_a_key("a:\tx\nb:\n  c: \t[\n]\n", "x")]
    #[case::block_with_brackets("b: |\n  [ \"\nc: [\n]\na: x\n", "x")]
    #[case::item_with_a_block("b:\n- c: |\n    {\n- |\n  {\na: {\n}\n", "{\n}")]
    #[case::comment_with_a_quote("b: 1 # it's [\nc: [\n]\na: don't\n", "don't")]
    fn a_node_knows_the_bytes_it_came_from(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(written(&Document::parse(text).unwrap(), &["a"]), expected);
    }

    #[test]
    fn merged_keys_are_found_behind_own_ones() {
        let text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\n";
        let document = Document::parse(text).unwrap();
        let value = |key| document.scalar(document.at(&["z", key]).unwrap()).unwrap().to_owned();
        assert_eq!(["a", "b", "c"].map(value), ["0", "1", "2"]);
        assert_eq!(document.at(&["z", "d"]), None);
    }

    #[rstest]
    #[case::layout("a: {b: [1, 2]}\n", "# c\na:\n  b:\n  - 1\n  - 2\n", &[])]
    #[case::value("a: {b: 1, c: 2}\n", "a: {b: 1, c: 3}\n", &["a.c"])]
    #[case::quotes("a: 1\n", "a: '1'\n", &["a"])]
    #[case::kind_of_quotes("a: \"x\"\n", "a: 'x'\n", &[])]
    #[case::added("a: {b: 1}\n", "a: {b: 1, c: 2}\n", &["a.c"])]
    #[case::removed("a: [1, 2]\n", "a: [1]\n", &["a.1"])]
    #[case::tag("a: !reset x\n", "a: x\n", &["a"])]
    #[case::second_document("a: 1\n---\nb: 2\n", "a: 1\n---\nb: 3\n", &["b"])]
    #[case::more_documents("a: 1\n", "a: 1\n---\nb: 3\n", &[""])]
    #[case::alias("a: &a x\nb: &b x\nc: *a\n", "a: &a x\nb: &b x\nc: *b\n", &["c"])]
    fn documents_differ_in_what_they_say(#[case] left: &str, #[case] right: &str, #[case] expected: &[&str]) {
        let found = Document::parse(left).unwrap().differences(&Document::parse(right).unwrap());
        let shown = |path: &Path| {
            let steps = path.0.iter().map(|step| match step {
                Step::Key(key) => key.clone(),
                Step::Index(index) => index.to_string(),
            });
            steps.collect::<Vec<_>>().join(".")
        };
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case::not_yaml("a: [1\n")]
    #[case::tab("a:\n\t- 1\n")]
    #[case::quote_in_the_middle("a: [\n]\nb: x 'y\n  c: z'\n")]
    #[case::alias_of_another_document("a: &b 1\n---\nc: *b\n")]
    #[case::unknown_alias("a: *b\n")]
    #[case::in_itself("a: &a [*a]\n")]
    #[case::key_twice("a: {b: 1, b: 2}\n")]
    fn what_cannot_be_edited_is_refused(#[case] text: &str) {
        Document::parse(text).unwrap_err();
    }

    #[test]
    fn nesting_without_end_is_refused() {
        Document::parse(&"[".repeat(10_000)).unwrap_err();
    }
}
