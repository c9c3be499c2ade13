//! See [`shield_fuzz::formats::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("formats"),
    |data: &[u8]| shield_fuzz::formats::check(data)
);
