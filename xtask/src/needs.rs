//! What Shield's development needs from the machine, each with its purpose, how to see that it is there, and where it
//! comes from. Only the list and the looking; installing is [`crate::setup`].

use std::path::PathBuf;

use crate::sh;

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compiling the agent: `build`, `run`, `dist`.
    Build,
    /// Showing it: `lab`.
    Lab,
    /// Building the XDP object anew: `build-ebpf`.
    Object,
    /// Building the page anew: `build-page`.
    Page,
    /// `test`.
    Test,
    /// `check` and `bench`.
    All,
}

impl Purpose {
    /// Whether whoever does this does `other` too: all compile, and a test shows, and renews both products.
    fn includes(self, other: Self) -> bool {
        match self {
            Self::All => true,
            Self::Test => other != Self::All,
            Self::Build | Self::Lab | Self::Object | Self::Page => other == self || other == Self::Build,
        }
    }

    /// Whether it needs the page's npm packages.
    pub(crate) fn needs_packages(self) -> bool {
        self.includes(Self::Page)
    }
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
        what: "a C compiler",
        why: "links Rust programs and compiles SQLite",
        purpose: Purpose::Build,
        is_met: || has("cc"),
        source: Source::Apt(&["gcc", "libc6-dev"]),
    },
    Need {
        what: "a Rust compiler with its standard library's source",
        why: "builds the XDP program (a rustup nightly with rust-src does as well)",
        purpose: Purpose::Object,
        is_met: has_rustc_with_source,
        source: Source::Apt(&["rustc-web", "rust-web-src"]),
    },
    Need {
        what: "LLVM 22 with zstd and zlib, as libraries",
        why: "builds bpf-linker",
        purpose: Purpose::Object,
        is_met: || has("bpf-linker") || PathBuf::from(LLVM_PREFIX).join("bin/llvm-config").is_file(),
        source: Source::Apt(&["llvm-22-dev", "libzstd-dev", "zlib1g-dev"]),
    },
    Need {
        what: "bpf-linker",
        why: "links the XDP program",
        purpose: Purpose::Object,
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
        what: "llvm-objcopy and llvm-nm",
        why: "takes the debug information out of the XDP object",
        purpose: Purpose::Object,
        is_met: || llvm("llvm-objcopy").is_some() && llvm("llvm-nm").is_some(),
        source: Source::Apt(&["llvm-22"]),
    },
    Need {
        what: "node 18 or newer, and npm",
        why: "bundle the page",
        purpose: Purpose::Page,
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
        why: "shows the lab that this machine's own firewall is untouched; flushes rules in tests",
        purpose: Purpose::Lab,
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
        what: "debootstrap",
        why: "makes the bare root that `fresh` runs the lab in",
        purpose: Purpose::Test,
        is_met: || has("debootstrap"),
        source: Source::Apt(&["debootstrap"]),
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
    NEEDS.iter().filter(|need| purpose.includes(need.purpose) && !(need.is_met)()).collect()
}

/// One of LLVM's tools (GNU's do not know BPF), rather of the version that bpf-linker links with than of another.
pub(crate) fn llvm(program: &str) -> Option<PathBuf> {
    let own = PathBuf::from(LLVM_PREFIX).join("bin").join(program);
    if own.is_file() { Some(own) } else { sh::find(program) }
}

fn has(program: &str) -> bool {
    sh::find(program).is_some()
}

/// The oldest Node that the page's bundler and the browser tests run on (`engines` in their package.json).
const OLDEST_NODE: u32 = 18;

fn has_node() -> bool {
    sh::ask("node", &["--version"]).and_then(|version| node_major(&version)) >= Some(OLDEST_NODE)
}

/// `v18.20.4` is 18.
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
        let count = |purpose: Purpose| NEEDS.iter().filter(|need| purpose.includes(need.purpose)).count();
        assert!(count(Purpose::Build) < count(Purpose::Lab));
        assert!(count(Purpose::Lab) < count(Purpose::Test));
        assert_eq!(count(Purpose::All), NEEDS.len());
    }

    #[test]
    fn the_lab_needs_neither_a_bpf_toolchain_nor_node() {
        let needed = |need: &&Need| Purpose::Lab.includes(need.purpose);
        for need in NEEDS.iter().filter(needed) {
            let Source::Apt(packages) = need.source else { panic!("{} is compiled here", need.what) };
            assert!(!packages.iter().any(|it| it.contains("llvm") || it.contains("node")), "{}", need.what);
        }
    }

    #[test]
    fn an_old_node_is_none() {
        assert_eq!(node_major("v18.20.4\n"), Some(18));
        assert!(node_major("v16.20.2") < Some(OLDEST_NODE));
        assert!(None < Some(OLDEST_NODE), "no node at all");
        assert_eq!(node_major("node: not found"), None);
    }

    #[test]
    fn what_builds_bpf_linker_comes_before_it() {
        let place = |what| NEEDS.iter().position(|need| need.what.starts_with(what)).unwrap();
        assert!(place("LLVM") < place("bpf-linker"));
    }
}
