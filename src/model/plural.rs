//! Numbers of things, in words.

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
        _ => format!("{one}s"),
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
            (1_234_567, "row", "1 234 567 rows"),
        ] {
            assert_eq!(counted(number, one), said);
        }
    }
}
