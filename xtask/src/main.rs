//! Shield's development commands: `cargo xtask VERB`. One file a verb; CI calls the same verbs.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool: printing is its interface"
)]

mod api_types;
mod bench;
mod build;
mod build_ebpf;
mod build_page;
mod check;
mod dependencies;
mod dist;
mod fresh;
mod fuzz;
mod lab;
mod needs;
mod prebuilt;
mod run;
mod setup;
mod sh;
mod test;

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
    /// Install what building and testing need; says each step first, and changes nothing that is there
    Setup,
    /// Build the XDP program, which is committed, anew
    BuildEbpf(build_ebpf::Arguments),
    /// Build the live page, which is committed, anew
    BuildPage,
    /// Build the agent, with the XDP program and the page inside; those two are built where their sources changed
    Build(build::Arguments),
    /// Build, then run the agent on this machine as root
    Run(run::Arguments),
    /// Renew what is generated from the API's types: docs/openapi.json and the page's types.ts
    ApiTypes,
    /// Format, lints, dependency rules, the API's description, page types
    Check,
    /// Install what is missing, build, then run every test: unit, property, fuzz, privileged, browser
    Test(test::Arguments),
    /// Feed one of the readers mutated input, guided by coverage, until it fails or time is up
    Fuzz(fuzz::Arguments),
    /// Show the whole story in disposable network namespaces: traffic, attack, ban, expiry
    Lab(lab::Arguments),
    /// Run the lab in a bare root of a distribution, to see that nothing is missing from what it installs
    Fresh(fresh::Arguments),
    /// Measure: xdp, enforce, detect, ingest, latency or api; prints a table, or JSON lines with --json
    Bench(bench::Arguments),
    /// Build the Debian package and its checksum into target/dist
    Dist,
}

fn main() -> ExitCode {
    match run(CommandLine::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
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
        Verb::Fresh(arguments) => fresh::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Dist => dist::run(),
    }
}
