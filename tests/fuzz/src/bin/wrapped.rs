//! See [`shield_fuzz::wrapped::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("wrapped"),
    |data: &[u8]| shield_fuzz::wrapped::check(data)
);
