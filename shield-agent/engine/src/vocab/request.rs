//! A log line as the engine sees it, and batches of them as a source hands them over.
//!
//! Parsing bytes into these is `source::format`'s business (three formats, a fast path and a tolerant one); this
//! file owns only the data, so that the engine depends on nothing outside itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::vocab::time::EventSecs;

/// One parsed access-log line. Borrows its text from the batch it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who asked, already taken out of a proxy chain and canonical (never an IPv4-mapped IPv6 address).
    pub addr: IpAddr,
    /// When, by the log's own clock, in whole seconds.
    pub time: EventSecs,
    /// The method as sent; may be empty or garbage.
    pub method: &'a [u8],
    /// The request target as sent, query included; may be empty, long, or not UTF-8.
    pub path: &'a [u8],
    /// The status answered (0 when the log had none).
    pub status: u16,
    /// Bytes sent in answer.
    pub size: u64,
    /// The address came out of a proxy's header, so its packets never reach this host under that address and
    /// dropping them here cannot work.
    pub behind_proxy: bool,
}

/// Why a line was not counted as a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    /// Not of the source's format, and the tolerant reader could not save it either.
    Malformed,
    /// No field with the client's address, or not an address.
    NoAddress,
    /// No field with a time, or not a time.
    NoTime,
    /// No field with a status, or not a number of 0..=999.
    NoStatus,
    /// Longer than `max_line_bytes`.
    TooLong,
    /// Nothing between two newlines.
    Empty,
}

impl Rejected {
    /// Every reason, in the order of [`Rejected::index`].
    pub const ALL: [Rejected; 6] = [
        Rejected::Malformed,
        Rejected::NoAddress,
        Rejected::NoTime,
        Rejected::NoStatus,
        Rejected::TooLong,
        Rejected::Empty,
    ];

    /// This reason's place in [`Rejected::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name used in metrics, JSON and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Rejected::Malformed => "malformed",
            Rejected::NoAddress => "no_address",
            Rejected::NoTime => "no_time",
            Rejected::NoStatus => "no_status",
            Rejected::TooLong => "too_long",
            Rejected::Empty => "empty",
        }
    }
}

/// How many lines were refused, by reason.
pub type RejectedCounts = [u64; Rejected::ALL.len()];

/// One parsed line without a borrow: its text lies at offsets of the batch's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// See [`Request::addr`].
    pub addr: IpAddr,
    /// See [`Request::time`].
    pub time: EventSecs,
    /// Where the method starts in the batch's bytes.
    pub method_at: u32,
    /// Its length in bytes.
    pub method_len: u16,
    /// Where the path starts in the batch's bytes.
    pub path_at: u32,
    /// Its length in bytes.
    pub path_len: u32,
    /// See [`Request::status`].
    pub status: u16,
    /// See [`Request::size`].
    pub size: u64,
    /// See [`Request::behind_proxy`].
    pub behind_proxy: bool,
    /// Read by the tolerant reader: the line was not valid in its format (an evasion attempt, or no `escape=json`).
    pub salvaged: bool,
}

/// Which source a batch came from: its index in the configuration, stable while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceId(pub u16);

/// Where reading goes on after a batch, to be committed with what the batch decided. Opaque to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The source's stable name (its configured path, pattern or socket).
    pub source: String,
    /// What the source wrote for itself, as JSON text.
    pub position: String,
}

/// A run of lines in the order they were written.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The source.
    pub source: Option<SourceId>,
    /// The raw bytes that the lines point into.
    pub bytes: Vec<u8>,
    /// The lines that were requests, in order.
    pub lines: Vec<Line>,
    /// The lines that were not.
    pub rejected: RejectedCounts,
    /// Where to go on after these lines; `None` when the source cannot be resumed (stdin, datagrams).
    pub checkpoint: Option<Checkpoint>,
    /// Written just now, as opposed to a backlog being caught up on or a replay: only then are the lines' times
    /// held against the wall clock.
    pub live: bool,
}

impl Batch {
    /// The requests, borrowing their text from the batch.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = Request<'_>> {
        self.lines.iter().map(|line| self.request(line))
    }

    /// One line's request.
    pub fn request<'a>(&'a self, line: &Line) -> Request<'a> {
        let text = |at: u32, len: usize| self.bytes.get(at as usize..at as usize + len).unwrap_or_default();
        Request {
            addr: line.addr,
            time: line.time,
            method: text(line.method_at, usize::from(line.method_len)),
            path: text(line.path_at, line.path_len as usize),
            status: line.status,
            size: line.size,
            behind_proxy: line.behind_proxy,
        }
    }
}
