//! Shield's development commands: `cargo xtask VERB`.

fn main() {}
