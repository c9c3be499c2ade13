//! Packets a second that one sender gets through a veth pair, the receiving side's work included: with nothing in the
//! way, with the XDP program, and with the netfilter enforcer's rules and sets.
//!
//! On a veth pair the receiver's work is done on the sender's processor, so the sender's pace is the whole path's.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::iptables::{
    Backend, IptablesEnforcer, Settings as IptablesSettings,
};
use shield_agent::test_support::enforce::xdp::{Mode, Selection, Settings, XdpEnforcer};
use shield_agent::test_support::enforce::{Ban, Enforcer};
use shield_tests::bpffs::Bpffs;
use shield_tests::netns::{End, Namespace, connect};

use crate::shield::{addresses_v4, ban_v4};

/// The number of other banned clients.
const OTHERS: usize = 10_000;
const ROUND: Duration = Duration::from_millis(250);
const ROUNDS: usize = 4;
/// Datagrams between two readings of the clock.
const BURST: u32 = 64;
const SERVER: &str = "192.0.2.1:7777";
const SENDER: &str = "192.0.2.2";

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    path: &'static str,
    case: &'static str,
    bans: usize,
    packets_per_sec: f64,
    ns_per_packet: f64,
}

/// Measures every path, each with the sender not banned (`miss`) and banned (`hit`).
pub(crate) fn measure() -> Result<Vec<Row>> {
    let mut rows = vec![Lane::new()?.row("nothing", "miss", 0)?];
    for (name, mode) in [("xdp native", Mode::Native), ("xdp generic", Mode::Generic)] {
        let lane = Lane::new()?;
        let settings = Settings {
            interfaces: Selection::Named(vec!["eth0".to_owned()]),
            mode,
            pin_folder: lane.bpffs.path().join("shield"),
            ..Settings::default()
        };
        lane.rows(name, &mut XdpEnforcer::new(settings), &mut rows)?;
    }
    for (name, backend) in [("rules", Backend::Rules), ("ipset", Backend::Ipset)] {
        let settings = IptablesSettings { backend, ..IptablesSettings::default() };
        Lane::new()?.rows(name, &mut IptablesEnforcer::new(settings), &mut rows)?;
    }
    Ok(rows)
}

/// Prints the rows as a table.
pub(crate) fn print_table(rows: &[Row]) {
    println!("\nwhole path over a veth pair, one sender of small UDP packets, {OTHERS} other clients banned");
    println!("{:<12} {:<5} {:>14} {:>10}", "path", "case", "packets/s", "ns");
    for row in rows {
        println!(
            "{:<12} {:<5} {:>14.0} {:>10.0}",
            row.path, row.case, row.packets_per_sec, row.ns_per_packet
        );
    }
}

/// A sender and a server.
struct Lane {
    server: Namespace,
    client: Namespace,
    bpffs: Bpffs,
}

impl Lane {
    fn new() -> Result<Lane> {
        let lane = Lane {
            server: Namespace::create("pathsrv")?,
            client: Namespace::create("pathcli")?,
            bpffs: Bpffs::mount()?,
        };
        connect(
            End { namespace: &lane.server, interface: "eth0", addresses: &["192.0.2.1/24"] },
            End { namespace: &lane.client, interface: "eth0", addresses: &["192.0.2.2/24"] },
        )?;
        Ok(lane)
    }

    /// Measures with this enforcer, the sender not banned and then banned.
    fn rows(&self, name: &'static str, enforcer: &mut dyn Enforcer, rows: &mut Vec<Row>) -> Result<()> {
        let others: Vec<Ban> = addresses_v4().take(OTHERS).map(ban_v4).collect();
        self.server.enter(|| -> Result<()> {
            enforcer.start(&[], clock::now()).with_context(|| format!("could not start {name}"))?;
            banned(enforcer, &others)
        })?;
        rows.push(self.row(name, "miss", OTHERS)?);
        let sender = ban_v4(SENDER.parse()?);
        self.server.enter(|| banned(enforcer, &[sender]))?;
        rows.push(self.row(name, "hit", OTHERS + 1)?);
        self.server.enter(|| enforcer.cleanup()).map(drop)
    }

    fn row(&self, path: &'static str, case: &'static str, bans: usize) -> Result<Row> {
        // The socket is not read: surplus packets are dropped at it, after they have passed the whole path.
        let received = self.server.enter(|| UdpSocket::bind(SERVER))?;
        received.set_nonblocking(true)?;
        let sending = self.client.enter(|| UdpSocket::bind((SENDER, 0)))?;
        sending.connect(SERVER)?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(nanoseconds(&sending)?);
        }
        let arrived = received.recv(&mut [0; 64]).is_ok();
        ensure!(arrived == (case == "miss"), "{path}: packets of a {case} {} through", got(arrived));
        Ok(Row { path, case, bans, packets_per_sec: 1e9 / best, ns_per_packet: best })
    }
}

fn got(arrived: bool) -> &'static str {
    if arrived { "came" } else { "did not come" }
}

fn banned(enforcer: &mut dyn Enforcer, bans: &[Ban]) -> Result<()> {
    let failures = enforcer.ensure_banned(bans, clock::now());
    ensure!(failures.is_empty(), "could not ban: {:?}", failures.first());
    Ok(())
}

/// Nanoseconds a packet over one round.
fn nanoseconds(socket: &UdpSocket) -> Result<f64> {
    let began = Instant::now();
    let mut sent = 0u32;
    while began.elapsed() < ROUND {
        for _ in 0..BURST {
            socket.send(b"eighteen bytes ...").context("could not send a packet")?;
        }
        sent += BURST;
    }
    Ok(began.elapsed().as_nanos() as f64 / f64::from(sent))
}
