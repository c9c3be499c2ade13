//! Shield's development commands: `cargo xtask VERB`. Each verb has a file of its own; CI runs the same verbs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool for developers")]

mod api_types;
mod attack;
mod background;
mod bench;
mod binaries;
mod build;
mod build_ebpf;
mod build_page;
mod check;
mod dependencies;
mod dist;
mod fresh;
mod fuzz;
mod instrument;
mod lab;
mod lanes;
mod order;
mod packages;
mod prebuilt;
mod requirements;
mod run;
mod sbom;
mod setup;
mod sh;
mod slow;
mod test;
mod totals;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Shield's development commands")]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install the missing tools for building and testing; prints each step first, changes nothing already installed
    Setup,
    /// Rebuild the XDP program's object, which is committed
    BuildEbpf(build_ebpf::Arguments),
    /// Rebuild the live page, which is committed
    BuildPage,
    /// Build the agent with the XDP program and the page embedded; rebuilds those two only if their sources changed
    Build(build::Arguments),
    /// Build, then run the agent on this machine as root
    Run(run::Arguments),
    /// Regenerate docs/openapi.json and the page's types.ts from the API's Rust types
    ApiTypes,
    /// Check format, lints, dead code, documentation, dependencies, the API's description and the page's types
    Check,
    /// Install missing tools, build, then run every test: unit, property, fuzz, privileged, browser
    Test(test::Arguments),
    /// Fuzz one of the parsers with coverage-guided input until it fails or the time is up
    Fuzz(fuzz::Arguments),
    /// Demonstrate Shield in disposable network namespaces: traffic, attack, ban, expiry
    Lab(lab::Arguments),
    /// Make every attack that was tried on a built agent, in disposable namespaces; prints what held, fails if one did not
    Attack(attack::Arguments),
    /// Run the lab on a minimal installation of a distribution, to verify that `setup` installs all it needs
    Fresh(fresh::Arguments),
    /// Run a benchmark: xdp, enforce, detect, ingest, latency, idle, nginx, page, fleet or api; prints a table, or JSON lines with --json
    Bench(bench::Arguments),
    /// Build the Debian package, its list of crates (SBOM) and their checksums into target/dist
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    if let Some(code) = instrument::become_compiler() {
        return code;
    }
    match run(CommandLine::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref() {
                Some(fresh::Unavailable) => ExitCode::from(fresh::UNAVAILABLE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    std::env::set_current_dir(sh::root_folder())?;
    match verb {
        Verb::Setup => setup::run(),
        Verb::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Verb::BuildPage => build_page::run(),
        Verb::Build(arguments) => build::run(&arguments),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::ApiTypes => api_types::renew(),
        Verb::Check => check::run(),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Lab(arguments) => lab::run(&arguments),
        Verb::Attack(arguments) => attack::run(&arguments),
        Verb::Fresh(arguments) => fresh::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
    }
}
