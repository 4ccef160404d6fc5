//! YAML that Compose takes and our parser does not: layout that breaks a rule which Compose's parsers do not hold it to.
//!
//! | what | where Compose takes it |
//! |---|---|
//! | brackets whose content or end is not indented past their key | every version |
//! | quoted text that goes on in a line further to the left | every version |
//! | a tab between a key and its value | from version 2 on |
//!
//! The parser gets a text that is laid out as it wants it, and says of each of its characters which byte of the original
//! it stands for. Only blanks are put in, only where they mean nothing: [`Relaxed::is_sound`] checks that, by what the
//! parser found there.

use std::ops::Range;

/// A text laid out anew.
pub(super) struct Relaxed {
    /// The text for the parser.
    pub(super) text: String,
    /// The byte of the original for each of its characters, and for its end.
    pub(super) bytes: Vec<usize>,
    /// The bytes of the original at which blanks were put in.
    padded: Vec<usize>,
}

/// Where a scan is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    Comment,
    Quoted(char),
}

impl Relaxed {
    /// Lays out a text anew; none if there is nothing to do.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut scan = Scan {
            relaxed: Self { text: String::new(), bytes: Vec::new(), padded: Vec::new() },
            state: State::Plain,
            depth: 0,
            indent: 0,
            block: None,
        };
        let mut begin = 0;
        for line in text.split_inclusive('\n') {
            scan.line(begin, line);
            begin += line.len();
        }
        let mut relaxed = scan.relaxed;
        relaxed.bytes.push(text.len());
        (relaxed.text != text).then_some(relaxed)
    }

    /// Returns whether blanks were put only into these: brackets and quoted text, as the parser found them.
    pub(super) fn is_sound(&self, loose: &[Range<usize>]) -> bool {
        self.padded.iter().all(|at| loose.iter().any(|range| range.start < *at && *at < range.end))
    }

    fn push(&mut self, c: char, byte: usize) {
        self.text.push(c);
        self.bytes.push(byte);
    }
}

struct Scan {
    relaxed: Relaxed,
    state: State,
    /// How many brackets are open.
    depth: usize,
    /// How far the line is indented in which the outermost of what is open begins.
    indent: usize,
    /// A block of text is open: its lines are indented further than this.
    block: Option<usize>,
}

impl Scan {
    fn line(&mut self, begin: usize, line: &str) {
        let content = line.trim_start_matches(' ');
        let (indent, is_empty) = (line.len() - content.len(), content.trim().is_empty());
        if let Some(limit) = self.block {
            if is_empty || indent > limit {
                return self.copy(begin, line);
            }
            self.block = None;
        }
        let is_open = self.depth > 0 || matches!(self.state, State::Quoted(_));
        if !is_open {
            self.indent = indent;
        } else if indent <= self.indent && !is_empty {
            self.relaxed.padded.push(begin);
            (indent..=self.indent).for_each(|_| self.relaxed.push(' ', begin));
        }
        if self.state == State::Comment {
            self.state = State::Plain;
        }
        self.characters(begin, line);
        let is_closed = self.depth == 0 && !matches!(self.state, State::Quoted(_));
        self.block = if is_closed { block_below(line) } else { None };
    }

    fn copy(&mut self, begin: usize, line: &str) {
        line.char_indices().for_each(|(at, c)| self.relaxed.push(c, begin + at));
    }

    fn characters(&mut self, begin: usize, line: &str) {
        // What stands before, as far as it decides what a character means: a blank at the beginning of a line.
        let (mut before, mut escaped) = (' ', false);
        let mut after_key = false;
        for (at, c) in line.char_indices() {
            let blank = before.is_whitespace();
            let is_start = blank || (self.depth > 0 && matches!(before, '[' | '{' | ','));
            let mut written = c;
            match self.state {
                State::Comment => {}
                State::Quoted('"') if escaped => escaped = false,
                State::Quoted('"') if c == '\\' => escaped = true,
                // A doubled `'` closes and opens again, with nothing in between.
                State::Quoted(quote) if c == quote => self.state = State::Plain,
                State::Quoted(_) => {}
                State::Plain => match c {
                    '#' if blank => self.state = State::Comment,
                    '"' | '\'' if is_start || before == '\'' => self.state = State::Quoted(c),
                    '[' | '{' if is_start || self.depth > 0 => self.depth += 1,
                    ']' | '}' if self.depth > 0 => self.depth -= 1,
                    '\t' if after_key => written = ' ',
                    _ => {}
                },
            }
            after_key = c == ':' || (after_key && matches!(c, ' ' | '\t'));
            self.relaxed.push(written, begin + at);
            before = c;
        }
    }
}

/// Returns how far the lines of a block of text must be indented that begins in this line; none if none does.
fn block_below(line: &str) -> Option<usize> {
    let said = line.split(" #").next().unwrap_or_default().trim_end();
    let header = said.rsplit([' ', '\t']).next().unwrap_or_default();
    let is_header =
        header.starts_with(['|', '>']) && header[1..].chars().all(|c| matches!(c, '-' | '+' | '1'..='9'));
    if !is_header {
        return None;
    }
    let (mut column, mut rest) =
        (line.len() - line.trim_start_matches(' ').len(), line.trim_start_matches(' '));
    let mut parent = column;
    while let Some(behind) = rest.strip_prefix("- ") {
        parent = column;
        let text = behind.trim_start_matches(' ');
        column += rest.len() - text.len();
        rest = text;
    }
    Some(if rest.starts_with(['|', '>']) { parent } else { column })
}
