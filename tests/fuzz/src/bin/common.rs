//! See [`shield_fuzz::lines::common`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("common"),
    |data: &[u8]| shield_fuzz::lines::common(data)
);
