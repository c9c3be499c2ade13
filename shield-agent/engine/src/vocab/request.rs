//! A log line as the engine sees it, and the batches in which sources deliver lines.
//!
//! Parsing is the work of `shield-logline`, which depends on this crate and not the other way round.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::detect::path_reader::ReadPaths;
use crate::timeline::Placement;
use crate::vocab::time::EventSecs;

/// A parsed access-log line. It borrows its text from the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's address, taken out of a proxy chain and canonical (never an IPv4-mapped IPv6 address).
    pub addr: IpAddr,
    /// By the log's own clock.
    pub time: EventSecs,
    /// As sent; may be empty or garbage.
    pub method: &'a [u8],
    /// The request target as sent, with its query; may be empty, long, or not UTF-8.
    pub path: &'a [u8],
    /// 0 when the log had none.
    pub status: u16,
    /// The size of the response in bytes.
    pub size: u64,
    /// The address came out of a proxy's header: its packets never reach this host under that address, so dropping
    /// them here would have no effect.
    pub behind_proxy: bool,
}

/// The reason why a line was not counted as a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    /// Not of the source's format, and not recovered by the tolerant reader.
    Malformed,
    /// No field with an IP address.
    NoAddress,
    /// No field with a time.
    NoTime,
    /// No field with a status of 0..=999.
    NoStatus,
    /// Longer than `max_line_bytes`.
    TooLong,
    Empty,
}

impl Rejected {
    /// In the order of [`Rejected::index`].
    pub const ALL: [Rejected; 6] = [
        Rejected::Malformed,
        Rejected::NoAddress,
        Rejected::NoTime,
        Rejected::NoStatus,
        Rejected::TooLong,
        Rejected::Empty,
    ];

    /// The position in [`Rejected::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name in metrics, JSON and on the page.
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

/// Refused lines by reason.
pub type RejectedCounts = [u64; Rejected::ALL.len()];

/// The beginning of a refused line, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLine {
    pub reason: Rejected,
    /// As written, cut to [`RefusedLine::MAX_BYTES`].
    pub text: Box<[u8]>,
}

impl RefusedLine {
    /// Enough to recognise a format by: address, time and request of `combined`, the first fields of JSON.
    pub const MAX_BYTES: usize = 160;

    pub fn new(reason: Rejected, line: &[u8]) -> RefusedLine {
        RefusedLine { reason, text: line.get(..Self::MAX_BYTES).unwrap_or(line).into() }
    }
}

/// A parsed line that refers to its text by offsets into the batch's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub addr: IpAddr,
    pub time: EventSecs,
    /// The offset of the method.
    pub method_at: u32,
    pub method_len: u16,
    /// The offset of the path.
    pub path_at: u32,
    pub path_len: u32,
    /// The offset of the name of the server section that answered (`$server_name`).
    pub server_at: u32,
    /// 0 where the log does not have it.
    pub server_len: u8,
    /// The offset of the connection's address (`$realip_remote_addr`).
    pub peer_at: u32,
    /// 0 where the log does not have it.
    pub peer_len: u8,
    pub status: u16,
    pub size: u64,
    /// See [`Request::behind_proxy`].
    pub behind_proxy: bool,
    /// Read by the tolerant reader, because the line was malformed: an attempt at evasion, or no `escape=json`.
    pub salvaged: bool,
}

/// A source by its position in the configuration; stable while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceId(pub u16);

/// The position at which a source resumes, committed together with the decisions up to it. Opaque to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The source's stable name: its configured path, pattern or socket.
    pub source: String,
    /// The source's own encoding, as JSON text.
    pub position: String,
}

/// How a request's connection came to this host, as far as the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client itself.
    Direct,
    /// From this proxy.
    Proxied(IpAddr),
    Unknown,
}

impl Way {
    /// The proxy.
    pub fn peer(self) -> Option<IpAddr> {
        match self {
            Way::Proxied(peer) => Some(peer),
            Way::Direct | Way::Unknown => None,
        }
    }
}

/// A run of lines in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub source: Option<SourceId>,
    /// Which of the source's logs the lines are of. Only those of one log are in order.
    pub log: u32,
    /// The raw bytes that the lines refer to.
    pub bytes: Vec<u8>,
    /// The requests, in order.
    pub lines: Vec<Line>,
    /// The lines that were no requests.
    pub rejected: RejectedCounts,
    /// The first of the refused lines that are not empty.
    pub first_refused: Option<RefusedLine>,
    /// The name of the format that the requests were read by.
    pub format: Option<&'static str>,
    /// The position after these lines; `None` for a source that cannot resume (stdin, datagrams).
    pub checkpoint: Option<Checkpoint>,
    /// Written just now, not read from a backlog or a replay: only live lines are compared with the wall clock, because
    /// old ones are expected to be far from it.
    pub live: bool,
    /// Where the batch's only line counts, when its reader has looked at the lines behind it: a replay delivers line by line.
    pub placed: Option<Placement>,
    /// What was found lost on the way to these lines.
    pub lost: Vec<Loss>,
    /// What a [`PathReader`](crate::PathReader) found of the lines' paths. Lines that are changed after that must be read again.
    pub read_paths: ReadPaths,
}

/// Lines that were written and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The length of what is lost, in the form that it has on the disk; `None` when that cannot be known.
    pub bytes: Option<u64>,
    /// What is lost, and why.
    pub reason: String,
}

impl Batch {
    pub fn requests(&self) -> impl ExactSizeIterator<Item = Request<'_>> {
        self.lines.iter().map(|line| self.request(line))
    }

    /// The name of the server section that answered; empty when it is not known for certain.
    pub fn server_of(&self, line: &Line) -> &[u8] {
        let (at, len) = (line.server_at as usize, usize::from(line.server_len));
        // In a line that its client broke, the field may be the client's own.
        if line.salvaged { &[] } else { self.bytes.get(at..at + len).unwrap_or_default() }
    }

    /// How the connection of a line came. Only what is certain is known: not of a line that its client broke, nor where the
    /// client's address comes from a header.
    pub fn way_of(&self, line: &Line) -> Way {
        if line.peer_len == 0 || line.salvaged || line.behind_proxy {
            return Way::Unknown;
        }
        let at = line.peer_at as usize;
        let text = self.bytes.get(at..at + usize::from(line.peer_len));
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        match text.and_then(|text| text.parse::<IpAddr>().ok()) {
            None => Way::Unknown,
            Some(peer) if peer.to_canonical() == line.addr => Way::Direct,
            Some(peer) => Way::Proxied(peer.to_canonical()),
        }
    }

    /// [`Request::path`] of a line.
    pub(crate) fn path_of(&self, line: &Line) -> &[u8] {
        self.text(line.path_at, line.path_len as usize)
    }

    /// [`Request::method`] of a line.
    pub(crate) fn method_of(&self, line: &Line) -> &[u8] {
        self.text(line.method_at, usize::from(line.method_len))
    }

    fn text(&self, at: u32, len: usize) -> &[u8] {
        self.bytes.get(at as usize..at as usize + len).unwrap_or_default()
    }

    pub fn request<'a>(&'a self, line: &Line) -> Request<'a> {
        Request {
            addr: line.addr,
            time: line.time,
            method: self.method_of(line),
            path: self.path_of(line),
            status: line.status,
            size: line.size,
            behind_proxy: line.behind_proxy,
        }
    }
}
