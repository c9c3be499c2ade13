//! `shield-agent config`: the configuration with every default, and its schema.

use anyhow::Result;
use clap::Args;

use super::run::ConfigArg;
use super::{BadConfig, Exit, print};
use crate::config::Config;

/// Made from the types, and held against them by a test.
const SCHEMA: &str = include_str!("../../../docs/shield.schema.json");

#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct ConfigArgs {
    /// Print the whole configuration, every default included, as a file that means the same
    #[arg(long, group = "what")]
    effective: bool,
    /// Print the JSON schema of the file, for an editor to complete and check it by
    #[arg(long, group = "what")]
    schema: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(crate) fn run(args: &ConfigArgs) -> Result<Exit> {
    if args.schema {
        print::text(SCHEMA)?;
        return Ok(Exit::Done);
    }
    let loaded = Config::load_with_text(args.config.config.as_deref());
    let (_, text) = loaded.map_err(BadConfig::of)?;
    print::text(&Config::effective(&text).map_err(BadConfig::of)?)?;
    Ok(Exit::Done)
}
