//! What Shield's development needs from the machine, each with its purpose, how to see that it is there, and where it
//! comes from. Only the list and the looking; installing is [`crate::setup`].

use std::path::PathBuf;

use crate::sh;

/// Which commands need it. Each includes those before it: who tests also builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// `build`, `build-ebpf`, `run`, `dist`.
    Build,
    /// `lab`.
    Lab,
    /// `test`.
    Test,
    /// `check` and `bench`.
    All,
}

/// One thing that must be there.
#[derive(Debug)]
pub(crate) struct Need {
    /// What it is called where it is missed.
    pub what: &'static str,
    /// In a few words, what it is for.
    pub why: &'static str,
    /// Who needs it.
    pub purpose: Purpose,
    /// Whether it is there.
    pub is_met: fn() -> bool,
    /// Where it comes from.
    pub source: Source,
}

/// Where a missing thing comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// `cargo install`, with the arguments and the environment it needs.
    Cargo {
        /// After `cargo install`.
        arguments: &'static [&'static str],
        /// Set for it.
        environment: &'static [(&'static str, &'static str)],
    },
}

/// The LLVM that bpf-linker links with must be the one of the compiler that makes the XDP program: Debian's rustc-web
/// 1.96 has LLVM 22.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Everything, in the order in which it must be installed.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        what: "a Rust compiler with its standard library's source",
        why: "builds the XDP program (a rustup nightly with rust-src does as well)",
        purpose: Purpose::Build,
        is_met: has_rustc_with_source,
        source: Source::Apt(&["rustc-web", "rust-web-src"]),
    },
    Need {
        what: "LLVM 22 with zstd and zlib, as libraries",
        why: "builds bpf-linker",
        purpose: Purpose::Build,
        is_met: || has("bpf-linker") || PathBuf::from(LLVM_PREFIX).join("bin/llvm-config").is_file(),
        source: Source::Apt(&["llvm-22-dev", "libzstd-dev", "zlib1g-dev"]),
    },
    Need {
        what: "bpf-linker",
        why: "links the XDP program",
        purpose: Purpose::Build,
        is_met: || has("bpf-linker"),
        source: Source::Cargo {
            arguments: &[
                "bpf-linker",
                "--version",
                "0.13.0",
                "--no-default-features",
                "--features",
                "llvm-22",
            ],
            environment: &[("LLVM_PREFIX", LLVM_PREFIX)],
        },
    },
    Need {
        what: "node 20 or newer, and npm",
        why: "bundle the page",
        purpose: Purpose::Build,
        is_met: || has_node() && has("npm"),
        source: Source::Apt(&["nodejs", "npm"]),
    },
    Need {
        what: "nginx",
        why: "the web server whose log is read, in the lab and the tests",
        purpose: Purpose::Lab,
        is_met: || has("nginx"),
        source: Source::Apt(&["nginx-light"]),
    },
    Need {
        what: "iptables and ip6tables",
        why: "one of the two places where clients are dropped",
        purpose: Purpose::Lab,
        is_met: || has("iptables") && has("ip6tables"),
        source: Source::Apt(&["iptables"]),
    },
    Need {
        what: "ipset",
        why: "holds the bans when they are too many for single rules",
        purpose: Purpose::Lab,
        is_met: || has("ipset"),
        source: Source::Apt(&["ipset"]),
    },
    Need {
        what: "ip",
        why: "network namespaces: several machines on this one",
        purpose: Purpose::Lab,
        is_met: || has("ip"),
        source: Source::Apt(&["iproute2"]),
    },
    Need {
        what: "a C++ compiler",
        why: "builds libFuzzer, which the fuzz targets run under",
        purpose: Purpose::Test,
        is_met: || has("c++"),
        source: Source::Apt(&["g++"]),
    },
    Need {
        what: "nft",
        why: "flushes the rule set from outside in the tests of repairing",
        purpose: Purpose::Test,
        is_met: || has("nft"),
        source: Source::Apt(&["nftables"]),
    },
    Need {
        what: "chromium",
        why: "the browser in which the page is tested",
        purpose: Purpose::Test,
        is_met: || has("chromium"),
        source: Source::Apt(&["chromium"]),
    },
    Need {
        what: "promtool",
        why: "checks the metrics' names and units",
        purpose: Purpose::Test,
        is_met: || has("promtool"),
        source: Source::Apt(&["prometheus"]),
    },
    Need {
        what: "systemd-analyze",
        why: "checks the systemd unit",
        purpose: Purpose::Test,
        is_met: || has("systemd-analyze"),
        source: Source::Apt(&["systemd"]),
    },
    Need {
        what: "logrotate",
        why: "rotates the audit log as an installed Shield's is, in a test",
        purpose: Purpose::Test,
        is_met: || has("logrotate"),
        source: Source::Apt(&["logrotate"]),
    },
    Need {
        what: "xdp-filter",
        why: "`bench xdp` measures it beside ours",
        purpose: Purpose::All,
        is_met: || has("xdp-filter"),
        source: Source::Apt(&["xdp-tools"]),
    },
    Need {
        what: "cargo-deny",
        why: "`check` applies the rules for dependencies",
        purpose: Purpose::All,
        is_met: || has("cargo-deny"),
        source: Source::Cargo {
            arguments: &["cargo-deny", "--version", "0.20.2", "--locked"],
            environment: &[],
        },
    },
    Need {
        what: "cargo-machete",
        why: "`check` finds dependencies that no code uses",
        purpose: Purpose::All,
        is_met: || has("cargo-machete"),
        source: Source::Cargo {
            arguments: &["cargo-machete", "--version", "0.9.2", "--locked"],
            environment: &[],
        },
    },
];

/// What is missing for this purpose, in the order in which to install it.
pub(crate) fn missing(purpose: Purpose) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| need.purpose <= purpose && !(need.is_met)()).collect()
}

fn has(program: &str) -> bool {
    sh::find(program).is_some()
}

/// The oldest Node that the page's bundler and the browser tests run on (`engines` in their package.json).
const OLDEST_NODE: u32 = 20;

fn has_node() -> bool {
    sh::ask("node", &["--version"]).and_then(|version| node_major(&version)) >= Some(OLDEST_NODE)
}

/// `v20.19.2` is 20.
fn node_major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// A rustup nightly with rust-src, or a compiler of the distribution with its source.
fn has_rustc_with_source() -> bool {
    let candidates: [(&str, &[&str]); 2] =
        [("rustc", &["+nightly", "--print", "sysroot"]), ("/usr/bin/rustc", &["--print", "sysroot"])];
    candidates.iter().any(|(rustc, arguments)| {
        sh::ask(rustc, arguments).is_some_and(|sysroot| {
            PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn building_needs_less_than_testing() {
        let count = |purpose| NEEDS.iter().filter(|need| need.purpose <= purpose).count();
        assert!(count(Purpose::Build) < count(Purpose::Lab));
        assert!(count(Purpose::Lab) < count(Purpose::Test));
        assert_eq!(count(Purpose::All), NEEDS.len());
    }

    #[test]
    fn an_old_node_is_none() {
        assert_eq!(node_major("v20.19.2\n"), Some(20));
        assert!(node_major("v18.19.0") < Some(OLDEST_NODE));
        assert!(None < Some(OLDEST_NODE), "no node at all");
        assert_eq!(node_major("node: not found"), None);
    }

    #[test]
    fn what_builds_bpf_linker_comes_before_it() {
        let place = |what| NEEDS.iter().position(|need| need.what.starts_with(what)).unwrap();
        assert!(place("LLVM") < place("bpf-linker"));
    }
}
