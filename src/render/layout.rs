//! How text fits a terminal. Nothing that is drawn over again may be wider than it, since what wraps cannot be taken back;
//! what stays is folded between words. Where there is no terminal, lines are whole.
//!
//! Width is counted in columns, not in letters: one of 名前 takes two, and an accent of its own none.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// A template of a bar, and how much of the width the rest of its line takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    template: &'static str,
    /// Columns beside the message.
    taken: usize,
}

/// Columns of the name of the phase, and of the space behind it.
pub(super) const NAME: usize = 11;
/// The fewest columns in which a message still says something.
const MESSAGE: usize = 15;

/// The bars, the widest first. Sizes take at most 9 columns each, a rate 11, and what is left 10.
const BARS: [Shape; 4] = [
    Shape {
        template: "{prefix:>10} {msg} {bar:24} {decimal_bytes:>9} of {decimal_total_bytes}  {decimal_bytes_per_sec}{left}",
        taken: NAME + 1 + 24 + 1 + 9 + 4 + 9 + 2 + 11 + 10,
    },
    Shape {
        template: "{prefix:>10} {msg} {bar:12} {decimal_bytes:>9} of {decimal_total_bytes}{left}",
        taken: NAME + 1 + 12 + 1 + 9 + 4 + 9 + 10,
    },
    Shape {
        template: "{prefix:>10} {msg} {decimal_bytes:>9} of {decimal_total_bytes}",
        taken: NAME + 1 + 9 + 4 + 9,
    },
    Shape { template: "{prefix:>10} {msg}", taken: NAME },
];
const SPINNER: Shape = Shape { template: "{prefix:>10} {msg} {spinner}", taken: NAME + 2 };
const DONE: Shape = Shape { template: "{prefix:>10} {msg}", taken: NAME };

/// What a line of a phase shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// How much of its bytes is done.
    Bar,
    /// That it goes on.
    Spinner,
    /// That it was.
    Done,
}

/// Returns the template of a line in a terminal of that width, and the message as it fits there.
pub(super) fn fit(line: Line, message: &str, width: usize) -> (&'static str, String) {
    // A terminal whose last column is used may wrap already.
    let width = width.saturating_sub(1);
    let needs = columns(message).min(MESSAGE);
    let shape = match line {
        Line::Bar => *BARS.iter().find(|shape| shape.taken + needs <= width).unwrap_or(&DONE),
        Line::Spinner => SPINNER,
        Line::Done => DONE,
    };
    (shape.template, shortened(message, width.saturating_sub(shape.taken)))
}

/// Returns how many columns a text takes.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// Returns the text in at most so many columns; what is left out is in the middle, since both ends of a path tell what
/// it is.
fn shortened(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let front = beginning(text.chars(), kept / 2);
    let back: String = beginning(text.chars().rev(), kept - kept / 2).chars().rev().collect();
    if room == 0 { String::new() } else { format!("{front}…{back}") }
}

/// Returns the first of these letters, as many as there is room for.
fn beginning(letters: impl Iterator<Item = char>, room: usize) -> String {
    let mut taken = 0;
    let fits = |letter: &char| {
        taken += letter.width().unwrap_or_default();
        taken <= room
    };
    letters.take_while(fits).collect()
}

/// Returns a text that begins behind so many columns, in lines of a terminal of that width; the later ones are indented
/// alike. A word that is wider than a line stays whole, so that it can be copied.
pub(super) fn folded(text: &str, indent: usize, width: usize) -> String {
    // A terminal whose last column is used may wrap already.
    let room = width.saturating_sub(1).saturating_sub(indent).max(MESSAGE);
    let (mut out, mut taken) = (String::new(), 0);
    for word in text.split(' ') {
        let wide = columns(word);
        if taken > 0 && taken + 1 + wide > room {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            taken = 0;
        } else if taken > 0 {
            out.push(' ');
            taken += 1;
        }
        out.push_str(word);
        taken += wide;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str =
        "/var/backups/volsnap/snapshots/memory-service_db_data/20261121T154708Z-99c9a8.tar.zst";

    /// Letters of two columns each.
    const WIDE: &str =
        "データベース/バックアップ/毎日の保存先/名前のとても長いボリューム/名前のとても長いボリューム";

    /// Returns the columns of a line whose parts are as wide as they get.
    fn columns_of(template: &str, message: &str) -> usize {
        let parts = [
            ("{prefix:>10}", "   archive"),
            ("{msg}", message),
            ("{bar:24}", "████████████████████████"),
            ("{bar:12}", "████████████"),
            ("{decimal_bytes:>9}", "999.99 GB"),
            ("{decimal_total_bytes}", "999.99 GB"),
            ("{decimal_bytes_per_sec}", "999.99 MB/s"),
            ("{left}", "  59m left"),
            ("{spinner}", "⠋"),
        ];
        let line = parts.iter().fold(template.to_owned(), |line, (name, shown)| line.replace(name, shown));
        assert!(!line.contains('{'), "{line}");
        columns(&line)
    }

    #[test]
    fn no_line_is_wider_than_its_terminal() {
        for width in [20, 40, 60, 80, 100, 120, 200] {
            for line in [Line::Bar, Line::Spinner, Line::Done] {
                for message in [PATH, WIDE, "db", ""] {
                    let (template, message) = fit(line, message, width);
                    let columns = columns_of(template, &message);
                    assert!(columns < width, "{line:?} in {width}: {columns}");
                }
            }
        }
    }

    #[test]
    fn a_bar_has_its_bar_in_80_columns_and_its_bytes_in_60() {
        assert!(fit(Line::Bar, PATH, 80).0.contains("{bar:12}"));
        assert!(fit(Line::Bar, PATH, 60).0.contains("{decimal_bytes:>9} of"));
        assert!(fit(Line::Bar, PATH, 120).0.contains("{left}"));
    }

    #[test]
    fn a_path_keeps_both_its_ends() {
        let (_, message) = fit(Line::Done, PATH, 60);
        assert_eq!(message, "/var/backups/volsnap/sn…1T154708Z-99c9a8.tar.zst");
        assert_eq!(fit(Line::Done, PATH, 300).1, PATH);
    }

    #[test]
    fn what_is_shortened_is_counted_in_columns() {
        assert_eq!(shortened("データベース", 12), "データベース");
        assert_eq!(shortened("データベース", 9), "デー…ース");
        assert_eq!(shortened("データベース", 8), "デ…ース");
        assert_eq!(shortened("e\u{301}te\u{301}", 3), "e\u{301}te\u{301}");
        assert_eq!((shortened("abc", 1), shortened("abc", 0)), ("…".to_owned(), String::new()));
    }

    #[test]
    fn what_stays_is_folded_between_words_and_loses_none() {
        let text = "the repository /var/backups/volsnap/with/a/long/name is on the disk that the data is on";
        for width in [40, 60, 80, 120] {
            let folded = folded(text, 11, width);
            let too_wide = |line: &&str| columns(line) + 11 >= width && line.trim().contains(' ');
            assert_eq!(folded.lines().map(str::trim_start).find(too_wide), None, "{width}");
            assert_eq!(folded.split_whitespace().collect::<Vec<_>>(), text.split(' ').collect::<Vec<_>>());
        }
        assert_eq!(folded("one two", 11, 80), "one two");
        assert_eq!(folded("a bb ccccccccccccc d", 4, 20), "a bb\n    ccccccccccccc d");
    }
}
