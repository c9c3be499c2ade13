//! Visitors replayed from the operator's own access log: each client of it gets an address of its own in the environment, asks
//! for what it asked for, and at its own pace. The app behind nginx gives the answer that the log has.
//!
//! Whoever was mostly refused in the log is left out: most such clients are scanners, and a ban of one would hurt no visitor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use shield_logline::{Output, Parser, Settings};

use crate::app::{WANTED_SIZE, WANTED_STATUS};
use crate::attack::{networks, port};
use crate::environment::{Environment, Machine, Role};
use crate::guard;
use crate::wire::{Request, is_timeout};

/// The end of the log that is read; a longer one holds more than can be replayed.
const MOST_BYTES: u64 = 64 << 20;
/// Requests a second that a rehearsal sends at the most; a busier log is thinned out by whole clients.
const MOST_PER_SEC: usize = 100;
/// Requests at a time.
const THREADS: usize = 24;
/// A visitor counts a later answer as lost, unless it is told to be more patient.
const PATIENCE: Duration = Duration::from_secs(3);
/// A request with a longer target is not sent: nginx refuses it.
const LONGEST_TARGET: usize = 4_000;

/// A request of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Visit {
    /// Whole seconds since the first one.
    after_secs: u64,
    client: IpAddr,
    method: &'static str,
    target: String,
    status: u16,
    size: u64,
}

/// What is replayed of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    visits: Vec<Visit>,
    /// Clients that are replayed.
    pub clients: usize,
    /// Clients that were left out because most of their requests were refused.
    pub refused_clients: usize,
    /// Clients that were left out because the log is busier than a rehearsal.
    pub surplus_clients: usize,
    /// A later answer counts as lost.
    pub patience: Duration,
}

/// What the visitors met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Clients that sent something.
    pub clients: usize,
    /// Requests that they sent.
    pub sent: usize,
    /// Those without an answer in time, as when packets are dropped.
    pub lost: usize,
    /// Those that were refused or cut off.
    pub failed: usize,
    /// The addresses that lost any.
    pub hurt: BTreeSet<IpAddr>,
    /// When the requests without an answer began, in milliseconds since 1970: the first ten thousand of them.
    #[serde(skip)]
    pub losses: Vec<(IpAddr, i64)>,
}

/// Losses that are kept one by one.
const MOST_LOSSES: usize = 10_000;

impl Replay {
    /// Reads the last part of a log and takes its busiest stretch of this length.
    ///
    /// # Errors
    /// Fails if the log cannot be read or has no request in it.
    pub fn read(log: &Path, length: Duration) -> Result<Replay> {
        let mut bytes = tail(log).with_context(|| format!("could not read {}", log.display()))?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            bytes.push(b'\n');
        }
        let mut out = Output::default();
        let end = bytes.len();
        Parser::new(&Settings::default()).parse_block(&mut bytes, 0, end, &mut out);
        let visits: Vec<Visit> = out.lines.iter().filter_map(|line| visit(&bytes, line)).collect();
        ensure!(!visits.is_empty(), "could not find a request in {}: is it an access log?", log.display());
        Ok(Replay::of(visits, length.as_secs().max(1)))
    }

    /// Twelve visitors who each look at a page every three seconds, for where there is no log.
    pub fn ordinary(length: Duration) -> Replay {
        const CLIENTS: u8 = 12;
        const EVERY_SECS: usize = 3;
        let visits = (0..length.as_secs()).step_by(EVERY_SECS).flat_map(|after_secs| {
            (1..=CLIENTS).map(move |n| Visit {
                after_secs,
                client: IpAddr::from([192, 0, 2, n]),
                method: "GET",
                target: "/".to_owned(),
                status: 200,
                size: 2_000,
            })
        });
        Replay::of(visits.collect(), length.as_secs().max(1))
    }

    fn of(mut visits: Vec<Visit>, secs: u64) -> Replay {
        visits.sort_by_key(|visit| visit.after_secs);
        let mut replay = Replay {
            visits: busiest(&visits, secs),
            clients: 0,
            refused_clients: 0,
            surplus_clients: 0,
            patience: PATIENCE,
        };
        replay.leave_out_refused();
        replay.thin_out(secs);
        let first = replay.visits.first().map_or(0, |visit| visit.after_secs);
        replay.visits.iter_mut().for_each(|visit| visit.after_secs -= first);
        replay
    }

    fn leave_out_refused(&mut self) {
        let mut counts: BTreeMap<IpAddr, (usize, usize)> = BTreeMap::new();
        for visit in &self.visits {
            let (all, refused) = counts.entry(visit.client).or_default();
            *all += 1;
            *refused += usize::from(visit.status >= 400);
        }
        let is_visitor =
            |client: &IpAddr| counts.get(client).is_some_and(|(all, refused)| refused * 4 <= *all);
        self.visits.retain(|visit| is_visitor(&visit.client));
        self.clients = counts.keys().filter(|client| is_visitor(client)).count();
        self.refused_clients = counts.len() - self.clients;
    }

    /// Whole clients go, so that the pace of those that stay is their own.
    fn thin_out(&mut self, secs: u64) {
        let most = MOST_PER_SEC * secs as usize;
        let mut kept = BTreeSet::new();
        let mut sum = 0;
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        self.visits.iter().for_each(|visit| *counts.entry(visit.client).or_default() += 1);
        for (client, count) in counts {
            if sum + count <= most {
                sum += count;
                kept.insert(client);
            }
        }
        self.surplus_clients = self.clients - kept.len();
        self.clients = kept.len();
        self.visits.retain(|visit| kept.contains(&visit.client));
    }

    /// Sends the requests, the first at once, until the last or until `is_over`.
    ///
    /// # Errors
    /// Fails if the environment has no machine with addresses for the visitors, or the guard refuses it.
    pub fn run(&self, environment: &Environment, is_over: &AtomicBool) -> Result<Outcome> {
        let machine = machine(environment)?;
        let addresses = self.addresses(&machine)?;
        let namespace = guard::namespace(environment, &machine.name)?;
        let work = Work {
            replay: self,
            addresses,
            servers: servers(environment),
            host: environment.host.as_deref().unwrap_or("localhost"),
            began: Instant::now(),
            next: AtomicUsize::new(0),
            is_over,
            outcome: Mutex::new(Outcome::default()),
        };
        namespace.enter(|| {
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| work.send_until_over());
                }
            });
        })?;
        Ok(work.outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The address that each client has in the environment.
    fn addresses(&self, machine: &Machine) -> Result<BTreeMap<IpAddr, IpAddr>> {
        let clients: BTreeSet<IpAddr> = self.visits.iter().map(|visit| visit.client).collect();
        let (mut v4, mut v6) = (0, 0);
        let networks = networks(machine);
        let map = |client: IpAddr| {
            let number = if client.is_ipv4() { &mut v4 } else { &mut v6 };
            *number += 1;
            let mapped = networks.iter().find_map(|network| address(*network, *number, client.is_ipv6()));
            let mapped = mapped.with_context(|| {
                format!("could not find an address for visitor {number} on {}", machine.name)
            })?;
            Ok((client, mapped))
        };
        clients.into_iter().map(map).collect()
    }
}

/// The machine whose networks hold the visitors' addresses.
fn machine(environment: &Environment) -> Result<Machine> {
    let has_networks = |machine: &&Machine| machine.role == Role::Visitor && !machine.networks.is_empty();
    let found = environment.machines.iter().find(has_networks);
    found.cloned().context("could not find a machine with addresses for the visitors")
}

/// Address `number` of a network; of an IPv6 network, that of its /64 of this number.
fn address(network: IpNet, number: u32, is_ipv6: bool) -> Option<IpAddr> {
    match (network, is_ipv6) {
        (IpNet::V4(network), false) => {
            let address = Ipv4Addr::from_bits(network.network().to_bits().checked_add(number)?);
            (network.contains(&address) && address != network.broadcast()).then_some(IpAddr::V4(address))
        }
        (IpNet::V6(network), true) => {
            let address = network.network().to_bits().checked_add((u128::from(number) << 64) | 1)?;
            let address = Ipv6Addr::from_bits(address);
            network.contains(&address).then_some(IpAddr::V6(address))
        }
        _ => None,
    }
}

/// Where clients connect to, in both families as far as the environment has them.
fn servers(environment: &Environment) -> Vec<SocketAddr> {
    let port = port(environment);
    environment.entry().iter().map(|address| SocketAddr::new(*address, port)).collect()
}

struct Work<'a> {
    replay: &'a Replay,
    addresses: BTreeMap<IpAddr, IpAddr>,
    servers: Vec<SocketAddr>,
    host: &'a str,
    began: Instant,
    next: AtomicUsize,
    is_over: &'a AtomicBool,
    outcome: Mutex<Outcome>,
}

impl Work<'_> {
    fn send_until_over(&self) {
        while let Some((visit, due)) = self.take() {
            while Instant::now() < due {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(PAUSE));
            }
            self.send(visit);
        }
    }

    /// The next visit and when it is due: those of one second are spread over it.
    fn take(&self) -> Option<(&Visit, Instant)> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let visit = self.replay.visits.get(n).filter(|_| !self.is_over.load(Ordering::Relaxed))?;
        let within = Duration::from_millis(n as u64 * 37 % 1_000);
        Some((visit, self.began + Duration::from_secs(visit.after_secs) + within))
    }

    fn send(&self, visit: &Visit) {
        let Some(from) = self.addresses.get(&visit.client) else { return };
        let server = self.servers.iter().find(|server| server.is_ipv6() == from.is_ipv6());
        let Some(server) = server else { return };
        let (status, size) = (visit.status.to_string(), visit.size.to_string());
        let headers = [(WANTED_STATUS, status.as_str()), (WANTED_SIZE, size.as_str())];
        let request = Request {
            method: visit.method,
            host: self.host,
            agent: "Mozilla/5.0 (replayed visitor)",
            headers: &headers,
            ..Request::get(&visit.target)
        };
        let began_ms = crate::attack::now_ms();
        let result = request.send(*server, Some(*from), self.replay.patience);
        let mut outcome = self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcome.note(*from, began_ms, &result);
        outcome.clients = self.replay.clients;
    }
}

/// How soon a sleeping visitor notices the end.
const PAUSE: Duration = Duration::from_millis(200);

impl Outcome {
    fn note<T>(&mut self, from: IpAddr, began_ms: i64, result: &Result<T>) {
        self.sent += 1;
        let Err(error) = result else { return };
        self.hurt.insert(from);
        if self.losses.len() < MOST_LOSSES {
            self.losses.push((from, began_ms));
        }
        if is_timeout(error) { self.lost += 1 } else { self.failed += 1 }
    }
}

/// The end of a file, from the begin of a line on.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(MOST_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    if from > 0 {
        let begin = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        bytes.drain(..begin);
    }
    Ok(bytes)
}

fn visit(bytes: &[u8], line: &shield_engine::request::Line) -> Option<Visit> {
    let text =
        |at: u32, length: usize| std::str::from_utf8(bytes.get(at as usize..at as usize + length)?).ok();
    let target = text(line.path_at, line.path_len as usize)?;
    let is_target = target.starts_with('/')
        && target.len() <= LONGEST_TARGET
        && target.bytes().all(|byte| byte.is_ascii_graphic());
    let method = match text(line.method_at, line.method_len.into())? {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        // What others change is no matter of a rehearsal.
        _ => return None,
    };
    is_target.then(|| Visit {
        after_secs: u64::try_from(line.time).unwrap_or(0),
        client: line.addr.to_canonical(),
        method,
        target: target.to_owned(),
        status: line.status,
        size: line.size,
    })
}

/// The stretch of this length with the most requests.
fn busiest(visits: &[Visit], secs: u64) -> Vec<Visit> {
    let (mut best, mut begin) = (0..0, 0);
    for (end, visit) in visits.iter().enumerate() {
        while visits.get(begin).is_some_and(|first| visit.after_secs - first.after_secs >= secs) {
            begin += 1;
        }
        if end + 1 - begin > best.len() {
            best = begin..end + 1;
        }
    }
    visits.get(best).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(client: &str, times: impl IntoIterator<Item = u64>, status: u16) -> Vec<Visit> {
        let of = |after_secs| Visit {
            after_secs,
            client: client.parse().unwrap(),
            method: "GET",
            target: "/".to_owned(),
            status,
            size: 1,
        };
        times.into_iter().map(of).collect()
    }

    #[test]
    fn the_busiest_stretch_is_replayed_without_those_who_were_refused() {
        let all = [
            visits("192.0.2.1", [1_000, 5_000, 5_001, 5_009], 200),
            visits("192.0.2.2", [5_002, 5_003], 404),
            visits("192.0.2.3", [9_000], 200),
        ]
        .concat();
        let replay = Replay::of(all, 10);
        assert_eq!((replay.clients, replay.refused_clients, replay.surplus_clients), (1, 1, 0));
        let times: Vec<u64> = replay.visits.iter().map(|visit| visit.after_secs).collect();
        assert_eq!(times, [0, 1, 9]);
    }

    #[test]
    fn a_log_that_is_too_busy_loses_whole_clients() {
        let each = |n: u8| visits(&format!("192.0.2.{n}"), std::iter::repeat_n(0, 60), 200);
        let replay = Replay::of((1..=5).flat_map(each).collect(), 1);
        assert_eq!((replay.clients, replay.surplus_clients, replay.visits.len()), (1, 4, 60));
    }

    #[test]
    fn a_log_in_a_usual_format_is_read_and_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let line = |client: &str, time: &str, request: &str| {
            format!("{client} - - [29/Nov/2026:10:00:{time} +0000] \"{request}\" 200 12 \"-\" \"x\"\n")
        };
        let text = line("192.0.2.1", "01", "GET /a?b=c HTTP/1.1")
            + &line("2001:db8::1", "02", "DELETE /a HTTP/1.1")
            + &line("2001:db8::1", "04", "POST /b HTTP/1.1");
        std::fs::write(&log, text).unwrap();
        let replay = Replay::read(&log, Duration::from_secs(60)).unwrap();
        let read: Vec<(u64, &str, &str)> = replay
            .visits
            .iter()
            .map(|visit| (visit.after_secs, visit.method, visit.target.as_str()))
            .collect();
        assert_eq!(read, [(0, "GET", "/a?b=c"), (3, "POST", "/b")]);
        std::fs::write(&log, "no log\n").unwrap();
        let error = Replay::read(&log, Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("could not find a request"), "{error}");
    }

    #[test]
    fn each_client_has_an_address_of_its_own_in_the_machines_networks() {
        let machine = Machine {
            name: "visitors".to_owned(),
            role: Role::Visitor,
            namespace: String::new(),
            addresses: vec![],
            networks: vec!["198.18.0.0/16".to_owned(), "2001:db8:c0de::/48".to_owned()],
        };
        let all: Vec<Visit> = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
            .iter()
            .flat_map(|client| visits(client, [0], 200))
            .collect();
        let mapped = Replay::of(all, 1).addresses(&machine).unwrap();
        let mapped: Vec<String> = mapped.values().map(ToString::to_string).collect();
        assert_eq!(mapped, ["198.18.0.1", "198.18.0.2", "2001:db8:c0de:1::1", "2001:db8:c0de:2::1"]);
        assert_eq!(address("198.18.0.0/30".parse().unwrap(), 3, false), None);
    }
}
