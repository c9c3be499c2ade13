//! See [`shield_fuzz::lines::json`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("json"),
    |data: &[u8]| shield_fuzz::lines::json(data)
);
