//! See [`shield_agent_fuzz::database::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_agent_fuzz::write_seeds("database"),
    |data: &[u8]| shield_agent_fuzz::database::check(data)
);
