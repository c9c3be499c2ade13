//! See [`shield_agent_fuzz::bodies::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_agent_fuzz::write_seeds("bodies"),
    |data: &[u8]| shield_agent_fuzz::bodies::check(data)
);
