//! See [`shield_agent_fuzz::lists::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_agent_fuzz::write_seeds("lists"),
    |data: &[u8]| shield_agent_fuzz::lists::check(data)
);
