//! The ABI between the XDP program and the agent: map keys, values, names and counters. Nothing else.
#![no_std]
