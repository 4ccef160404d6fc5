//! Text for people: sizes, durations, and names made harmless.

use std::time::Duration;

use chrono::{DateTime, Local, Utc};
pub(crate) use volsnap::model::plural::{and_more, counted, grouped as count, size};
use volsnap::model::quote::printable;

use super::layout::columns;

/// Returns `text` on one line, with everything escaped that would act on the terminal or hide what is there.
pub(crate) fn escape(text: &str) -> String {
    printable(text)
}

/// Returns a duration as a person says it: "2.41 s", "3 min 20 s".
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.2} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns milliseconds the same way.
pub(crate) fn milliseconds(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// Returns a time in the local zone, to the second.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns how much smaller something was made, as " (31 %, zstd)"; of what became no smaller, only how.
pub(crate) fn share(stored: u64, of: u64, how: &str) -> String {
    match stored.saturating_mul(100).checked_div(of) {
        Some(percent @ 0..=100) => format!(" ({percent} %, {how})"),
        // An archive of little has more beside it than in it.
        _ => format!(" ({how})"),
    }
}

/// Returns rows as columns of equal width; the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let cells = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..cells)
        .map(|column| {
            rows.iter().map(|row| row.get(column).map_or(0, |cell| columns(cell))).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| padded(cell, *width)).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn padded(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(columns(cell))))
}

/// Returns what follows what is shown of a long list; nothing if all of it is.
pub(crate) fn in_json(all: usize, shown: usize) -> Option<String> {
    let more = and_more(all, shown);
    more.strip_prefix(", ").map(|more| format!("{more} (--json lists all)"))
}

/// Returns what a restart of the machine or its engine in the middle would mean.
pub(crate) fn left_down(containers: &[String]) -> String {
    let names: Vec<_> = containers.iter().map(|name| escape(name)).collect();
    format!("one meanwhile leaves {} down until volsnap recover has run", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_said_of_what_is_a_part() {
        assert_eq!(share(31, 100, "zstd"), " (31 %, zstd)");
        assert_eq!(share(514, 100, "zstd"), " (zstd)");
        assert_eq!(share(20, 0, "none"), " (none)");
    }

    #[test]
    fn names_cannot_act_on_the_terminal() {
        assert_eq!(escape("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(escape("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
        assert_eq!(escape("naïve 名前"), "naïve 名前");
    }

    #[test]
    fn durations_are_said_as_people_say_them() {
        assert_eq!(duration(Duration::from_millis(2410)), "2.41 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(7260)), "2 h 1 min");
    }

    #[test]
    fn columns_of_a_table_are_as_wide_as_what_is_in_them() {
        let rows =
            [["NAME", "SIZE"], ["データ", "1 B"], ["db", "10 B"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME    SIZE\nデータ  1 B\ndb      10 B\n");
    }

    #[test]
    fn what_is_not_shown_is_said_only_if_there_is_more() {
        assert_eq!(in_json(20, 20), None);
        assert_eq!(in_json(1_021, 20).as_deref(), Some("and 1 001 more (--json lists all)"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1 234 567");
    }
}
