//! See [`shield_fuzz::blocks::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("blocks"),
    |data: &[u8]| shield_fuzz::blocks::check(data)
);
