//! `shield-agent proof`: what an upgrade asks of the version that is to be installed. Prints one line of JSON.
//!
//! It is a contract between versions: a newer one is asked by an older one. So questions and fields are added, never changed.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::run::ConfigArg;
use super::{Exit, print};
use crate::clock;
use crate::config::Use;
use crate::enforce::xdp;
use crate::store::{self, BootId, Found, Store};

#[derive(Debug, Clone, Args)]
pub(crate) struct ProofArgs {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Clone, Subcommand)]
enum Of {
    /// Opens the database in a folder as a start would, which may change it: for a copy
    Store {
        /// The folder with the copy
        dir: PathBuf,
    },
    /// Loads the XDP program through the verifier, attaches and pins nothing
    Xdp(ConfigArg),
}

/// What was read of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreProof {
    pub bans: u64,
    pub offences: u64,
    /// The version of the tables, after opening it.
    pub tables: i64,
}

/// What the kernel said of the XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct XdpProof {
    /// False where the configuration switches XDP off: nothing was loaded.
    pub loaded: bool,
    /// Whether the pinned maps are used as they are; else bans are carried over into new ones. Null where there are none.
    pub maps_fit: Option<bool>,
}

pub(crate) fn run(args: &ProofArgs) -> Result<Exit> {
    match &args.of {
        Of::Store { dir } => print::json(&of_store(dir.clone())?)?,
        Of::Xdp(config) => {
            let config = config.load()?;
            let proof = match config.use_xdp {
                Use::Off => XdpProof { loaded: false, maps_fit: None },
                Use::On | Use::Required => XdpProof { loaded: true, maps_fit: xdp::verify(&config.xdp)? },
            };
            print::json(&proof)?;
        }
    }
    Ok(Exit::Done)
}

fn of_store(dir: PathBuf) -> Result<StoreProof> {
    let settings = store::Settings { dir, ..store::Settings::default() };
    if !settings.file().exists() {
        bail!("could not open a database in {}: there is none", settings.dir.display());
    }
    let (boot_id, now) = (BootId::current().context("could not tell this boot from others")?, clock::now());
    let (opened, found) = Store::open(&settings, &boot_id, now)?;
    if let Found::Damaged { damage, .. } = found {
        bail!("could not read the database: {damage}");
    }
    opened.load().context("could not read what the agent knows")?;
    let (mut bans, mut offences) = (0, 0);
    opened.for_each_ban(now, |_| bans += 1)?;
    opened.for_each_offence(|_, _, _| offences += 1)?;
    drop(opened);
    Ok(StoreProof { bans, offences, tables: store::copy::tables(&settings)? })
}
