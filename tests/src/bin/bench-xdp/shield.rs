//! The real enforcer in a namespace of its own, filled with bans.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use anyhow::Result;
use aya::Ebpf;
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::xdp::{Mode, Selection, Settings, XdpEnforcer, object};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer as _};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};

/// An odd number near 2^32 divided by the golden ratio, so that its multiples are spread evenly.
const SPREAD: u32 = 0x9e37_79b1;
/// Room for the largest measurement.
const MAX_BANS: u32 = 1_100_000;

/// A started enforcer and a copy of its program to be run on packets.
pub(crate) struct Shield {
    /// The copy.
    pub ebpf: Ebpf,
    /// Bans of each family.
    pub bans: usize,
    _enforcer: XdpEnforcer,
    _bpffs: Bpffs,
    _namespace: Namespace,
}

impl Shield {
    /// Starts one with this many bans of each family.
    pub(crate) fn with_bans(bans: usize) -> Result<Shield> {
        let (namespace, bpffs) = (Namespace::create("bench")?, Bpffs::mount()?);
        let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
        connect(end("eth0"), end("peer0"))?;
        let settings = Settings {
            interfaces: Selection::Named(vec!["eth0".to_owned()]),
            mode: Mode::Generic,
            max_bans_v4: MAX_BANS,
            max_bans_v6: MAX_BANS,
            pin_folder: bpffs.path().join("shield"),
            ..Settings::default()
        };
        let mut enforcer = XdpEnforcer::new(settings.clone());
        namespace.enter(|| enforcer.start(&[], clock::now()))?;
        let v4 = addresses_v4().take(bans).map(ban_v4);
        let all: Vec<Ban> = v4.chain((0..bans).map(|n| ban_v6(address_v6(n)))).collect();
        namespace.enter(|| restore(&mut enforcer, all.into_iter()))?;
        let mut ebpf = object::Loader::new(&object::Globals::of(&settings))
            .load(&settings.pin_folder.join("maps"), 1)?;
        object::xdp(&mut ebpf)?;
        Ok(Shield { ebpf, bans, _enforcer: enforcer, _bpffs: bpffs, _namespace: namespace })
    }
}

/// Puts the bans in force, as a restarted agent does.
fn restore(enforcer: &mut XdpEnforcer, bans: impl Iterator<Item = Ban>) -> Result<()> {
    let mut desired = Desired::default();
    bans.zip(1..).for_each(|(ban, serial)| desired.insert(ban, serial));
    let began = Instant::now();
    enforcer.reconcile(&desired, &[], clock::now())?;
    eprintln!("put {} bans in force in {:.2} s", desired.iter().len(), began.elapsed().as_secs_f64());
    Ok(())
}

/// Addresses that may be banned, spread over the whole space.
pub(crate) fn addresses_v4() -> impl Iterator<Item = Ipv4Addr> {
    let allowlist = Allowlist::default();
    (0..u32::MAX)
        .map(|n| Ipv4Addr::from(n.wrapping_mul(SPREAD)))
        .filter(move |address| allowlist.admit(Client::from(*address), 64).is_ok())
}

/// The n-th prefix to be banned.
pub(crate) fn address_v6(n: usize) -> Ipv6Addr {
    let spread = (n as u32).wrapping_mul(SPREAD);
    Ipv6Addr::new(0x2001, 0xdb8, (spread >> 16) as u16, spread as u16, 0, 0, 0, 1)
}

/// A permanent ban of this address.
pub(crate) fn ban_v4(address: Ipv4Addr) -> Ban {
    ban(Client::from(address))
}

fn ban_v6(address: Ipv6Addr) -> Ban {
    ban(Client::of_addr(address.into(), 64))
}

fn ban(client: Client) -> Ban {
    let client = Allowlist::default().admit(client, 64).expect("only such as may be banned are generated");
    Ban { client, ends: Ends::after(clock::now(), 86_400_000) }
}
