//! Parses the command line, runs a command; the only place that prints errors and sets exit codes.

use std::process::ExitCode;

use shield_agent::{Cli, Exit};

fn main() -> ExitCode {
    let cli = Cli::of_process();
    match cli.run() {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            shield_agent::print_error(&error);
            ExitCode::from(Exit::of(&error).code())
        }
    }
}
