//! `limit_req` for nginx out of past logs: what the good clients of each place of a site ask for at most, as a rate and a
//! burst, and what that limit would have done to them and to attackers.
//!
//! The logs are read five times: who attacks (the engine), which places there are, their rates, their bursts, and the proof.
//! So memory grows with addresses and places, and not with lines. `bucket` is nginx's arithmetic, `places` cuts the site,
//! `nginx` writes the configuration.

pub(crate) mod bucket;
pub(crate) mod nginx;
pub(crate) mod places;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::Serialize;

use self::bucket::{Answer, Bucket, Delay, Limit, Rate, Second, Within};
use self::places::{Candidates, MIN_CLIENTS, Place, Places};
use crate::replay::Outcome;
use shield_engine::client::Client;
use shield_engine::request::{Batch, Line};
use shield_engine::time::EventSecs;

/// The rates that a person would write, in order.
const RATES: [Rate; 16] = [
    Rate::PerMinute(6),
    Rate::PerMinute(10),
    Rate::PerMinute(20),
    Rate::PerMinute(30),
    Rate::PerSecond(1),
    Rate::PerSecond(2),
    Rate::PerSecond(3),
    Rate::PerSecond(5),
    Rate::PerSecond(10),
    Rate::PerSecond(20),
    Rate::PerSecond(30),
    Rate::PerSecond(50),
    Rate::PerSecond(100),
    Rate::PerSecond(200),
    Rate::PerSecond(500),
    Rate::PerSecond(1000),
];

/// A burst is at least this, and a multiple of it.
const BURST_STEP: u32 = 5;

/// A line that is older than the newest by more than this is of a log that was written at the same time as another.
const SIDE_BY_SIDE_SECS: EventSecs = 60;

/// What to do with requests beyond the burst that good clients need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// Delay as many again, and refuse the others.
    Delay,
    /// Refuse them.
    Refuse,
}

/// Reads the logs from their start, and gives each batch to the function.
pub(crate) type Reader<'r> = dyn FnMut(&mut dyn FnMut(&Batch)) -> Result<()> + 'r;

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Suggestion {
    pub limits: Vec<PlaceLimit>,
    /// Networks that no limit applies to, as Shield bans nobody in them.
    pub exempt: Vec<IpNet>,
    pub good_clients: u64,
    /// Those that at least one limit would have delayed.
    pub good_clients_delayed: u64,
    /// Those that at least one limit would have refused a request.
    pub good_clients_refused: u64,
    pub attackers: u64,
    pub attack_requests: u64,
    pub attack_requests_delayed: u64,
    pub attack_requests_refused: u64,
    /// Clients of which it is not clear what they are: on the allowlist, never served, slowed, or not banned for a reason.
    pub unclear_clients: u64,
    /// Requests whose client's address was taken out of a proxy's header.
    pub requests_by_proxy: u64,
    /// Lines of logs that were written side by side.
    pub lines_side_by_side: u64,
    /// The first and the last second of the logs.
    pub span: Option<(EventSecs, EventSecs)>,
}

/// The limit of one place, and what it would have done there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PlaceLimit {
    #[serde(flatten)]
    pub place: Place,
    /// Not where too few good clients tell what is normal; that can only be the rest.
    pub is_limited: bool,
    #[serde(serialize_with = "as_text")]
    pub rate: Rate,
    pub burst: u32,
    /// Requests beyond the rate that pass at once.
    pub undelayed: u32,
    /// Whether requests are delayed between these and the burst.
    pub delays: bool,
    /// The size of the zone in nginx's memory, in MiB.
    pub zone_mib: u64,
    pub good_clients: u64,
    /// The busiest minute of a good client: the value that 99.9 % of them do not exceed.
    pub busiest_minute: u32,
    pub good_clients_delayed: u64,
    pub good_clients_refused: u64,
    pub attack_requests: u64,
    pub attack_requests_delayed: u64,
    pub attack_requests_refused: u64,
}

impl PlaceLimit {
    fn limit(&self) -> Limit {
        let delay = if self.delays { Delay::Beyond(self.undelayed) } else { Delay::Never };
        Limit { rate: self.rate, burst: self.burst, delay }
    }
}

fn as_text<S: serde::Serializer>(rate: &Rate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(rate)
}

/// Who is what, by the engine's judgement of the whole log.
#[derive(Debug)]
pub(crate) struct Judged {
    attackers: HashSet<Client>,
    unclear: HashSet<Client>,
    /// Whoever got something; the others are no good clients, though no rule banned them.
    served: HashSet<Client>,
    exempt: Vec<IpNet>,
    ipv6_prefix: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Attacker,
    Unclear,
}

impl Judged {
    /// Takes over what a replay of the same logs found. Of a ban that was not made it is not clear whom it would have hit.
    pub(crate) fn new(outcome: &Outcome, mut exempt: Vec<IpNet>, ipv6_prefix: u8) -> Judged {
        let banned = |is_made: bool| {
            let bans = outcome.bans.iter().filter(move |ban| ban.not_made.is_none() == is_made);
            bans.map(|ban| ban.client)
        };
        exempt.sort();
        exempt.dedup();
        Judged {
            attackers: banned(true).collect(),
            unclear: banned(false).chain(outcome.slowed.iter().copied()).collect(),
            served: HashSet::new(),
            exempt,
            ipv6_prefix,
        }
    }

    fn client(&self, addr: IpAddr) -> Client {
        Client::of_addr(addr, self.ipv6_prefix)
    }

    fn is_exempt(&self, addr: IpAddr) -> bool {
        self.exempt.iter().any(|net| net.contains(&addr))
    }

    fn kind(&self, addr: IpAddr) -> Kind {
        let client = self.client(addr);
        if self.is_exempt(addr) {
            Kind::Unclear
        } else if self.attackers.contains(&client) {
            Kind::Attacker
        } else if self.unclear.contains(&client) || !self.served.contains(&client) {
            Kind::Unclear
        } else {
            Kind::Good
        }
    }
}

/// Learns limits from logs and proves them with the same logs.
///
/// # Errors
/// When a log cannot be read, or when too few good clients are in it.
pub(crate) fn suggest(mut judged: Judged, beyond: Beyond, read: &mut Reader<'_>) -> Result<Suggestion> {
    let candidates = served(&mut judged, read)?;
    if judged.served.len() < MIN_CLIENTS {
        bail!(
            "could not suggest limits: the logs hold {} good clients (served, and banned by no rule), and fewer than \
             {MIN_CLIENTS} do not tell what is normal: name more logs",
            judged.served.len()
        );
    }
    let mut places = candidates.chosen();
    let busiest = busiest_minutes(&judged, &mut places, read)?;
    let rates: Vec<Rate> = busiest.iter().map(|place| rate_for(place.p999)).collect();
    let bursts = needed_bursts(&judged, &mut places, &rates, read)?;
    let limits = places.all().iter().zip(&busiest).zip(rates.iter().zip(bursts));
    let limits =
        limits.map(|((place, busiest), (rate, burst))| limit(place, busiest, *rate, burst, beyond)).collect();
    prove(&judged, &mut places, limits, read)
}

fn limit(place: &Place, busiest: &Busiest, rate: Rate, needed: u32, beyond: Beyond) -> PlaceLimit {
    let undelayed = needed.max(1).div_ceil(BURST_STEP).saturating_mul(BURST_STEP);
    let delays = beyond == Beyond::Delay;
    PlaceLimit {
        place: place.clone(),
        is_limited: busiest.clients >= MIN_CLIENTS as u64,
        rate,
        burst: if delays { undelayed.saturating_mul(2) } else { undelayed },
        undelayed,
        delays,
        zone_mib: 0,
        good_clients: busiest.clients,
        busiest_minute: busiest.p999,
        good_clients_delayed: 0,
        good_clients_refused: 0,
        attack_requests: 0,
        attack_requests_delayed: 0,
        attack_requests_refused: 0,
    }
}

/// The least rate by which a minute of so many requests needs no burst.
fn rate_for(per_minute: u32) -> Rate {
    RATES.into_iter().find(|rate| rate.per_minute() >= per_minute).unwrap_or(RATES[RATES.len() - 1])
}

/// The value that 99.9 % do not exceed; of fewer than a thousand, the largest.
fn p999(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    let at = (values.len() * 999).div_ceil(1000).saturating_sub(1);
    values.get(at).copied().unwrap_or(0)
}

/// Notes who was served, and counts where.
fn served(judged: &mut Judged, read: &mut Reader<'_>) -> Result<Candidates> {
    let mut candidates = Candidates::default();
    read(&mut |batch| {
        for line in &batch.lines {
            let client = judged.client(line.addr);
            let is_suspect = judged.attackers.contains(&client) || judged.unclear.contains(&client);
            if (200..400).contains(&line.status) && !is_suspect && !judged.is_exempt(line.addr) {
                let request = batch.request(line);
                candidates.add(line.addr, request.method, request.path);
                judged.served.insert(client);
            }
        }
    })?;
    Ok(candidates)
}

/// What good clients ask for in one place.
struct Busiest {
    clients: u64,
    /// See [`PlaceLimit::busiest_minute`].
    p999: u32,
}

/// The busiest minute of one address in one place.
#[derive(Default)]
struct Minutes {
    minute: i64,
    requests: u32,
    most: u32,
}

impl Minutes {
    fn add(&mut self, line: &Line) {
        let minute = line.time.div_euclid(60);
        if minute != self.minute {
            (self.minute, self.requests) = (minute, 0);
        }
        self.requests = self.requests.saturating_add(1);
        self.most = self.most.max(self.requests);
    }
}

fn busiest_minutes(judged: &Judged, places: &mut Places, read: &mut Reader<'_>) -> Result<Vec<Busiest>> {
    let mut minutes: Vec<HashMap<IpAddr, Minutes>> = places.all().iter().map(|_| HashMap::new()).collect();
    read(&mut |batch| {
        for line in &batch.lines {
            if judged.kind(line.addr) == Kind::Good {
                minutes[places.of(batch.request(line).path)].entry(line.addr).or_default().add(line);
            }
        }
    })?;
    let busiest = |by_addr: HashMap<IpAddr, Minutes>| Busiest {
        clients: by_addr.len() as u64,
        p999: p999(by_addr.into_values().map(|minutes| minutes.most).collect()),
    };
    Ok(minutes.into_iter().map(busiest).collect())
}

/// One address in one place, while bursts are learned.
#[derive(Default)]
struct Learning {
    second: Second,
    bucket: Bucket,
    needed: u32,
}

impl Learning {
    fn account(&mut self, moments: impl Iterator<Item = i64>, rate: Rate) {
        for at_ms in moments {
            self.needed = self.needed.max(self.bucket.needed_burst(at_ms, rate));
        }
    }
}

/// The burst that 99.9 % of the good clients of each place do not exceed, by the rate.
fn needed_bursts(
    judged: &Judged,
    places: &mut Places,
    rates: &[Rate],
    read: &mut Reader<'_>,
) -> Result<Vec<u32>> {
    let mut learning: Vec<HashMap<IpAddr, Learning>> = rates.iter().map(|_| HashMap::new()).collect();
    read(&mut |batch| {
        for line in &batch.lines {
            if judged.kind(line.addr) == Kind::Good {
                let place = places.of(batch.request(line).path);
                let own = learning[place].entry(line.addr).or_default();
                let over = own.second.add(line.time, Within::Together);
                own.account(over, rates[place]);
            }
        }
    })?;
    let needed = |(by_addr, rate): (HashMap<IpAddr, Learning>, &Rate)| {
        let each = by_addr.into_values().map(|mut own| {
            let over = own.second.moments(Within::Together);
            own.account(over, *rate);
            own.needed
        });
        p999(each.collect())
    };
    Ok(learning.into_iter().zip(rates).map(needed).collect())
}

/// One address in one place, while limits are proved.
#[derive(Default)]
struct Tried {
    second: Second,
    bucket: Bucket,
    delayed: u64,
    refused: u64,
}

impl Tried {
    fn account(&mut self, moments: impl Iterator<Item = i64>, limit: Limit) {
        for at_ms in moments {
            match self.bucket.request(at_ms, limit) {
                Answer::Passed => {}
                Answer::Delayed => self.delayed += 1,
                Answer::Refused => self.refused += 1,
            }
        }
    }
}

/// Of what a log of whole seconds leaves open, what speaks against the limits is taken: a good client's requests come
/// together, an attacker's evenly.
fn within(kind: Kind) -> Within {
    if kind == Kind::Attacker { Within::Evenly } else { Within::Together }
}

fn prove(
    judged: &Judged,
    places: &mut Places,
    limits: Vec<PlaceLimit>,
    read: &mut Reader<'_>,
) -> Result<Suggestion> {
    let mut tried: Vec<HashMap<IpAddr, (Kind, Tried)>> = limits.iter().map(|_| HashMap::new()).collect();
    let mut suggestion = Suggestion {
        limits,
        exempt: judged.exempt.clone(),
        good_clients: 0,
        good_clients_delayed: 0,
        good_clients_refused: 0,
        attackers: judged.attackers.len() as u64,
        attack_requests: 0,
        attack_requests_delayed: 0,
        attack_requests_refused: 0,
        unclear_clients: 0,
        requests_by_proxy: 0,
        lines_side_by_side: 0,
        span: None,
    };
    let mut unclear = HashSet::new();
    read(&mut |batch| {
        for line in &batch.lines {
            suggestion.note(line);
            let kind = judged.kind(line.addr);
            if kind == Kind::Unclear {
                unclear.insert(judged.client(line.addr));
                continue;
            }
            let place = places.of(batch.request(line).path);
            suggestion.limits[place].attack_requests += u64::from(kind == Kind::Attacker);
            let (_, own) = tried[place].entry(line.addr).or_insert((kind, Tried::default()));
            if suggestion.limits[place].is_limited {
                let over = own.second.add(line.time, within(kind));
                own.account(over, suggestion.limits[place].limit());
            }
        }
    })?;
    suggestion.unclear_clients = unclear.len() as u64;
    suggestion.sum_up(tried, judged.ipv6_prefix);
    Ok(suggestion)
}

impl Suggestion {
    fn note(&mut self, line: &Line) {
        self.requests_by_proxy += u64::from(line.behind_proxy);
        let (first, last) = self.span.unwrap_or((line.time, line.time));
        self.lines_side_by_side += u64::from(line.time < last - SIDE_BY_SIDE_SECS);
        self.span = Some((first.min(line.time), last.max(line.time)));
    }

    fn sum_up(&mut self, tried: Vec<HashMap<IpAddr, (Kind, Tried)>>, ipv6_prefix: u8) {
        let (mut good, mut delayed, mut refused) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (limit, by_addr) in self.limits.iter_mut().zip(tried) {
            limit.zone_mib = zone_mib(by_addr.len() as u64);
            for (addr, (kind, mut own)) in by_addr {
                let over = own.second.moments(within(kind));
                own.account(over, limit.limit());
                if kind == Kind::Attacker {
                    limit.attack_requests_delayed += own.delayed;
                    limit.attack_requests_refused += own.refused;
                    continue;
                }
                let client = Client::of_addr(addr, ipv6_prefix);
                good.insert(client);
                if own.delayed > 0 {
                    limit.good_clients_delayed += 1;
                    delayed.insert(client);
                }
                if own.refused > 0 {
                    limit.good_clients_refused += 1;
                    refused.insert(client);
                }
            }
            self.attack_requests += limit.attack_requests;
            self.attack_requests_delayed += limit.attack_requests_delayed;
            self.attack_requests_refused += limit.attack_requests_refused;
        }
        self.good_clients = good.len() as u64;
        self.good_clients_delayed = delayed.len() as u64;
        self.good_clients_refused = refused.len() as u64;
    }
}

/// nginx's states are of 128 bytes; a zone that is full forgets the oldest. An attack brings new addresses: ten times those of
/// the log, and 10 MiB at least.
fn zone_mib(addrs: u64) -> u64 {
    (addrs * 10 * 128).div_ceil(1 << 20).clamp(10, 1024)
}

#[cfg(test)]
mod tests;
