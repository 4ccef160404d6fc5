//! How the line of a phase fits a terminal: nothing that is drawn over again may be wider than it, since what wraps
//! cannot be taken back. Where there is no terminal, lines are whole.

/// A template of a bar, and how much of the width the rest of its line takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    template: &'static str,
    /// Columns beside the message.
    taken: usize,
}

/// Columns of the name of the phase, and of the space behind it.
const NAME: usize = 11;
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
    let needs = message.chars().count().min(MESSAGE);
    let shape = match line {
        Line::Bar => *BARS.iter().find(|shape| shape.taken + needs <= width).unwrap_or(&DONE),
        Line::Spinner => SPINNER,
        Line::Done => DONE,
    };
    (shape.template, shortened(message, width.saturating_sub(shape.taken)))
}

/// Returns the text in at most so many columns; what is left out is in the middle, since both ends of a path tell what
/// it is.
fn shortened(text: &str, room: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let (front, back) = (kept / 2, kept - kept / 2);
    let ends = [&letters[..front], &letters[letters.len() - back..]];
    if room == 0 { String::new() } else { ends.map(|end| end.iter().collect::<String>()).join("…") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str =
        "/var/backups/volsnap/snapshots/memory-service_db_data/20261121T154708Z-99c9a8.tar.zst";

    /// Returns the columns of a line whose parts are as wide as they get.
    fn columns(template: &str, message: &str) -> usize {
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
        line.chars().count()
    }

    #[test]
    fn no_line_is_wider_than_its_terminal() {
        for width in [20, 40, 60, 80, 100, 120, 200] {
            for line in [Line::Bar, Line::Spinner, Line::Done] {
                for message in [PATH, "db", ""] {
                    let (template, message) = fit(line, message, width);
                    let columns = columns(template, &message);
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
}
