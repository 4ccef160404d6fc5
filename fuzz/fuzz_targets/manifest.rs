#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| volsnap_fuzz::manifest(bytes));
