//! Fields that do not hold what they should: a wrong name in `fields`, or a variable of another meaning in `log_format`.
//!
//! Each fault is looked for among the lines of different clients and needs most of them. A client chooses its own path, method
//! and, with broken requests, status; it does not choose those of others.

use std::net::{IpAddr, Ipv6Addr};

use super::hold::Hold;

use shield_engine::request::Request;
use shield_engine::time::EventSecs;

/// A field with the wrong values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldFault {
    /// The path holds the whole request line, `GET /x HTTP/1.1`.
    PathIsRequest,
    /// The path is empty although the request was served.
    PathEmpty,
    /// The method is a number.
    MethodIsNumber,
    /// The status is 0 in every line.
    StatusZero,
    /// The time stands still.
    TimeStands,
}

/// A round of looking has so many lines.
const ROUND: u32 = 100;

/// Lines of fewer served requests say nothing of paths.
const ENOUGH: u32 = 10;

/// Clients told apart in a round; the lines of others are passed over.
const MAX_CLIENTS: usize = 32;

/// The time that must pass, with so many lines, before a time that is always the same stands still.
const STANDS_MS: u64 = 600_000;
const STANDS_LINES: u64 = 20;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    lines: u32,
    served: u32,
    path_is_request: u32,
    path_empty: u32,
    method_is_number: u32,
    status_zero: u32,
}

impl Tally {
    fn add(&mut self, request: &Request<'_>) {
        let count = |is_so: bool| u32::from(is_so);
        let is_served = (200..400).contains(&request.status);
        self.lines += 1;
        self.served += count(is_served);
        self.path_is_request += count(is_request_line(request.path));
        self.path_empty += count(is_served && request.path.is_empty());
        self.method_is_number += count(is_number(request.method));
        self.status_zero += count(request.status == 0);
    }

    fn has(&self, fault: FieldFault) -> bool {
        let most = |bad: u32, of: u32| bad > 0 && bad * 10 >= of * 9;
        match fault {
            FieldFault::PathIsRequest => most(self.path_is_request, self.lines),
            FieldFault::PathEmpty => most(self.path_empty, self.served),
            FieldFault::MethodIsNumber => most(self.method_is_number, self.lines),
            FieldFault::StatusZero => most(self.status_zero, self.lines),
            FieldFault::TimeStands => false,
        }
    }

    /// Returns whether the lines could show this fault.
    fn is_about(&self, fault: FieldFault) -> bool {
        match fault {
            FieldFault::PathEmpty => self.served > 0,
            _ => self.lines > 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Fields {
    clients: Vec<(IpAddr, Tally)>,
    lines: u32,
    /// The fault of the last round, and whether there was one in which it could show.
    last: Option<Option<FieldFault>>,
    /// The last fault, which stands while `hold` is on.
    fault: Option<FieldFault>,
    hold: Hold,
    /// There was a round with several clients. From then on one client alone shows nothing.
    had_several: bool,
    times: Times,
}

impl Fields {
    pub(super) fn look_at(&mut self, request: &Request<'_>, is_live: bool, now_ms: u64) {
        if is_live {
            self.times.look_at(request.time, now_ms);
        }
        let addr = network_of(request.addr);
        let known = self.clients.iter().position(|(known, _)| *known == addr);
        let at = known.unwrap_or(self.clients.len());
        if at == self.clients.len() && at < MAX_CLIENTS {
            self.clients.push((addr, Tally::default()));
        }
        if let Some((_, tally)) = self.clients.get_mut(at) {
            tally.add(request);
        }
        self.lines += 1;
        if self.lines >= ROUND {
            self.end_round(now_ms);
        }
    }

    fn end_round(&mut self, now_ms: u64) {
        let has_several = self.clients.len() > 1;
        if has_several || !self.had_several {
            let fault = self.of_most_clients();
            self.fault = fault.or(self.fault);
            self.last = Some(fault);
        }
        self.had_several |= has_several;
        self.lines = 0;
        self.clients.clear();
        self.pass(now_ms);
    }

    /// Judges again at `now_ms`.
    pub(super) fn pass(&mut self, now_ms: u64) {
        let Some(last) = self.last else { return };
        self.hold.update(last.is_some(), last.is_none(), now_ms);
    }

    /// Returns a fault that most clients' lines have.
    fn of_most_clients(&self) -> Option<FieldFault> {
        use FieldFault::{MethodIsNumber, PathEmpty, PathIsRequest, StatusZero};
        let is_found = |fault: FieldFault| {
            let about = || self.clients.iter().filter(move |(_, tally)| tally.is_about(fault));
            let with = about().filter(|(_, tally)| tally.has(fault)).count();
            let lines: u32 = about().map(|(_, tally)| tally.lines).sum();
            // A scanner beside two visitors is no majority, and neither are two of three.
            lines >= ENOUGH && with * 4 > about().count() * 3
        };
        [PathIsRequest, MethodIsNumber, StatusZero, PathEmpty].into_iter().find(|fault| is_found(*fault))
    }

    pub(super) fn fault(&self) -> Option<FieldFault> {
        let held = self.fault.filter(|_| self.hold.is_on());
        held.or_else(|| self.times.stand().then_some(FieldFault::TimeStands))
    }

    /// Returns the fault of the lines so far, without waiting for a whole round.
    pub(super) fn at_a_glance(&self) -> Option<FieldFault> {
        let fault = self.of_most_clients();
        fault.or(self.last.flatten())
    }
}

/// Whether the times of live lines go on.
#[derive(Debug, Default)]
struct Times {
    first: Option<(EventSecs, u64)>,
    lines: u64,
    stood: bool,
}

impl Times {
    fn look_at(&mut self, time: EventSecs, now_ms: u64) {
        match self.first {
            Some((same, since_ms)) if same == time => {
                self.lines += 1;
                self.stood |= self.lines >= STANDS_LINES && now_ms.saturating_sub(since_ms) >= STANDS_MS;
            }
            _ => *self = Times { first: Some((time, now_ms)), lines: 1, stood: false },
        }
    }

    fn stand(&self) -> bool {
        self.stood
    }
}

/// Returns what is told apart as one client: an IPv6 client has a whole network of addresses.
fn network_of(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Returns whether a path is a whole request line. The path of a request that was split ends before the protocol; only a client that
/// sends one twice gets it into its own.
fn is_request_line(path: &[u8]) -> bool {
    let Some(space) = path.iter().position(|byte| *byte == b' ') else { return false };
    let (method, rest) = path.split_at(space);
    let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
    is_method && rest.windows(6).any(|window| window == b" HTTP/")
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}
