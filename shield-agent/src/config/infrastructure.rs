//! Networks of infrastructure, whose addresses stand for many clients: content delivery networks and private networks.
//! Rules report them and do not ban them; operators may.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use shield_engine::allowlist::{AllowReason, Allowed};

use super::raw;

/// The list that is shipped. It names its sources and their dates.
const CDN_RANGES: &str = include_str!("cdn_ranges.txt");

/// RFC 1918, shared address space (RFC 6598) and IPv6 unique local addresses (RFC 4193).
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// Shorter prefixes are refused: no provider has such a network, and a list that covers the Internet switches Shield off.
const LEAST_PREFIX_V4: u8 = 8;
const LEAST_PREFIX_V6: u8 = 19;

pub(super) fn private() -> impl Iterator<Item = Allowed> {
    let parse = |text: &str| text.parse().expect("the constant networks are well-formed");
    PRIVATE.into_iter().map(move |text| Allowed { network: parse(text), reason: AllowReason::Private })
}

/// The CDN ranges in `file`, or those shipped.
pub(super) fn cdn(file: Option<&Path>) -> Result<Vec<Allowed>> {
    let networks = match file {
        None => read(CDN_RANGES).context("could not read the list of CDN ranges that is shipped")?,
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path).with_context(|| {
                format!("could not read [allow] cdn_ranges_file = \"{name}\": create it, or remove the key")
            })?;
            read(&text).with_context(|| {
                format!("could not use [allow] cdn_ranges_file = \"{name}\": write one network a line, as 192.0.2.0/24")
            })?
        }
    };
    Ok(networks.into_iter().map(|network| Allowed { network, reason: AllowReason::Cdn }).collect())
}

/// Reads a network or an address a line.
fn read(text: &str) -> Result<Vec<IpNet>> {
    let mut networks = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        let Some(network) = raw::network(written) else {
            bail!("line {} is neither a network nor an address: {written:?}", at + 1);
        };
        let least = if network.addr().is_ipv4() { LEAST_PREFIX_V4 } else { LEAST_PREFIX_V6 };
        if network.prefix_len() < least {
            bail!("line {}: {network} is larger than any provider's network (/{least} at least)", at + 1);
        }
        networks.push(network.trunc());
    }
    if networks.is_empty() {
        bail!("it names no network; cdn_ranges = false switches the list off");
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_list_is_well_formed_and_names_each_provider() {
        let ranges = cdn(None).unwrap();
        let covers = |addr: &str| {
            let addr: std::net::IpAddr = addr.parse().unwrap();
            ranges.iter().any(|range| range.network.contains(&addr))
        };
        for addr in ["104.16.0.1", "2606:4700::1", "151.101.1.1", "130.176.1.1", "23.32.0.1", "35.191.0.1"] {
            assert!(covers(addr), "{addr}");
        }
        for addr in ["192.0.2.1", "8.8.8.8", "2001:db8::1"] {
            assert!(!covers(addr), "{addr}");
        }
        let mut sorted: Vec<_> = ranges.iter().map(|range| range.network).collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ranges.len(), "a network is listed twice");
    }

    #[test]
    fn a_list_of_ones_own_is_read_or_refused_with_its_line() {
        let check = |text: &str, expected: Result<usize, &str>| match (read(text), expected) {
            (Ok(networks), Ok(count)) => assert_eq!(networks.len(), count, "{text:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, _) => panic!("{text:?}: {result:?}"),
        };
        check("\u{feff}192.0.2.0/24 # edge\r\n\r\n2001:db8::1\n", Ok(2));
        check("192.0.2.0/24\n192.0.2/24", Err("line 2 is neither"));
        check("0.0.0.0/0", Err("line 1: 0.0.0.0/0 is larger"));
        check("2000::/3", Err("larger"));
        check("# nothing\n", Err("cdn_ranges = false"));
    }
}
