//! The profile `fleet`: a message server on the router, over which the servers tell each other of bans.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command;
use crate::environment::{Environment, Part};
use crate::launch::{self, Start};
use crate::topology::ROUTER;

const MACHINE: &str = "router";
const PORT: u16 = 4_222;

/// Where the agents find it.
pub(crate) fn url() -> String {
    format!("nats://{ROUTER}:{PORT}")
}

/// A server's key.
pub(crate) fn key(environment: &Environment, server: &str) -> PathBuf {
    keys(environment).join(format!("{server}.seed"))
}

fn keys(environment: &Environment) -> PathBuf {
    environment.machine_folder(MACHINE).join("fleet")
}

/// Makes the servers' keys and starts the message server.
///
/// # Errors
/// Fails if nats-server is not installed.
pub(crate) fn start(environment: &mut Environment, servers: &[String]) -> Result<()> {
    let folder = keys(environment);
    let program = launch::binary()?;
    let (program, shown) = (program.to_string_lossy(), folder.to_string_lossy());
    let argv = [&program, "init", "fleet", "--folder", &shown];
    let names: Vec<&str> = servers.iter().map(String::as_str).collect();
    command::run(&[&argv[..], &names[..]].concat()).context("could not make the fleet's keys")?;
    let written = fs::read_to_string(folder.join("nats-server.conf"))
        .context("could not read the message server's configuration")?;
    let at = written.find("authorization").context("could not find the accounts of the fleet")?;
    let store = environment.machine_folder(MACHINE).join("nats-store");
    let config = format!(
        "server_name: lab\nlisten: \"0.0.0.0:{PORT}\"\njetstream {{ store_dir: \"{}\" }}\n{}",
        store.display(),
        &written[at..],
    );
    let path = environment.machine_folder(MACHINE).join("nats.conf");
    fs::write(&path, config).with_context(|| format!("could not write {}", path.display()))?;
    let arguments = vec!["-c".to_owned(), path.to_string_lossy().into_owned()];
    let start = Start { program: "nats-server".into(), arguments, variables: vec![] };
    launch::part(environment, Part::Nats, MACHINE, start)
        .map(drop)
        .context("the profile fleet needs nats-server: install it from your distribution or nats.io")
}
