//! Nanoseconds per packet by `BPF_PROG_TEST_RUN`. The same packet is repeated, so caches are warm for all programs.
//!
//! Each short run of a program is placed between two runs of the empty one on the same packet, and compared with them: a
//! change of the CPU's frequency or load affects both. The result is the median of many such differences with its quartiles, of
//! the ratios, and the best time. The difference is what the program costs; the ratio also depends on what an empty one costs on
//! the machine.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use shield_tests::netns::{End, Namespace, connect};
use shield_tests::wait;

use crate::shield::{self, Shield};

/// Ratios taken of each program.
const ROUNDS: usize = 41;
/// Packets per run. A run takes a few milliseconds, less than most disturbances on a machine last.
const PACKETS: u32 = 50_000;
/// The empty program, which `cargo xtask bench xdp` builds.
const EMPTY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/empty");
/// The only address of each family that xdp-filter denies.
const DENIED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const DENIED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
/// Addresses that are never banned here.
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb9, 1, 2, 0, 0, 0, 9);

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    program: &'static str,
    family: &'static str,
    vlan: bool,
    case: &'static str,
    bans: usize,
    /// Nanoseconds above the empty program: median over the rounds.
    above_empty_ns: f64,
    /// First quartile.
    above_low_ns: f64,
    /// Third quartile.
    above_high_ns: f64,
    /// The best run.
    ns: f64,
    /// Median over the rounds.
    ratio_to_empty: f64,
}

/// A program and a packet to measure.
struct Subject<'a> {
    row: Row,
    program: &'a Xdp,
    packet: Vec<u8>,
    ratios: Vec<f64>,
    above: Vec<f64>,
}

/// Measures everything with up to `most` bans.
pub(crate) fn measure(most: usize) -> Result<Vec<Row>> {
    let mut empty = EbpfLoader::new()
        .load_file(EMPTY)
        .with_context(|| format!("could not load {EMPTY} (`cargo xtask bench xdp` builds it)"))?;
    load(&mut empty, "empty")?;
    let mut counts = vec![0, 1_000, most];
    counts.dedup();
    let shields = counts.into_iter().map(Shield::with_bans).collect::<Result<Vec<_>>>()?;
    let filter = Filter::start();
    if let Err(error) = &filter {
        eprintln!("xdp-filter is left out: {error:#}");
    }
    let mut subjects = Vec::new();
    let empty = program(&empty, "empty")?;
    subjects.push(subject("empty", empty, "hit", 0, ELSEWHERE_V4.into(), Tag::None));
    for shield in &shields {
        let program = program(&shield.ebpf, "shield_frags")?;
        for tag in [Tag::None, Tag::One] {
            for address in [IpAddr::from(ELSEWHERE_V4), ELSEWHERE_V6.into()] {
                subjects.push(subject("shield", program, "miss", shield.bans, address, tag));
            }
            if shield.bans > 0 {
                let first = shield::addresses_v4().next().context("could not make an address")?;
                subjects.push(subject("shield", program, "hit", shield.bans, first.into(), tag));
                let first = shield::address_v6(0).into();
                subjects.push(subject("shield", program, "hit", shield.bans, first, tag));
            }
        }
    }
    if let Ok(filter) = &filter {
        subjects.extend(filter.subjects());
    }
    for _ in 0..ROUNDS {
        for subject in &mut subjects {
            subject.run_beside(empty)?;
        }
    }
    Ok(subjects.into_iter().map(Subject::finish).collect())
}

/// Prints the rows as a table.
pub(crate) fn print_table(rows: &[Row]) {
    println!(
        "{:<11} {:<6} {:<5} {:<5} {:>9} {:>9}  {:<14} {:>8} {:>7}",
        "program", "family", "vlan", "case", "bans", "ns above", "half within", "best ns", "ratio"
    );
    for row in rows {
        let vlan = if row.vlan { "one" } else { "none" };
        println!(
            "{:<11} {:<6} {:<5} {:<5} {:>9} {:>+9.1}  {:<14} {:>8.1} {:>6.2}x",
            row.program,
            row.family,
            vlan,
            row.case,
            row.bans,
            row.above_empty_ns,
            format!("{:.1} to {:.1}", row.above_low_ns, row.above_high_ns),
            row.ns,
            row.ratio_to_empty,
        );
    }
    for family in ["ipv4", "ipv6"] {
        let of = |program: &str| {
            let hits = rows.iter().filter(|row| row.program == program && row.case == "hit" && !row.vlan);
            hits.filter(|row| row.family == family).max_by_key(|row| row.bans)
        };
        if let (Some(shield), Some(filter)) = (of("shield"), of("xdp-filter")) {
            println!("{family}: a hit takes {:.2}x of xdp-filter's whole time", shield.ns / filter.ns);
        }
    }
}

impl Subject<'_> {
    /// One round: a run between two runs of the empty program.
    fn run_beside(&mut self, empty: &Xdp) -> Result<()> {
        let before = nanoseconds(empty, &self.packet)?;
        let ns = nanoseconds(self.program, &self.packet)?;
        let after = nanoseconds(empty, &self.packet)?;
        self.row.ns = self.row.ns.min(ns);
        self.ratios.push(2.0 * ns / (before + after));
        self.above.push(ns - (before + after) / 2.0);
        Ok(())
    }

    fn finish(mut self) -> Row {
        self.ratios.sort_by(f64::total_cmp);
        self.above.sort_by(f64::total_cmp);
        let at = |sorted: &[f64], quarters: usize| sorted[(sorted.len() - 1) * quarters / 4];
        Row {
            above_empty_ns: at(&self.above, 2),
            above_low_ns: at(&self.above, 1),
            above_high_ns: at(&self.above, 3),
            ratio_to_empty: at(&self.ratios, 2),
            ..self.row
        }
    }
}

/// This thread's CPU time divided by the packets. The kernel's own figure is rounded to whole nanoseconds, and wall time
/// would include other processes.
fn nanoseconds(program: &Xdp, packet: &[u8]) -> Result<f64> {
    let options = TestRunOptions { data_in: Some(packet), repeat: PACKETS, ..TestRunOptions::default() };
    let began = processor_time()?;
    program.test_run(options).context("could not run a program on a packet")?;
    Ok((processor_time()? - began).as_nanos() as f64 / f64::from(PACKETS))
}

fn processor_time() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("could not read this thread's clock")?;
    Ok(Duration::from(time))
}

fn subject<'a>(
    name: &'static str,
    program: &'a Xdp,
    case: &'static str,
    bans: usize,
    source: IpAddr,
    tag: Tag,
) -> Subject<'a> {
    let family = if source.is_ipv4() { "ipv4" } else { "ipv6" };
    let vlan = tag == Tag::One;
    let row = Row {
        program: name,
        family,
        vlan,
        case,
        bans,
        above_empty_ns: f64::NAN,
        above_low_ns: f64::NAN,
        above_high_ns: f64::NAN,
        ns: f64::INFINITY,
        ratio_to_empty: f64::NAN,
    };
    Subject { row, program, packet: packet(source, tag), ratios: Vec::new(), above: Vec::new() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    None,
    One,
}

/// A UDP packet of 64 bytes or a little more.
fn packet(source: IpAddr, tag: Tag) -> Vec<u8> {
    let mut packet = vec![2; 12];
    if tag == Tag::One {
        packet.extend([0x81, 0x00, 0x00, 0x07]);
    }
    match source {
        IpAddr::V4(source) => {
            packet.extend([0x08, 0x00]);
            packet.extend([0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
            packet.extend(source.octets());
            packet.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(source) => {
            packet.extend([0x86, 0xdd]);
            packet.extend([0x60, 0, 0, 0, 0, 30, 17, 64]);
            packet.extend(source.octets());
            packet.extend(DENIED_V6.octets());
        }
    }
    packet.extend([0; 30]);
    packet
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut Xdp =
        ebpf.program_mut(name).with_context(|| format!("could not find {name} in the object"))?.try_into()?;
    Ok(program.load()?)
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    Ok(ebpf.program(name).with_context(|| format!("could not find {name} in the object"))?.try_into()?)
}

/// xdp-tools' xdp-filter with one denied source of each family, each on an interface of its own.
struct Filter {
    v4: Xdp,
    v6: Xdp,
    /// Keeps the mount namespace with xdp-filter's pins alive.
    holder: Child,
    _namespace: Namespace,
}

impl Filter {
    fn start() -> Result<Filter> {
        let namespace = Namespace::create("filter")?;
        let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
        connect(end("v4"), end("v4peer"))?;
        connect(end("v6"), end("v6peer"))?;
        // `ip netns exec` mounts a /sys of its own, so the pins are invisible to other processes.
        let script = format!(
            "mount -t bpf bpf /sys/fs/bpf && xdp-filter load -m skb -p allow -f ipv4 v4 && \
             xdp-filter load -m skb -p allow -f ipv6 v6 && xdp-filter ip -m src {DENIED_V4} && \
             xdp-filter ip -m src {DENIED_V6} && echo ready && exec sleep 600"
        );
        let mut holder = Command::new("ip")
            .args(["netns", "exec", namespace.name(), "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start xdp-filter (is xdp-tools installed? `cargo xtask setup`)")?;
        let mut line = String::new();
        let output = holder.stdout.take().context("could not take the output of xdp-filter")?;
        BufReader::new(output).read_line(&mut line).context("could not read the output of xdp-filter")?;
        if line.trim() != "ready" {
            let _ = holder.wait();
            bail!("xdp-filter did not start");
        }
        Ok(Filter {
            v4: attached(&namespace, "v4")?,
            v6: attached(&namespace, "v6")?,
            holder,
            _namespace: namespace,
        })
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let name = "xdp-filter";
        [Tag::None, Tag::One]
            .into_iter()
            .flat_map(|tag| {
                [
                    subject(name, &self.v4, "miss", 1, ELSEWHERE_V4.into(), tag),
                    subject(name, &self.v4, "hit", 1, DENIED_V4.into(), tag),
                    subject(name, &self.v6, "miss", 1, ELSEWHERE_V6.into(), tag),
                    subject(name, &self.v6, "hit", 1, DENIED_V6.into(), tag),
                ]
            })
            .collect()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The XDP program on an interface, opened by its id.
fn attached(namespace: &Namespace, interface: &str) -> Result<Xdp> {
    let id = wait::until("xdp-filter's program", Duration::from_secs(5), || {
        let link = namespace.run(&["ip", "-d", "link", "show", "dev", interface])?;
        let id = link
            .split_once("prog/xdp id ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        Ok(id)
    })?;
    let id: u32 = id;
    let info = loaded_programs()
        .flatten()
        .find(|info| info.id() == id)
        .context("could not find the program by its id")?;
    let name = std::borrow::Cow::Borrowed("xdp-filter");
    Ok(Xdp::from_program_info(info, name, XdpAttachType::Interface)?)
}
