//! How much of a campaign is run: all of it costs minutes on a real engine, and the engine in memory has it anyway.

/// Whether everything is asked for, as by `scripts/test --deep`.
pub(crate) fn is_deep() -> bool {
    std::env::var_os("VOLSNAP_TEST_DEEP").is_some_and(|asked| asked != "0")
}

/// Returns all of it where that is asked for, else so many, evenly spread, the first and the last among them.
pub(crate) fn sampled<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let count = all.len();
    if is_deep() || count <= most {
        return all;
    }
    let is_picked = |at: usize| (0..most).any(|pick| pick * (count - 1) / (most - 1) == at);
    all.into_iter().enumerate().filter(|(at, _)| is_picked(*at)).map(|(_, one)| one).collect()
}
