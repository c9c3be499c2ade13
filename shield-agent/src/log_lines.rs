//! The log lines of a client at the time of its ban, as they were written: kept with the ban in the database, so that whoever
//! asks why sees what the web server saw.
//!
//! Lines that were just judged are at hand in their batch. Where few come at a time, the last of the batches before are kept
//! as well, in two buffers of bounded size; a client whose ban waits for an answer (of DNS, of the operators' rules) has its own put
//! aside until then. They go into the database and nowhere else: a query string may hold a secret, so neither alerts nor the
//! audit log nor a reader without the token is given them. The sites that the lines went to are said to all.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use shield_engine::action::{Action, Notice, Record};
use shield_engine::client::Client;
use shield_engine::request::{Batch, Line};
use shield_engine::verdict::Evidence;

use crate::sites;

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

/// Clients whose lines wait with them for an answer. With one more all are forgotten: most of them were answered long ago.
const MOST_ASKED: usize = 1_024;

/// Lines judged of late, and what else stood where one was expected: see [`raw`].
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    newer: Buffer,
    older: Buffer,
    asked: BTreeMap<Client, Found>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: Vec<Kept>,
}

/// A line in the bytes, with the site's name behind it.
#[derive(Debug, Clone, Copy)]
struct Kept {
    addr: IpAddr,
    at: usize,
    len: usize,
    site_len: usize,
    /// It was longer, and was a line of the address.
    is_cut: bool,
}

/// What the lines say of a client.
#[derive(Debug, Clone, Default)]
struct Found {
    lines: Vec<String>,
    sites: Vec<String>,
}

impl LogLines {
    /// Puts what the lines say of the clients into the records of bans that judging this batch led to, then keeps the end of
    /// the batch.
    pub(crate) fn judged(&mut self, batch: &Batch, actions: &mut [Action]) {
        Self::attach(actions, |client, at_secs| self.find(client.network(), at_secs, batch));
        for client in actions.iter().filter_map(asked) {
            self.put_aside(client, batch);
        }
        for line in batch.lines.iter().rev().take(KEPT_OF_A_BATCH).rev() {
            if let Some(text) = around(batch, line) {
                self.keep(line.addr, text, batch.server_of(line));
            }
        }
    }

    /// The same for bans that no batch led to, but an answer or the time.
    pub(crate) fn decided(&mut self, actions: &mut [Action]) {
        Self::attach(actions, |client, at_secs| {
            let at_hand = || self.find(client.network(), at_secs, &Batch::default());
            self.asked.get(&client).cloned().unwrap_or_else(at_hand)
        });
        for action in actions {
            if let Action::Persist(Record::Banned(record)) = action {
                self.asked.remove(&record.ban.client);
            }
        }
    }

    fn put_aside(&mut self, client: Client, batch: &Batch) {
        let found = self.find(client.network(), i64::MAX, batch);
        if self.asked.len() >= MOST_ASKED {
            self.asked.clear();
        }
        self.asked.insert(client, found);
    }

    fn attach(actions: &mut [Action], find: impl Fn(Client, i64) -> Found) {
        let mut found: BTreeMap<(Client, i64), Found> = BTreeMap::new();
        for action in actions {
            let Some((client, evidence, is_record)) = banned(action) else { continue };
            let found =
                found.entry((client, evidence.at_secs)).or_insert_with(|| find(client, evidence.at_secs));
            if evidence.sites.is_empty() {
                evidence.sites.clone_from(&found.sites);
            }
            if is_record && evidence.lines.is_empty() {
                evidence.lines.clone_from(&found.lines);
            }
        }
    }

    /// The last lines of a client up to the one by which a rule fired, oldest first, and the sites that they and those before
    /// them went to.
    fn find(&self, network: IpNet, at_secs: i64, batch: &Batch) -> Found {
        let is_own = |line: &&Line| network.contains(&line.addr) && line.time <= at_secs;
        let own: Vec<&Line> = batch.lines.iter().rev().filter(is_own).collect();
        let mut texts: Vec<&[u8]> =
            own.iter().filter_map(|line| raw(batch, line)).map(cut).take(LINES).collect();
        let mut servers: Vec<&[u8]> = own.iter().map(|line| batch.server_of(line)).collect();
        // Where its batch says enough, what was kept is not searched for more: many may be banned by one batch.
        if texts.len() < LINES {
            let before = [&self.newer, &self.older].into_iter().flat_map(|buffer| buffer.last_of(network));
            let before: Vec<(&[u8], &[u8])> = before.take(KEPT_OF_A_BATCH).collect();
            texts.extend(before.iter().map(|(line, _)| *line).take(LINES - texts.len()));
            if own.len() < LINES {
                servers.extend(before.iter().map(|(_, site)| *site).take(KEPT_OF_A_BATCH - own.len()));
            }
        }
        let lines = texts.iter().rev().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        Found { lines, sites: sites::most_asked(servers.into_iter()) }
    }

    /// Keeps a text. Whether it is a line of this address is asked when it is looked for, which few ever are; but before it is cut,
    /// since that may take the address away.
    fn keep(&mut self, addr: IpAddr, text: &[u8], site: &[u8]) {
        let line = cut(text);
        let is_cut = line.len() < text.len();
        if is_cut && !holds_address(text, addr) {
            return;
        }
        if self.newer.bytes.len() + line.len() + site.len() > BUFFER_BYTES {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.bytes.clear();
            self.newer.lines.clear();
        }
        let at = self.newer.bytes.len();
        self.newer.bytes.extend_from_slice(line);
        self.newer.bytes.extend_from_slice(site);
        self.newer.lines.push(Kept { addr, at, len: line.len(), site_len: site.len(), is_cut });
    }
}

impl Buffer {
    /// The lines of a network, newest first, each with its site.
    fn last_of(&self, network: IpNet) -> impl Iterator<Item = (&[u8], &[u8])> {
        let own = self.lines.iter().rev().filter(move |kept| network.contains(&kept.addr));
        own.filter_map(|Kept { addr, at, len, site_len, is_cut }| {
            let (text, site) = self.bytes.get(*at..at + len + site_len)?.split_at(*len);
            (*is_cut || holds_address(text, *addr)).then_some((text, site))
        })
    }
}

/// The evidence of a ban that the detector made, and whether it goes into the database.
fn banned(action: &mut Action) -> Option<(Client, &mut Evidence, bool)> {
    let (record, is_record) = match action {
        Action::Persist(Record::Banned(record)) => (record, true),
        Action::Announce(Notice::Banned(record) | Notice::WouldBan { ban: record, .. }) => (record, false),
        _ => return None,
    };
    let client = record.ban.client;
    record.evidence.as_deref_mut().map(|evidence| (client, evidence, is_record))
}

/// Whose ban waits for an answer.
fn asked(action: &Action) -> Option<Client> {
    match action {
        Action::VerifyBot { client, .. } => Some(*client),
        Action::AskPolicy(question) => Some(question.client),
        _ => None,
    }
}

/// The line as it was written. `None` where that cannot be told for certain: then it is better not shown.
fn raw<'a>(batch: &'a Batch, line: &Line) -> Option<&'a [u8]> {
    let text = around(batch, line)?;
    // A request with a backslash is read from a copy beside the lines: what is around that is no line.
    holds_address(text, line.addr).then_some(text)
}

/// What stands around a request between two ends of lines.
fn around<'a>(batch: &'a Batch, line: &Line) -> Option<&'a [u8]> {
    let at = if line.method_len > 0 { line.method_at } else { line.path_at } as usize;
    let head = batch.bytes.get(at.saturating_sub(MOST_BYTES)..at)?;
    let from = at - memchr::memrchr2(b'\n', 0, head).map_or(head.len(), |end| head.len() - end - 1);
    let tail = batch.bytes.get(at..batch.bytes.len().min(at + MOST_BYTES))?;
    let to = at + memchr::memchr2(b'\n', 0, tail).unwrap_or(tail.len());
    Some(batch.bytes.get(from..to)?.trim_ascii())
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

    /// Every ban asked DNS about search engines first, and so none had its lines: they were looked for in the batch alone.
    #[test]
    fn a_ban_that_waited_for_an_answer_has_its_lines() {
        let client: Client = "192.0.2.7".parse().unwrap();
        let own = batch(&combined("192.0.2.7", "/.env"));
        let of_others = batch(&combined("192.0.2.8", "/").repeat(KEPT_OF_A_BATCH));
        let Notice::Banned(record) = samples::banned_client(client) else { unreachable!() };
        let decided = |kept: &mut LogLines| {
            let mut actions = vec![Action::Persist(Record::Banned(record.clone()))];
            kept.decided(&mut actions);
            let Some(Action::Persist(Record::Banned(record))) = actions.pop() else { unreachable!() };
            record.evidence.unwrap().lines
        };
        let expected = [combined("192.0.2.7", "/.env").trim_end().to_owned()];
        let mut kept = LogLines::default();
        kept.judged(&own, &mut [Action::VerifyBot { client, addr: "192.0.2.7".parse().unwrap() }]);
        (0..5_000).for_each(|_| kept.judged(&of_others, &mut []));
        assert_eq!(decided(&mut kept), expected, "though others' lines have filled the buffers since");
        assert!(kept.asked.is_empty());
        kept.judged(&own, &mut []);
        assert_eq!(decided(&mut kept), expected, "one that waited for its time");
        for n in 0..2 * MOST_ASKED as u32 {
            let addr = std::net::Ipv4Addr::from_bits(0xc612_0000 + n);
            kept.judged(&own, &mut [Action::VerifyBot { client: addr.into(), addr: addr.into() }]);
        }
        assert!(kept.asked.len() <= MOST_ASKED);
    }

    #[test]
    fn a_line_of_json_is_the_whole_object_also_where_a_text_was_unescaped() {
        let line = "{\"time\":\"2026-05-11T22:07:33+00:00\",\"remote_addr\":\"2001:db8:1:2::9\",\"method\":\"GET\",\
                    \"path\":\"/a\\\"b\",\"status\":404,\"size\":5}";
        let text = format!("{line}\n{line}\n");
        let kept = lines_of("2001:db8:1:2::/64", &[batch(&text)]);
        assert_eq!(kept, [line, line]);
    }

    /// Behind a long path, what tells whose line it is may be cut off.
    #[test]
    fn a_long_line_of_an_earlier_batch_is_kept_and_a_text_that_is_no_line_is_not() {
        let line = |path: &str| {
            format!(
                "{{\"path\":\"/{path}\",\"method\":\"GET\",\"status\":404,\"size\":5,\
                 \"time\":\"2026-05-11T22:07:33+00:00\",\"remote_addr\":\"192.0.2.7\"}}\n"
            )
        };
        let of_others = batch(&combined("192.0.2.8", "/"));
        let long = line(&"x".repeat(2 * LINE_BYTES));
        let kept = lines_of("192.0.2.7", &[batch(&long), of_others.clone()]);
        assert_eq!(kept, [&long[..LINE_BYTES]]);
        // A request that points elsewhere, as one that was unescaped beside the lines does.
        for around in ["no line of anybody's".to_owned(), "y".repeat(2 * LINE_BYTES)] {
            let mut elsewhere = batch(&line("a"));
            let at = elsewhere.bytes.len() as u32;
            elsewhere.bytes.extend(around.as_bytes());
            (elsewhere.lines[0].path_at, elsewhere.lines[0].path_len, elsewhere.lines[0].method_len) =
                (at, 4, 0);
            assert_eq!(lines_of("192.0.2.7", &[elsewhere, of_others.clone()]), [""; 0], "{around}");
        }
    }

    /// Several sites in one log: a ban says which were asked for, alerts and the page alike, also one that waited.
    #[test]
    fn a_ban_names_the_sites_that_its_lines_went_to() {
        let line = |site: &str| {
            format!(
                "{{\"time\":\"2026-05-11T22:07:33+00:00\",\"remote_addr\":\"192.0.2.7\",\"method\":\"GET\",\"path\":\"/\",\
                 \"status\":404,\"size\":5,\"server_name\":\"{site}\"}}\n"
            )
        };
        let all = ["blog.example", "shop.example", "shop.example", "", "a b"].map(line);
        let sites = |judge: &dyn Fn(&mut LogLines, &mut [Action])| {
            let Notice::Banned(mut record) = samples::banned_client("192.0.2.7".parse().unwrap()) else {
                unreachable!()
            };
            record.evidence.as_mut().unwrap().at_secs = AT;
            let would = Notice::WouldBan { ban: record.clone(), because: String::new() };
            let mut actions = [Action::Persist(Record::Banned(record)), Action::Announce(would)];
            judge(&mut LogLines::default(), &mut actions);
            actions.each_mut().map(|action| banned(action).unwrap().1.sites.join(" "))
        };
        let expected = ["shop.example blog.example"; 2];
        assert_eq!(sites(&|kept, actions| kept.judged(&batch(&all.concat()), actions)), expected);
        let waited = |kept: &mut LogLines, actions: &mut [Action]| {
            all.iter().for_each(|line| kept.judged(&batch(line), &mut []));
            kept.decided(actions);
        };
        assert_eq!(sites(&waited), expected);
        let of_another = combined("192.0.2.70", "/");
        assert_eq!(sites(&|kept, actions| kept.judged(&batch(&of_another), actions)), [""; 2]);
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
