//! See [`shield_fuzz::lines::combined`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_fuzz::write_seeds("combined"),
    |data: &[u8]| shield_fuzz::lines::combined(data)
);
