//! The server's firewall loses all rules, as when a service that manages it starts anew.

use anyhow::{Context as _, Result};

use crate::environment::Environment;
use crate::{command, guard};

/// The table without a chain of anybody's, as a program that restores its own rules at its start does: in one piece, because the
/// agent puts its chain back between two commands.
const EMPTY: &str = "*filter\nCOMMIT\n";

/// Removes the rules and chains of the table `filter`.
pub(super) fn flush(environment: &Environment, server: &str) -> Result<String> {
    let namespace = guard::namespace(environment, server)?;
    for program in ["iptables-restore", "ip6tables-restore"] {
        namespace
            .enter(|| command::run_with(&[program, "--wait"], EMPTY))?
            .with_context(|| format!("could not empty the firewall of {server}"))?;
    }
    Ok(format!("the firewall of {server} has no rule and no chain of anybody's"))
}
