//! See [`shield_fuzz::differential::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("differential"),
    |data: &[u8]| shield_fuzz::differential::check(data)
);
