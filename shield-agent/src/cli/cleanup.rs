//! `shield-agent cleanup`: takes everything of Shield's out of the kernel, and nothing else.

use anyhow::{Result, bail};
use clap::Args;

use super::client::AgentClient;
use super::run::ConfigArg;
use super::{Exit, print};
use crate::api::types::Status;
use crate::enforce::Enforcer;
use crate::enforce::iptables::IptablesEnforcer;
use crate::enforce::xdp::XdpEnforcer;

/// Its arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    config: ConfigArg,
}

/// Cleans up. The database, the configuration and the audit log stay.
///
/// # Errors
/// When an agent is running (it would put everything back), or something could not be removed.
pub(crate) async fn run(args: &CleanupArgs, client: &AgentClient) -> Result<Exit> {
    if client.get::<Status>("/status", &[]).await.is_ok() {
        bail!("the agent is running and would put everything back: stop it first (systemctl stop shield)");
    }
    let config = args.config.load()?;
    // In the kernel things can lie from an earlier configuration, so both are cleaned whatever is configured now.
    let enforcers: [Box<dyn Enforcer>; 2] =
        [Box::new(IptablesEnforcer::new(config.iptables)), Box::new(XdpEnforcer::new(config.xdp))];
    let mut exit = Exit::Done;
    let mut removed = Vec::new();
    for mut enforcer in enforcers {
        match enforcer.cleanup() {
            Ok(done) => removed.extend(done),
            Err(error) => {
                exit = Exit::Failed;
                print::error(&error.context(format!("cannot clean up {}", enforcer.name().name())));
            }
        }
    }
    if removed.is_empty() && exit == Exit::Done {
        print::text("nothing of Shield was in the kernel\n")?;
    }
    removed.iter().try_for_each(|line| print::text(&format!("removed {line}\n")))?;
    Ok(exit)
}
