//! The edits themselves, as bytes to replace.

use std::ops::Range;

use super::short::{ShortMount, scalar};
use super::yaml::{Document, Kind, NodeId, Style};
use super::{EditOptions, Wanted};

/// Bytes, and others to replace them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splice {
    range: Range<usize>,
    text: String,
}

/// Returns the bytes from the first splice to the last; none of no splices.
pub(super) fn span(splices: &[Splice]) -> Option<Range<usize>> {
    let start = splices.iter().map(|splice| splice.range.start).min()?;
    let end = splices.iter().map(|splice| splice.range.end).max()?;
    Some(start..end)
}

/// What volsnap cannot edit: the byte where it stands, and what it is.
pub(super) type Refused = (usize, &'static str);

/// Returns the text with the splices applied; none if they contradict each other.
pub(super) fn apply(text: &str, mut splices: Vec<Splice>) -> Option<String> {
    splices.sort_by_key(|splice| splice.range.start);
    let (mut out, mut at) = (String::new(), 0);
    for splice in splices {
        out.push_str(text.get(at..splice.range.start)?);
        out.push_str(&splice.text);
        at = splice.range.end;
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

/// Returns what turns an entry of `volumes` into the mount that is wanted. `node` is an alias if only
/// this use of it should change; `now` is what it asks for.
pub(super) fn replace_entry(
    document: &Document,
    node: NodeId,
    now: NewEntry<'_>,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<Vec<Splice>, Refused> {
    let in_flow = document.is_in_flow(node);
    let written = document.node(node);
    let resolved = document.resolve(node);
    match &document.node(resolved).kind {
        Kind::Scalar(text, style) => {
            let is_block = *style == Style::Block && node == resolved;
            let style = if node == resolved && !is_block { *style } else { Style::Plain };
            let short = ShortMount::split(text);
            let entry = match short.source {
                Some(_) => {
                    NewEntry { target: short.target.to_owned(), modes: short.kept_modes(), long: false }
                }
                // A variable stands for more than the source.
                None => now,
            };
            let start = if is_block { block_start(document, node, text)? } else { written.start };
            let text = entry_text(document, &entry, style, in_flow, document.column(start), wanted, options)
                .map_err(|(_, what)| (written.start, what))?;
            Ok(vec![Splice { range: start..written.end, text }])
        }
        Kind::Mapping(..) if node == resolved => edit_long(document, node, wanted, options),
        Kind::Mapping(..) => Err((written.start, "an alias for a mapping")),
        Kind::Sequence(..) | Kind::Alias(_) => {
            Err((written.start, "an entry that is neither text nor a mapping"))
        }
    }
}

/// Returns where a block of text begins: at its `|` or `>`, in a line above its content.
fn block_start(document: &Document, node: NodeId, text: &str) -> Result<usize, Refused> {
    let content = document.node(node).start;
    let refused = (content, "an entry that is written as a block of text");
    let before = document.text()[..content].trim_end();
    let start = before.rfind(['|', '>']).filter(|start| document.line(*start) == document.line(before.len()));
    let start = start.ok_or(refused)?;
    // A line ending belongs to what such an entry says, and a comment would be lost.
    let is_header = before[start + 1..].chars().all(|c| matches!(c, '-' | '1'..='9'));
    if is_header && !text.contains('\n') { Ok(start) } else { Err(refused) }
}

/// Returns a new entry in the short form, or in the long one if the short one cannot say it.
fn entry_text(
    document: &Document,
    entry: &NewEntry<'_>,
    style: Style,
    in_flow: bool,
    column: usize,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<String, Refused> {
    if let Some(short) = entry.short(wanted) {
        return Ok(scalar(&short, style, in_flow));
    }
    let long = LongMount::of(&entry.target, &entry.modes, wanted, options)?;
    if in_flow {
        return Ok(long.flow());
    }
    Ok(long.lines().join(&format!("{}{}", document.newline(), " ".repeat(column))))
}

/// A mount in the long form, to write.
struct LongMount {
    pairs: Vec<(&'static str, String)>,
    /// What applies only to directories.
    bind: Vec<(&'static str, String)>,
}

impl LongMount {
    fn of(target: &str, modes: &[&str], wanted: &Wanted, options: EditOptions) -> Result<Self, Refused> {
        let mut pairs = vec![
            ("type", wanted.kind().to_owned()),
            ("source", wanted.source()),
            ("target", target.to_owned()),
        ];
        if modes.contains(&"ro") {
            pairs.push(("read_only", "true".to_owned()));
        }
        let mut bind = Vec::new();
        if wanted.is_bind() && options.guards_source {
            bind.push((GUARD.0, GUARD.1.to_owned()));
        }
        match modes.iter().find(|mode| mode.eq_ignore_ascii_case("z")) {
            Some(label) if wanted.is_bind() && options.guards_source => {
                bind.push(("selinux", (*label).to_owned()));
            }
            Some(_) => return Err((0, "an SELinux label, for which the long form has no word here")),
            None => {}
        }
        Ok(Self { pairs, bind })
    }

    /// Returns it as lines.
    fn lines(&self) -> Vec<String> {
        let line = |(key, value): &(&str, String)| format!("{key}: {}", value_of(key, value, false));
        let mut lines: Vec<String> = self.pairs.iter().map(line).collect();
        if !self.bind.is_empty() {
            lines.push("bind:".to_owned());
            lines.extend(self.bind.iter().map(|pair| format!("  {}", line(pair))));
        }
        lines
    }

    /// Returns it between braces.
    fn flow(&self) -> String {
        let pair = |(key, value): &(&str, String)| format!("{key}: {}", value_of(key, value, true));
        let mut pairs: Vec<String> = self.pairs.iter().map(pair).collect();
        if !self.bind.is_empty() {
            pairs.push(format!("bind: {{{}}}", self.bind.iter().map(pair).collect::<Vec<_>>().join(", ")));
        }
        format!("{{{}}}", pairs.join(", "))
    }
}

/// Returns a value as it is written: booleans without quotes, everything else as text.
fn value_of(key: &str, value: &str, in_flow: bool) -> String {
    if matches!(key, "read_only" | "create_host_path") {
        value.to_owned()
    } else {
        scalar(value, Style::Plain, in_flow)
    }
}

/// Returns what turns a mount in the long form into the one that is wanted.
fn edit_long(
    document: &Document,
    map: NodeId,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<Vec<Splice>, Refused> {
    let here =
        document.pairs(map).first().map_or(document.node(map).start, |(key, _)| document.node(*key).start);
    let own = |key: &str| document.own_pair(map, key).map(|(_, value)| value);
    let in_flow = document.is_flow(map);
    let (old, new) = if wanted.is_bind() { ("volume", "bind") } else { ("bind", "volume") };
    if own(old).is_none() && document.get(map, old).is_some_and(|section| !document.is_null(section)) {
        return Err((here, "a mount that takes options for its kind of source from elsewhere"));
    }
    let mut splices = Vec::new();
    for (key, text) in [("type", wanted.kind().to_owned()), ("source", wanted.source())] {
        // One's own words come before those of a merge key.
        let Some(node) = own(key) else {
            let pair = format!("{key}: {}", scalar(&text, Style::Plain, in_flow));
            splices.push(if in_flow {
                add_to_flow(document, map, &pair)
            } else {
                append_lines(document, map, &[pair])
            });
            continue;
        };
        let written = document.node(node);
        let Kind::Scalar(_, style @ (Style::Plain | Style::Single | Style::Double)) = written.kind else {
            return Err((here, "a mount whose type or source is written elsewhere"));
        };
        splices.push(Splice { range: written.start..written.end, text: scalar(&text, style, in_flow) });
    }
    let section = wanted.is_bind() && options.guards_source && own(new).is_none();
    match document.own_pair(map, old) {
        Some(pair) if section => splices.extend(turn_section(document, pair)?),
        Some(pair) => splices.extend(remove_pair(document, map, pair)?),
        None if section => splices.push(add_section(document, map)),
        None => {}
    }
    Ok(splices)
}

const GUARD: (&str, &str) = ("create_host_path", "false");

/// Returns what turns the section `volume` into the section `bind`, and keeps the comments in it.
fn turn_section(document: &Document, (key, value): (NodeId, NodeId)) -> Result<Vec<Splice>, Refused> {
    let (name, section) = (document.node(key), document.node(value));
    let Kind::Scalar(_, style) = name.kind else { return Err((name.start, "this key")) };
    let guard = |style: Style| format!("{}: {}", scalar(GUARD.0, style, true), GUARD.1);
    let mut splices = vec![Splice { range: name.start..name.end, text: scalar("bind", style, true) }];
    match &section.kind {
        Kind::Mapping(pairs, false) if !pairs.is_empty() => {
            let (first, last) = (document.node(pairs[0].0).start, document.content_end(pairs[0].1));
            splices.push(Splice { range: first..last, text: guard(style) });
            for pair in &pairs[1..] {
                splices.extend(remove_pair(document, value, *pair)?);
            }
        }
        Kind::Mapping(..) => {
            splices.push(Splice { range: section.start..section.end, text: format!("{{{}}}", guard(style)) });
        }
        Kind::Scalar(..) if document.is_null(value) => {
            splices.push(Splice {
                range: name.end + 1..section.end.max(name.end + 1),
                text: format!(" {{{}}}", guard(style)),
            });
        }
        // What stands elsewhere stays there.
        Kind::Alias(_) => {
            splices.push(Splice { range: section.start..section.end, text: format!("{{{}}}", guard(style)) });
        }
        Kind::Sequence(..) | Kind::Scalar(..) => {
            return Err((name.start, "a section `volume` that is no mapping"));
        }
    }
    Ok(splices)
}

/// Returns what adds the section that keeps Compose from creating a missing directory.
fn add_section(document: &Document, map: NodeId) -> Splice {
    let pairs = document.pairs(map);
    let style = pairs.first().map_or(Style::Plain, |(key, _)| match document.node(*key).kind {
        Kind::Scalar(_, style) => style,
        _ => Style::Plain,
    });
    let (section, key) = (scalar("bind", style, true), scalar(GUARD.0, style, true));
    if document.is_flow(map) {
        return add_to_flow(document, map, &format!("{section}: {{{key}: {}}}", GUARD.1));
    }
    append_lines(document, map, &[format!("{section}:"), format!("  {key}: {}", GUARD.1)])
}

/// Returns what adds an item to a list or mapping between brackets, behind the last one.
fn add_to_flow(document: &Document, id: NodeId, text: &str) -> Splice {
    let node = document.node(document.resolve(id));
    let spans: Vec<Range<usize>> = match &node.kind {
        Kind::Sequence(items, _) => {
            items.iter().map(|item| document.node(*item)).map(|item| item.start..item.end).collect()
        }
        Kind::Mapping(pairs, _) => {
            pairs.iter().map(|(key, value)| document.node(*key).start..document.content_end(*value)).collect()
        }
        _ => Vec::new(),
    };
    let Some(last) = spans.last() else {
        return Splice { range: node.end - 1..node.end - 1, text: text.to_owned() };
    };
    // Like the ones before it: each on its own line, or one behind the other.
    let before = &document.text()[..last.start];
    let gap = &before[before.trim_end().len()..];
    let gap = if spans.len() > 1 || gap.contains('\n') { gap } else { " " };
    let gap = if gap.is_empty() { " " } else { gap };
    Splice { range: last.end..last.end, text: format!(",{gap}{text}") }
}

/// Returns what adds lines at the end of a mapping without braces, in line with its keys.
pub(super) fn append_lines(document: &Document, map: NodeId, lines: &[String]) -> Splice {
    let column = document.pairs(map).first().map_or(0, |(key, _)| document.column(document.node(*key).start));
    insert_lines(document, document.content_end(document.resolve(map)), column, lines)
}

/// Returns what adds lines behind the line of a byte.
fn insert_lines(document: &Document, after: usize, column: usize, lines: &[String]) -> Splice {
    let (newline, indent) = (document.newline(), " ".repeat(column));
    let end = document.line_end(after);
    let text: String = lines.iter().map(|line| format!("{newline}{indent}{line}")).collect();
    Splice { range: end..end, text }
}

/// Returns what removes a key and its value, and leaves the comments beside and in it.
fn remove_pair(
    document: &Document,
    map: NodeId,
    (key, value): (NodeId, NodeId),
) -> Result<Vec<Splice>, Refused> {
    let begin = document.node(key).start;
    let end = document.content_end(value).max(document.node(key).end + 1);
    if document.is_flow(map) {
        return Ok(vec![remove_from_flow(document, map, begin, end)]);
    }
    let text = document.text();
    let first_line = document.line_start(begin);
    if !text[first_line..begin].trim().is_empty() {
        return Err((begin, "a mount whose first key would have to go"));
    }
    let last_line = document.line_end(end);
    let mut ends = document.leaf_ends(value);
    ends.push(document.node(key).end + 1);
    let (mut kept, mut at) = (String::new(), first_line);
    while at < last_line {
        let line_end = document.line_end(at);
        let next = text[line_end..].find('\n').map_or(text.len(), |newline| line_end + newline + 1);
        let said = ends.iter().copied().filter(|end| (at..=line_end).contains(end)).max().unwrap_or(at);
        let tail = text[said..line_end].trim();
        if tail.starts_with('#') {
            kept.push_str(&text[first_line..begin]);
            kept.push_str(tail);
            kept.push_str(&text[line_end..next]);
        }
        at = next;
    }
    // With its line ending; the last line, without one, goes with the one before it.
    let behind = text[last_line..].find('\n').map_or(text.len(), |newline| last_line + newline + 1);
    let begins = if behind == text.len() && !text.ends_with('\n') && kept.is_empty() {
        text[..first_line]
            .strip_suffix('\n')
            .map_or(0, |before| before.strip_suffix('\r').unwrap_or(before).len())
    } else {
        first_line
    };
    Ok(vec![Splice { range: begins..behind, text: kept }])
}

fn remove_from_flow(document: &Document, map: NodeId, begin: usize, end: usize) -> Splice {
    let pairs = document.pairs(map);
    let before = pairs.iter().map(|(_, value)| document.content_end(*value)).rfind(|other| *other <= begin);
    let after = pairs.iter().map(|(key, _)| document.node(*key).start).find(|other| *other >= end);
    let range = match (before, after) {
        (Some(before), _) => before..end,
        (None, Some(after)) => begin..after,
        (None, None) => begin..end,
    };
    Splice { range, text: String::new() }
}

/// What an entry should say, apart from what is mounted.
#[derive(Debug, Clone)]
pub(super) struct NewEntry<'m> {
    /// The path in the container.
    pub(super) target: String,
    /// The mount's present options.
    pub(super) modes: Vec<&'m str>,
    /// Whether it should be in the long form.
    pub(super) long: bool,
}

impl NewEntry<'_> {
    /// Returns it in the short form, if that can say it.
    fn short(&self, wanted: &Wanted) -> Option<String> {
        let source = wanted.source();
        let mode = if self.modes.is_empty() { String::new() } else { format!(":{}", self.modes.join(",")) };
        let parts = source.contains(':') || self.target.contains(':') && !self.target.contains('$');
        (!self.long && !parts).then(|| format!("{source}:{}{mode}", self.target))
    }
}

/// Returns what adds an entry to a service's own `volumes`, which need not exist yet.
pub(super) fn add_entry(
    document: &Document,
    service: NodeId,
    entry: &NewEntry<'_>,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<Splice, Refused> {
    let (lines, in_flow) = match entry.short(wanted) {
        Some(short) => (vec![scalar(&short, Style::Plain, false)], scalar(&short, Style::Plain, true)),
        None => {
            let long = LongMount::of(&entry.target, &entry.modes, wanted, options)?;
            (long.lines(), long.flow())
        }
    };
    let here = document
        .pairs(service)
        .first()
        .map_or(document.node(service).start, |(key, _)| document.node(*key).start);
    match document.own_pair(service, "volumes") {
        Some((_, volumes)) if document.is_flow(volumes) => Ok(add_to_flow(document, volumes, &in_flow)),
        Some((_, volumes)) => match document.items(volumes).last() {
            Some(last) => {
                let first = document.items(volumes)[0];
                let (dash, gap) = dash_of(document, first).ok_or((here, "these `volumes`"))?;
                let column = document.column(dash);
                Ok(insert_lines(document, document.content_end(*last), column, &as_item(&lines, gap)))
            }
            None => Err((here, "`volumes` without an entry")),
        },
        None if document.is_flow(service) => {
            Ok(add_to_flow(document, service, &format!("volumes: [{in_flow}]")))
        }
        None if document.pairs(service).is_empty() => Err((here, "a service that says nothing")),
        None => {
            let item = as_item(&lines, 2).into_iter().map(|line| format!("  {line}"));
            let lines: Vec<String> = ["volumes:".to_owned()].into_iter().chain(item).collect();
            Ok(append_lines(document, service, &lines))
        }
    }
}

/// Returns lines as an item of a list; `gap` is the distance from its dash to its text.
pub(super) fn as_item(lines: &[String], gap: usize) -> Vec<String> {
    let item = |(index, line): (usize, &String)| {
        let before = if index == 0 { format!("-{}", " ".repeat(gap - 1)) } else { " ".repeat(gap) };
        format!("{before}{line}")
    };
    lines.iter().enumerate().map(item).collect()
}

/// Returns the dash before an item, and the distance from the dash to the item.
fn dash_of(document: &Document, item: NodeId) -> Option<(usize, usize)> {
    let start = match &document.node(item).kind {
        Kind::Mapping(pairs, false) => document.node(pairs.first()?.0).start,
        _ => document.node(item).start,
    };
    let mut line = document.line_start(start);
    loop {
        let text = &document.text()[line..start];
        let dash = line + text.len() - text.trim_start().len();
        if document.text()[dash..].starts_with('-') {
            let same_line =
                document.line_start(start) == line && !document.text()[dash..start].contains(['&', '!']);
            return Some((dash, if same_line { start - dash } else { 2 }));
        }
        // An anchor, a tag and comments may stand between the two.
        line = document.line_start(line.checked_sub(1)?);
    }
}

/// Returns the lines of a service that has only this mount.
pub(super) fn service_lines(
    service: &str,
    entry: &NewEntry<'_>,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<Vec<String>, Refused> {
    let item = as_item(&LongMount::of(&entry.target, &entry.modes, wanted, options)?.lines(), 2);
    let mut lines = vec![format!("{}:", scalar(service, Style::Plain, false)), "  volumes:".to_owned()];
    lines.extend(item.iter().map(|line| format!("    {line}")));
    Ok(lines)
}
