//! What a valid configuration asks for and is no good on this host: interfaces that are not there, a page that others reach,
//! databases of addresses that cannot be read.

use crate::config::{Config, Use};
use crate::enforce::xdp::interfaces::{self, Selection};

/// One sentence each, with what to do about it.
pub(super) fn of(config: &Config) -> Vec<String> {
    let databases = config.address_dbs.problems();
    unknown_interfaces(config).into_iter().chain(open_page(config)).chain(databases).collect()
}

fn unknown_interfaces(config: &Config) -> Vec<String> {
    let Selection::Named(names) = &config.xdp.interfaces else { return Vec::new() };
    if config.use_xdp == Use::Off {
        return Vec::new();
    }
    let known: Vec<String> = match interfaces::list() {
        Ok(list) => list.into_iter().map(|interface| interface.name).collect(),
        Err(error) => return vec![format!("[xdp] interfaces: could not list those of this host: {error:#}")],
    };
    let unknown = names.iter().filter(|name| !known.contains(name));
    let said =
        |name: &String| format!("[xdp] interfaces: this host has no {name:?}; it has {}", known.join(", "));
    unknown.map(said).collect()
}

/// The token protects the page there, and goes over the network unencrypted.
fn open_page(config: &Config) -> Option<String> {
    let addr = config.page.filter(|addr| !addr.ip().is_loopback())?;
    Some(format!(
        "[page] listen = \"{addr}\" can be reached from other hosts, where the page and its token go over the network \
         unencrypted: listen on 127.0.0.1 and use a tunnel (`shield-agent page` shows it), or put a server with TLS in front"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        of(&Config::parse(text).unwrap())
    }

    /// History: `check` called both of these good.
    #[test]
    fn what_this_host_does_not_have_is_said() {
        let source = "[[source]]\npath = '/nowhere/*.log'\n[xdp]\nmode = 'off'\n";
        assert_eq!(found(source), [""; 0]);
        let page = found(&format!("{source}[page]\nlisten = '0.0.0.0:8080'\n"));
        assert!(page[0].contains("0.0.0.0:8080") && page[0].contains("unencrypted"), "{page:?}");
        let databases = found(&format!("{source}[page]\nasn_db = '/nowhere'\n"));
        assert!(databases[0].starts_with("[page] asn_db: could not open /nowhere"), "{databases:?}");
        let named = "[[source]]\npath = '/nowhere/*.log'\n[xdp]\ninterfaces = ['eth99', 'lo']\n";
        let unknown = found(named);
        assert!(unknown.len() == 1 && unknown[0].contains("\"eth99\"; it has "), "{unknown:?}");
    }
}
