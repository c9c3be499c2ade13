//! `cargo xtask attack`: the command line and the exit code. The attacks are in `shield_tests::attack`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is this program's result")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use shield_tests::attack::{ATTACKS, Attack, table};

#[derive(Parser)]
#[command(about = "Attacks a real agent in namespaces of its own, and says what held")]
struct Arguments {
    /// Make only these attacks
    names: Vec<String>,
    /// Print the attacks and what would be a failure, and make none
    #[arg(long)]
    list: bool,
    /// Print one JSON object per attack instead of the table
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let chosen = choose(&arguments.names)?;
    if arguments.list {
        chosen.iter().for_each(|attack| println!("{:<14} {}", attack.name, attack.does));
        return Ok(ExitCode::SUCCESS);
    }
    let mut tried = Vec::new();
    for attack in chosen {
        eprint!("{:<14} ", attack.name);
        let outcome = attack.attempt();
        eprintln!(
            "{} in {:.1} s: {}",
            if outcome.held { "held" } else { "NOT HELD" },
            outcome.secs,
            outcome.note
        );
        tried.push(outcome);
    }
    if arguments.json {
        for outcome in &tried {
            println!("{}", serde_json::to_string(outcome).context("could not write an outcome as JSON")?);
        }
    } else {
        print!("{}", table(&tried));
    }
    let lost = tried.iter().filter(|outcome| !outcome.held).count();
    eprintln!("{} of {} held", tried.len() - lost, tried.len());
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(names: &[String]) -> Result<Vec<Attack>> {
    if names.is_empty() {
        return Ok(ATTACKS.to_vec());
    }
    let find = |name: &String| match ATTACKS.iter().find(|attack| attack.name == name) {
        Some(attack) => Ok(*attack),
        None => bail!("there is no attack {name:?}; `--list` names them"),
    };
    names.iter().map(find).collect()
}
