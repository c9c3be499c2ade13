//! `cargo xtask bench xdp`: the cost of a packet in the XDP program, compared with an empty program and xdp-tools'
//! xdp-filter; and packets per second over a veth pair, whole path, with each enforcer and with none.
//!
//! Prints two tables; `--json` prints the first as one object per line, `--json --whole-path` the second.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark's output is its interface")]

mod cost;
mod path;
mod shield;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "bench-xdp", about = "Packet cost of the XDP program")]
struct Arguments {
    /// Print one JSON object per line instead of tables
    #[arg(long)]
    json: bool,
    /// Measure only the packets per second over a veth pair
    #[arg(long)]
    whole_path: bool,
    /// Measure only the cost in the program
    #[arg(long, conflicts_with = "whole_path")]
    program: bool,
    /// The largest number of bans measured
    #[arg(long, default_value_t = 1_000_000)]
    bans: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.whole_path {
        let rows = cost::measure(arguments.bans)?;
        if arguments.json { print_json(&rows)? } else { cost::print_table(&rows) }
    }
    if arguments.whole_path || !(arguments.program || arguments.json) {
        let rows = path::measure()?;
        if arguments.json { print_json(&rows)? } else { path::print_table(&rows) }
    }
    Ok(())
}

fn print_json<T: serde::Serialize>(rows: &[T]) -> Result<()> {
    for row in rows {
        println!("{}", serde_json::to_string(row)?);
    }
    Ok(())
}
