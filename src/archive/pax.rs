//! PAX records: `LENGTH KEY=VALUE\n`, where the length counts itself.

use super::entry::Timestamp;

/// Appends a record; the value may be any bytes.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + digits(len) {
        len = rest + digits(len);
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Splits the first record off `records`: key, value, rest. `None` if it is malformed.
pub(super) fn split(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(parse_decimal(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// Returns a decimal number without sign and blanks.
pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Returns a time as a decimal with nine places; before 1970 it counts backwards as a whole.
pub(super) fn format_time(time: Timestamp) -> String {
    let Timestamp { secs, nanos } = time;
    if secs < 0 && nanos > 0 {
        format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos)
    } else if nanos > 0 {
        format!("{secs}.{nanos:09}")
    } else {
        secs.to_string()
    }
}

/// Returns the time of a decimal; cuts off what is finer than a nanosecond.
pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, magnitude) = match text.strip_prefix(b"-") {
        Some(magnitude) => (true, magnitude),
        None => (false, text),
    };
    let mut halves = magnitude.splitn(2, |byte| *byte == b'.');
    let secs = i64::try_from(parse_decimal(halves.next()?)?).ok()?;
    let nanos = parse_fraction(halves.next().unwrap_or_default())?;
    Some(match (is_negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos: 0 },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

fn parse_fraction(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let places = text.iter().chain(std::iter::repeat(&b'0')).take(9);
    Some(places.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0')))
}

/// Returns the name of an xattr as a part of a key, where `=` would end it.
pub(super) fn encode_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => encoded.extend_from_slice(b"%25"),
            b'=' => encoded.extend_from_slice(b"%3D"),
            _ => encoded.push(*byte),
        }
    }
    encoded
}

/// Undoes [`encode_xattr_name`] as GNU tar does: no other escapes exist.
pub(super) fn decode_xattr_name(encoded: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            _ => (*first, after),
        };
        name.push(byte);
        rest = after;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for len in (0..120).chain(980..1010) {
            let value = vec![b'\n'; len];
            let mut records = Vec::new();
            push(&mut records, b"k", &value);
            push(&mut records, b"next", b"=");
            let (key, read, rest) = split(&records).unwrap();
            assert_eq!((key, read), (&b"k"[..], &value[..]));
            assert_eq!(split(rest).unwrap(), (&b"next"[..], &b"="[..], &b""[..]));
        }
    }

    #[test]
    fn a_malformed_record_is_refused() {
        for text in
            ["", "5", "5 a=", "6 a=b\nx", "0 a=b\n", "-6 a=b\n", "6 ab\n", "99999999999999999999 a=b\n"]
        {
            assert_eq!(split(text.as_bytes()).filter(|(.., rest)| rest.is_empty()), None, "{text}");
        }
    }

    #[test]
    fn times_survive_text_before_and_after_1970() {
        for (secs, nanos) in [(0, 0), (0, 1), (-1, 0), (-1, 500_000_000), (-2, 1), (1 << 40, 999_999_999)] {
            let time = Timestamp { secs, nanos };
            assert_eq!(parse_time(format_time(time).as_bytes()), Some(time), "{time:?}");
        }
        assert_eq!(format_time(Timestamp { secs: -1, nanos: 500_000_000 }), "-0.500000000");
        assert_eq!(parse_time(b"1.5"), Some(Timestamp { secs: 1, nanos: 500_000_000 }));
        assert_eq!(parse_time(b"1.x"), None);
        assert_eq!(parse_time(b""), None);
    }

    #[test]
    fn an_xattr_name_survives_a_key() {
        let name = b"user.a=b%25%3D%";
        assert_eq!(decode_xattr_name(&encode_xattr_name(name)), name);
        assert!(!encode_xattr_name(name).contains(&b'='));
    }
}
