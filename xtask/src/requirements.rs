//! The tools that Shield's development requires, each with its purpose, a check and a source. Installs nothing itself: see
//! [`crate::setup`].

use std::path::PathBuf;

use crate::sh;

/// The commands that a requirement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compiling the agent: `build`, `run`, `dist`.
    Build,
    /// `lab`.
    Lab,
    /// `lab --fleet`.
    Fleet,
    /// `build-ebpf`.
    Object,
    /// `build-page`.
    Page,
    /// `fresh`.
    Fresh,
    /// `test --vm`.
    Vm,
    /// `test`.
    Test,
    /// `check` and `bench`.
    All,
    /// `bench peers`.
    Peers,
}

impl Purpose {
    /// Returns whether this purpose implies `other`. Every purpose compiles the agent; the tests also run the lab and
    /// rebuild both committed products.
    fn includes(self, other: Self) -> bool {
        match self {
            Self::Peers => true,
            Self::All => other != Self::Peers,
            Self::Test => !matches!(other, Self::All | Self::Vm | Self::Peers),
            Self::Vm => matches!(other, Self::Vm | Self::Fresh | Self::Build),
            Self::Fleet => matches!(other, Self::Fleet | Self::Lab | Self::Build),
            // It compiles nothing here.
            Self::Fresh => other == Self::Fresh,
            Self::Build | Self::Lab | Self::Object | Self::Page => other == self || other == Self::Build,
        }
    }

    /// Returns whether the page's npm packages are required.
    pub(crate) fn needs_packages(self) -> bool {
        self.includes(Self::Page)
    }
}

/// A tool or library that must be installed.
#[derive(Debug)]
pub(crate) struct Requirement {
    pub(crate) name: &'static str,
    /// Its use, in a few words; printed before it is installed.
    pub(crate) reason: &'static str,
    pub(crate) purpose: Purpose,
    pub(crate) is_met: fn() -> bool,
    pub(crate) source: Source,
}

/// The source that a missing requirement is installed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// `cargo install` with these arguments and environment variables.
    Cargo { arguments: &'static [&'static str], environment: &'static [(&'static str, &'static str)] },
}

/// bpf-linker reads the compiler's bitcode, so both must have the same LLVM version: Debian's rustc-web 1.96 has LLVM 22.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// All requirements in the order of installation: bpf-linker is compiled with tools listed before it.
pub(crate) const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        name: "a C compiler",
        reason: "links Rust programs and compiles SQLite",
        purpose: Purpose::Build,
        is_met: || has("cc"),
        source: Source::Apt(&["gcc", "libc6-dev"]),
    },
    Requirement {
        name: "a Rust compiler with its standard library's source",
        reason: "builds the XDP program (a rustup nightly with rust-src does as well)",
        purpose: Purpose::Object,
        is_met: has_rustc_with_source,
        source: Source::Apt(&["rustc-web", "rust-web-src"]),
    },
    Requirement {
        name: "LLVM 22 with zstd and zlib, as libraries",
        reason: "builds bpf-linker",
        purpose: Purpose::Object,
        is_met: || has("bpf-linker") || PathBuf::from(LLVM_PREFIX).join("bin/llvm-config").is_file(),
        source: Source::Apt(&["llvm-22-dev", "libzstd-dev", "zlib1g-dev"]),
    },
    Requirement {
        name: "bpf-linker",
        reason: "links the XDP program",
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
    Requirement {
        name: "llvm-objcopy and llvm-nm",
        reason: "strip the debug information from the XDP object",
        purpose: Purpose::Object,
        is_met: || llvm("llvm-objcopy").is_some() && llvm("llvm-nm").is_some(),
        source: Source::Apt(&["llvm-22"]),
    },
    Requirement {
        name: "node 18 or newer, and npm",
        reason: "bundle the page",
        purpose: Purpose::Page,
        is_met: || has_node() && has("npm"),
        source: Source::Apt(&["nodejs", "npm"]),
    },
    Requirement {
        name: "nginx",
        reason: "the web server of the lab and the tests",
        purpose: Purpose::Lab,
        is_met: || has("nginx"),
        source: Source::Apt(&["nginx-light"]),
    },
    Requirement {
        name: "iptables and ip6tables",
        reason: "one of the two ways to drop clients",
        purpose: Purpose::Lab,
        is_met: || has("iptables") && has("ip6tables"),
        source: Source::Apt(&["iptables"]),
    },
    Requirement {
        name: "ipset",
        reason: "holds the bans when there are too many for single rules",
        purpose: Purpose::Lab,
        is_met: || has("ipset"),
        source: Source::Apt(&["ipset"]),
    },
    Requirement {
        name: "ip",
        reason: "creates the network namespaces of the lab and the tests",
        purpose: Purpose::Lab,
        is_met: || has("ip"),
        source: Source::Apt(&["iproute2"]),
    },
    Requirement {
        name: "a C++ compiler",
        reason: "builds libFuzzer for the fuzz targets",
        purpose: Purpose::Test,
        is_met: || has("c++"),
        source: Source::Apt(&["g++"]),
    },
    Requirement {
        name: "nft",
        reason: "lets the lab verify that this machine's firewall is unchanged; flushes rules in tests",
        purpose: Purpose::Lab,
        is_met: || has("nft"),
        source: Source::Apt(&["nftables"]),
    },
    Requirement {
        name: "chromium",
        reason: "the browser of the page's tests",
        purpose: Purpose::Test,
        is_met: || has("chromium"),
        source: Source::Apt(&["chromium"]),
    },
    Requirement {
        name: "promtool",
        reason: "checks the metrics' names and units",
        purpose: Purpose::Test,
        is_met: || has("promtool"),
        source: Source::Apt(&["prometheus"]),
    },
    Requirement {
        name: "debootstrap",
        reason: "creates the minimal system that `fresh` runs the lab in",
        purpose: Purpose::Fresh,
        is_met: || has("debootstrap"),
        source: Source::Apt(&["debootstrap"]),
    },
    Requirement {
        name: "qemu",
        reason: "runs the virtual machines of `test --vm`",
        purpose: Purpose::Vm,
        is_met: || has("qemu-system-x86_64"),
        source: Source::Apt(&["qemu-system-x86"]),
    },
    Requirement {
        name: "mkfs.ext4, xz, curl and ssh",
        reason: "make and ask the virtual machines",
        purpose: Purpose::Vm,
        is_met: || ["mkfs.ext4", "xz", "curl", "ssh"].iter().all(|program| has(program)),
        source: Source::Apt(&["e2fsprogs", "xz-utils", "curl", "openssh-client"]),
    },
    Requirement {
        name: "systemd-analyze",
        reason: "checks the systemd unit",
        purpose: Purpose::Test,
        is_met: || has("systemd-analyze"),
        source: Source::Apt(&["systemd"]),
    },
    Requirement {
        name: "sshd",
        reason: "tests whom SSH sessions exempt",
        purpose: Purpose::Test,
        is_met: || std::path::Path::new("/usr/sbin/sshd").exists() && has("ssh"),
        source: Source::Apt(&["openssh-server", "openssh-client"]),
    },
    Requirement {
        name: "nats-server",
        reason: "carries the bans of the lab's and the tests' fleets",
        purpose: Purpose::Fleet,
        is_met: || has("nats-server"),
        source: Source::Apt(&["nats-server"]),
    },
    Requirement {
        name: "curl and openssl",
        reason: "ask environments for pages, and make the certificates of an operator's own nginx in them",
        purpose: Purpose::Test,
        is_met: || has("curl") && has("openssl"),
        source: Source::Apt(&["curl", "openssl"]),
    },
    Requirement {
        name: "fail2ban and sshguard",
        reason: "tests that their bans can be Shield's",
        purpose: Purpose::Test,
        is_met: || has("fail2ban-server") && has("sshguard"),
        source: Source::Apt(&["fail2ban", "sshguard"]),
    },
    Requirement {
        name: "logrotate",
        reason: "tests the rotation of the audit log",
        purpose: Purpose::Test,
        is_met: || has("logrotate"),
        source: Source::Apt(&["logrotate"]),
    },
    Requirement {
        name: "xdp-filter",
        reason: "`bench xdp` compares Shield's XDP program with it",
        purpose: Purpose::All,
        is_met: || has("xdp-filter"),
        source: Source::Apt(&["xdp-tools"]),
    },
    Requirement {
        name: "goaccess",
        reason: "`bench peers` compares how fast Shield reads a log with it",
        purpose: Purpose::Peers,
        is_met: || has("goaccess"),
        source: Source::Apt(&["goaccess"]),
    },
    Requirement {
        name: "sqlite3's library",
        reason: "`bench peers` runs CrowdSec, unpacked and not installed, which needs it",
        purpose: Purpose::Peers,
        is_met: || sh::capture("sh", &["-c", "ldconfig -p | grep -q libsqlite3"]).is_some(),
        source: Source::Apt(&["libsqlite3-0"]),
    },
    Requirement {
        name: "cargo-deny",
        reason: "`check` applies the rules for dependencies",
        purpose: Purpose::All,
        is_met: || has("cargo-deny"),
        source: Source::Cargo {
            arguments: &["cargo-deny", "--version", "0.20.2", "--locked"],
            environment: &[],
        },
    },
    Requirement {
        name: "cargo-machete",
        reason: "`check` finds dependencies that no code uses",
        purpose: Purpose::All,
        is_met: || has("cargo-machete"),
        source: Source::Cargo {
            arguments: &["cargo-machete", "--version", "0.9.2", "--locked"],
            environment: &[],
        },
    },
];

/// The unmet requirements of this purpose, in the order of installation.
pub(crate) fn missing(purpose: Purpose) -> Vec<&'static Requirement> {
    REQUIREMENTS
        .iter()
        .filter(|requirement| purpose.includes(requirement.purpose) && !(requirement.is_met)())
        .collect()
}

/// The packages of all requirements, which must exist in every distribution that `setup` supports.
pub(crate) fn all_packages() -> impl Iterator<Item = &'static str> {
    packages_of(Purpose::Peers)
}

/// The packages of what a purpose requires, installed or not.
pub(crate) fn packages_of(purpose: Purpose) -> impl Iterator<Item = &'static str> {
    let of_purpose = REQUIREMENTS.iter().filter(move |requirement| purpose.includes(requirement.purpose));
    of_purpose.flat_map(|requirement| match requirement.source {
        Source::Apt(packages) => packages.iter().copied(),
        Source::Cargo { .. } => [].iter().copied(),
    })
}

/// Finds one of LLVM's tools (GNU's do not support BPF), preferring the version that bpf-linker is linked with.
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
    sh::capture("node", &["--version"]).and_then(|version| node_major(&version)) >= Some(OLDEST_NODE)
}

/// `v18.20.4` is 18.
fn node_major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Accepts a rustup nightly with rust-src, or the distribution's compiler with its source package.
fn has_rustc_with_source() -> bool {
    let candidates: [(&str, &[&str]); 2] =
        [("rustc", &["+nightly", "--print", "sysroot"]), ("/usr/bin/rustc", &["--print", "sysroot"])];
    candidates.iter().any(|(rustc, arguments)| {
        sh::capture(rustc, arguments).is_some_and(|sysroot| {
            PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn building_needs_less_than_testing() {
        let count = |purpose: Purpose| {
            REQUIREMENTS.iter().filter(|requirement| purpose.includes(requirement.purpose)).count()
        };
        assert!(count(Purpose::Build) < count(Purpose::Lab));
        assert!(count(Purpose::Lab) < count(Purpose::Test));
        assert!(count(Purpose::Test) < count(Purpose::All));
        assert_eq!(count(Purpose::Peers), REQUIREMENTS.len());
    }

    #[test]
    fn the_lab_needs_neither_a_bpf_toolchain_nor_node() {
        let needed = |requirement: &&Requirement| Purpose::Lab.includes(requirement.purpose);
        for requirement in REQUIREMENTS.iter().filter(needed) {
            let Source::Apt(packages) = requirement.source else {
                panic!("{} is compiled here", requirement.name)
            };
            assert!(
                !packages.iter().any(|it| it.contains("llvm") || it.contains("node")),
                "{}",
                requirement.name
            );
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
        let place =
            |what| REQUIREMENTS.iter().position(|requirement| requirement.name.starts_with(what)).unwrap();
        assert!(place("LLVM") < place("bpf-linker"));
    }
}
