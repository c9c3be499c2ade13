//! Parses the command line, runs a command; the only place that prints errors and sets exit codes.

fn main() {}
