//! See [`shield_agent_fuzz::audit::check`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: shield_agent_fuzz::write_seeds("audit"),
    |data: &[u8]| shield_agent_fuzz::audit::check(data)
);
