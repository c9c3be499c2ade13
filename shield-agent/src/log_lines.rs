//! The log lines of a client at the time of its ban, as they were written: kept with the ban in the database, so that whoever
//! asks why sees what the web server saw.
//!
//! Lines that were just judged are at hand in their batch. Where few come at a time, the last of the batches before are kept
//! as well, in two buffers of bounded size. They go into the database and nowhere else: a query string may hold a secret, so
//! neither alerts nor the audit log nor a reader without the token is given them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use shield_engine::action::{Action, BanRecord, Record};
use shield_engine::client::Client;
use shield_engine::request::{Batch, Line};

/// Lines kept with a ban, the last ones.
const LINES: usize = 6;

/// Bytes of a line that are kept.
const LINE_BYTES: usize = 400;

/// A longer line is not looked for the ends of.
const MOST_BYTES: usize = 8 * 1024;

/// Lines of a batch that are kept for the time after it. A larger batch shows enough by itself.
const KEPT_OF_A_BATCH: usize = 64;

/// Bytes of each of the two buffers.
const BUFFER_BYTES: usize = 256 * 1024;

/// Lines judged of late.
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    newer: Buffer,
    older: Buffer,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Whose, and where it is in the bytes.
    lines: Vec<(IpAddr, usize, usize)>,
}

impl LogLines {
    /// Puts the clients' lines into the records of bans that judging this batch led to, then keeps the end of the batch.
    pub(crate) fn judged(&mut self, batch: &Batch, actions: &mut [Action]) {
        if actions.iter_mut().any(|action| banned(action).is_some()) {
            self.attach(batch, actions);
        }
        for line in batch.lines.iter().rev().take(KEPT_OF_A_BATCH).rev() {
            if let Some(raw) = raw(batch, line) {
                self.keep(line.addr, cut(raw));
            }
        }
    }

    fn attach(&self, batch: &Batch, actions: &mut [Action]) {
        let mut found: BTreeMap<Client, Vec<String>> = BTreeMap::new();
        for record in actions.iter_mut().filter_map(banned) {
            let client = record.ban.client;
            let Some(evidence) = &mut record.evidence else { continue };
            let at_secs = evidence.at_secs;
            let lines =
                found.entry(client).or_insert_with(|| self.last_lines(client.network(), at_secs, batch));
            evidence.lines.clone_from(lines);
        }
    }

    /// The last lines of a client up to the one by which a rule fired, oldest first.
    fn last_lines(&self, network: IpNet, at_secs: i64, batch: &Batch) -> Vec<String> {
        let own =
            batch.lines.iter().rev().filter(|line| network.contains(&line.addr) && line.time <= at_secs);
        let own = own.filter_map(|line| raw(batch, line)).map(cut);
        let before = [&self.newer, &self.older].into_iter().flat_map(|buffer| buffer.last_of(network));
        let mut lines: Vec<String> =
            own.chain(before).take(LINES).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        lines.reverse();
        lines
    }

    fn keep(&mut self, addr: IpAddr, line: &[u8]) {
        if self.newer.bytes.len() + line.len() > BUFFER_BYTES {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.bytes.clear();
            self.newer.lines.clear();
        }
        let at = self.newer.bytes.len();
        self.newer.bytes.extend_from_slice(line);
        self.newer.lines.push((addr, at, line.len()));
    }
}

impl Buffer {
    fn last_of(&self, network: IpNet) -> impl Iterator<Item = &[u8]> {
        let own = self.lines.iter().rev().filter(move |(addr, ..)| network.contains(addr));
        own.filter_map(|(_, at, len)| self.bytes.get(*at..at + len))
    }
}

/// The record of a ban that the detector made.
fn banned(action: &mut Action) -> Option<&mut BanRecord> {
    match action {
        Action::Persist(Record::Banned(record)) if record.evidence.is_some() => Some(record),
        _ => None,
    }
}

/// The line as it was written. `None` where that cannot be told for certain: then it is better not shown.
fn raw<'a>(batch: &'a Batch, line: &Line) -> Option<&'a [u8]> {
    let at = if line.method_len > 0 { line.method_at } else { line.path_at } as usize;
    let is_end = |byte: &u8| matches!(byte, b'\n' | 0);
    let head = batch.bytes.get(at.saturating_sub(MOST_BYTES)..at)?;
    let from = at - head.iter().rev().position(is_end).unwrap_or(head.len());
    let tail = batch.bytes.get(at..batch.bytes.len().min(at + MOST_BYTES))?;
    let to = at + tail.iter().position(is_end).unwrap_or(tail.len());
    let text = batch.bytes.get(from..to)?.trim_ascii();
    // A text with a backslash is read from a copy of it beside the lines: what is around that is no line.
    holds_address(text, line.addr).then_some(text)
}

fn holds_address(text: &[u8], addr: IpAddr) -> bool {
    let mut buffer = [0; 46];
    let mut rest = &mut buffer[..];
    // Cannot fail: no address is longer.
    let _ = write!(rest, "{addr}");
    let unused = rest.len();
    let written = buffer.len() - unused;
    memchr::memmem::find(text, &buffer[..written]).is_some()
}

fn cut(line: &[u8]) -> &[u8] {
    line.get(..LINE_BYTES).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::samples;
    use shield_engine::action::Notice;
    use shield_logline::{Output, Parser, Settings};

    const AT: i64 = 1_778_537_253;

    fn batch(text: &str) -> Batch {
        let mut block = text.as_bytes().to_vec();
        let (end, mut out) = (block.len(), Output::default());
        Parser::new(&Settings::default()).parse_block(&mut block, 0, end, &mut out);
        Batch { bytes: block, lines: out.lines, ..Batch::default() }
    }

    fn combined(addr: &str, path: &str) -> String {
        format!("{addr} - - [11/May/2026:22:07:33 +0000] \"GET {path} HTTP/1.1\" 404 153 \"-\" \"curl/8\"\n")
    }

    /// The lines kept with a ban of `client` that is made when these batches are judged, one after the other.
    fn lines_of(client: &str, batches: &[Batch]) -> Vec<String> {
        let Notice::Banned(mut record) = samples::banned_client(client.parse().unwrap()) else {
            unreachable!()
        };
        record.evidence.as_mut().unwrap().at_secs = AT;
        let mut actions =
            vec![Action::Announce(Notice::Banned(record.clone())), Action::Persist(Record::Banned(record))];
        let mut kept = LogLines::default();
        let (last, before) = batches.split_last().unwrap();
        before.iter().for_each(|batch| kept.judged(batch, &mut []));
        kept.judged(last, &mut actions);
        let Action::Announce(Notice::Banned(told)) = &actions[0] else { unreachable!() };
        assert_eq!(told.evidence.as_ref().unwrap().lines, [""; 0], "alerts and the audit log have none");
        let Action::Persist(Record::Banned(record)) = actions.pop().unwrap() else { unreachable!() };
        record.evidence.unwrap().lines
    }

    #[test]
    fn the_last_lines_of_a_client_are_kept_as_they_were_written() {
        let all: Vec<String> = (0..9).map(|n| combined("192.0.2.7", &format!("/{n}?token=x"))).collect();
        let of_others = combined("192.0.2.77", "/") + &combined("198.51.100.1", "/");
        let expected: Vec<&str> = all[3..].iter().map(|line| line.trim_end()).collect();
        let at_once = batch(&(all.concat() + &of_others));
        assert_eq!(lines_of("192.0.2.7", &[at_once]), expected);
        let one_by_one: Vec<Batch> = all.iter().flat_map(|line| [batch(&of_others), batch(line)]).collect();
        assert_eq!(lines_of("192.0.2.7", &one_by_one), expected, "each in a batch of its own");
        assert_eq!(lines_of("203.0.113.9", &one_by_one), [""; 0]);
    }

    #[test]
    fn a_line_of_json_is_the_whole_object_also_where_a_text_was_unescaped() {
        let line = "{\"time\":\"2026-05-11T22:07:33+00:00\",\"remote_addr\":\"2001:db8:1:2::9\",\"method\":\"GET\",\
                    \"path\":\"/a\\\"b\",\"status\":404,\"size\":5}";
        let text = format!("{line}\n{line}\n");
        let kept = lines_of("2001:db8:1:2::/64", &[batch(&text)]);
        assert_eq!(kept, [line, line]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_no_byte_of_it_breaks_anything() {
        let mut kept = LogLines::default();
        let long = combined("192.0.2.7", &format!("/{}", "\\xff".repeat(3_000)));
        let many = batch(&combined("192.0.2.8", "/").repeat(2_000));
        for _ in 0..100 {
            kept.judged(&batch(&long), &mut []);
            kept.judged(&many, &mut []);
        }
        let bytes = kept.newer.bytes.len() + kept.older.bytes.len();
        assert!(bytes <= 2 * BUFFER_BYTES, "{bytes}");
        let of_one = lines_of("192.0.2.7", &[batch(&long)]);
        assert!(of_one.iter().all(|line| line.len() <= LINE_BYTES + 3), "{of_one:?}");
    }
}
