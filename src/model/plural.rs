//! Numbers of things, and sizes, in words: the one way in which a person is told them.

use bytesize::ByteSize;

/// Returns how many of something there are: "1 table", "2 tables", "0 entries". Digits stand in groups of three.
#[must_use]
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {}", grouped(number), plural(number, one))
}

/// Returns what a number of things is called, without the number.
#[must_use]
pub fn plural(number: u64, one: &str) -> String {
    match one.strip_suffix('y') {
        _ if number == 1 => one.to_owned(),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if one.ends_with(['s', 'x']) => format!("{one}es"),
        _ => format!("{one}s"),
    }
}

/// Returns a size in decimal units, as "1.3 GB".
#[must_use]
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// Returns what follows the names that are shown of several: ", and 3 more"; nothing if all are.
#[must_use]
pub fn and_more(all: usize, shown: usize) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!(", and {} more", grouped(more as u64)),
    }
}

/// Returns a number with its digits in groups of three: "1 234 567".
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_is_several() {
        for (number, one, said) in [
            (0, "file", "0 files"),
            (1, "file", "1 file"),
            (2, "entry", "2 entries"),
            (1, "entry", "1 entry"),
            (3, "day", "3 days"),
            (2, "index", "2 indexes"),
            (1, "process", "1 process"),
            (1_234_567, "row", "1 234 567 rows"),
        ] {
            assert_eq!(counted(number, one), said);
        }
    }

    #[test]
    fn what_is_left_is_counted_only_if_something_is() {
        assert_eq!(and_more(5, 5), "");
        assert_eq!(and_more(0, 5), "");
        assert_eq!(and_more(6, 5), ", and 1 more");
        assert_eq!(and_more(1_239, 5), ", and 1 234 more");
    }

    #[test]
    fn sizes_have_one_kind_of_unit() {
        assert_eq!(
            [0, 999, 1_000, 72_300_000, 1_500_000_000_000].map(size),
            ["0 B", "999 B", "1.0 kB", "72.3 MB", "1.5 TB"]
        );
    }
}
