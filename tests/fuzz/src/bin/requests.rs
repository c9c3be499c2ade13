//! See [`shield_fuzz::requests::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("requests"),
    |data: &[u8]| shield_fuzz::requests::check(data)
);
