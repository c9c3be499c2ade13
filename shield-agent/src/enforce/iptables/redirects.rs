//! Whether this host redirects packets for its own addresses to others, as container engines publish ports. Such packets never
//! pass INPUT.
//!
//! Three places can hold such rules, and an engine may use another one than this host's iptables: the nat table of iptables,
//! that of the other iptables (legacy beside nftables), and tables of nftables' own (netavark, Docker's nftables backend). The
//! kernel asks all of them.

use anyhow::{Context as _, Result};

use super::programs::{NotInstalled, Programs, is_absent};
use super::sets::Version;

/// Returns `true` if a rule of any of them does. `save` lists our own tables, which nftables keeps or not.
///
/// # Errors
/// When one of them cannot be listed.
pub(super) fn are_there(
    programs: &mut dyn Programs,
    version: Version,
    save: &str,
    is_nftables: bool,
) -> Result<bool> {
    let names = legacy_tables(programs, version);
    let is_loaded = |table: &str| names.lines().any(|name| name == table);
    let is_legacy = save.contains("legacy") || (!is_nftables && is_loaded("filter"));
    // Listing a table that legacy iptables has not loaded yet would load it, and connection tracking with it.
    let lists_own = !is_legacy || is_loaded("nat");
    if lists_own && nat_table_does(programs, save)? {
        return Ok(true);
    }
    are_elsewhere(programs, version, is_legacy)
}

/// Returns `true` if a rule does that this host's own iptables does not list. Makes no table.
///
/// # Errors
/// When one of the other places cannot be listed.
pub(crate) fn are_elsewhere(programs: &mut dyn Programs, version: Version, is_legacy: bool) -> Result<bool> {
    let other = match version {
        Version::V4 => "iptables-legacy-save",
        Version::V6 => "ip6tables-legacy-save",
    };
    let is_loaded = legacy_tables(programs, version).lines().any(|name| name == "nat");
    if !is_legacy && is_loaded && legacy_table_does(programs, other)? {
        return Ok(true);
    }
    nftables_do(programs, version)
}

/// The tables that legacy iptables has loaded, one a line.
fn legacy_tables(programs: &mut dyn Programs, version: Version) -> String {
    let path = match version {
        Version::V4 => "/proc/thread-self/net/ip_tables_names",
        Version::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    programs.read_proc(path).unwrap_or_default()
}

fn nat_table_does(programs: &mut dyn Programs, save: &str) -> Result<bool> {
    let mut found = false;
    programs.run(&[save, "-t", "nat"], b"", &mut |line| {
        found |= line.starts_with("-A ") && line.contains(" -j DNAT ");
    })?;
    Ok(found)
}

/// A loaded table that no program here can list counts as one that redirects: a jump too many drops nobody but those who are
/// banned.
fn legacy_table_does(programs: &mut dyn Programs, save: &str) -> Result<bool> {
    match nat_table_does(programs, save) {
        Err(error) if error.downcast_ref::<NotInstalled>().is_some() => Ok(true),
        done => done,
    }
}

fn nftables_do(programs: &mut dyn Programs, version: Version) -> Result<bool> {
    let mut rules = Redirects::of(version);
    // Without the elements of sets, of which there can be a million.
    let listed = programs.run(&["nft", "-t", "list", "ruleset"], b"", &mut |line| rules.take(line));
    match listed {
        Ok(()) => Ok(rules.found),
        // An engine that writes such tables needs the program as well.
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error).context("could not list nftables' rules, to find ports of containers"),
    }
}

/// Reads nft's listing of a ruleset.
struct Redirects {
    version: Version,
    /// The table at hand has packets of this IP version.
    is_ours: bool,
    found: bool,
}

impl Redirects {
    fn of(version: Version) -> Redirects {
        Redirects { version, is_ours: false, found: false }
    }

    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if !line.starts_with([' ', '\t']) {
            if words.next() == Some("table") {
                self.is_ours = match words.next() {
                    Some("inet") => true,
                    Some("ip") => self.version == Version::V4,
                    Some("ip6") => self.version == Version::V6,
                    _ => false,
                };
            }
            return;
        }
        if !self.is_ours || self.found {
            return;
        }
        // iptables' own rules, where nft does not translate them.
        if line.contains("xt target \"DNAT\"") {
            self.found = true;
            return;
        }
        // `dnat to`, or in an inet table `dnat ip to` and `dnat ip6 to`.
        let mut after = words.skip_while(|word| *word != "dnat").skip(1);
        self.found = match after.next() {
            Some("ip") => self.version == Version::V4,
            Some("ip6") => self.version == Version::V6,
            Some("to" | "prefix") => true,
            _ => false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_container_engines_are_found_in_nfts_listing() {
        // As netavark 1.12, Docker 29 and firewalld 2 write them.
        let netavark = "table inet netavark {\n\tchain nv_2f259bab_10_88_0_0_nm16_dnat {\n\t\tip saddr 10.88.0.0/16 jump \
                        NETAVARK-HOSTPORT-SETMARK\n\t\ttcp dport 8080 dnat ip to 10.88.0.5:80\n\t}\n}\n";
        let docker = "table ip docker-bridges {\n\tchain nat-prerouting-and-output {\n\t\ttcp dport 8080 counter packets 0 \
                      bytes 0 dnat to 172.17.0.2:80 comment \"DNAT\"\n\t}\n}\n";
        let firewalld = "table inet firewalld {\n\tchain nat_PRE_public_allow {\n\t\ttcp dport 80 dnat ip6 to \
                         [2001:db8::2]:80\n\t}\n}\n";
        let none = "table inet filter {\n\tset dnat {\n\t\ttype ipv4_addr\n\t}\n\tchain dnat {\n\t\ttype nat hook prerouting \
                    priority dstnat; policy accept;\n\t\tjump dnat\n\t}\n}\n";
        let cases = [
            (netavark, [true, false]),
            (docker, [true, false]),
            (firewalld, [false, true]),
            (none, [false, false]),
            ("table bridge b {\n\tchain c {\n\t\tdnat to 02:00:00:00:00:01\n\t}\n}\n", [false, false]),
            ("", [false, false]),
        ];
        for (listing, expected) in cases {
            let found = Version::ALL.map(|version| {
                let mut rules = Redirects::of(version);
                listing.lines().for_each(|line| rules.take(line));
                rules.found
            });
            assert_eq!(found, expected, "{listing}");
        }
    }
}
