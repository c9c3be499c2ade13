//! See [`shield_agent_fuzz::config::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_agent_fuzz::write_seeds("config"),
    |data: &[u8]| shield_agent_fuzz::config::check(data)
);
