//! See [`shield_fuzz::paths::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("paths"),
    |data: &[u8]| shield_fuzz::paths::check(data)
);
