//! See [`shield_fuzz::times::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("times"),
    |data: &[u8]| shield_fuzz::times::check(data)
);
