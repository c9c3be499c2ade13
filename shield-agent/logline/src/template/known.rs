//! The text formats that are recognised without a setting, and which of them a log's lines have.
//!
//! The format that fitted last is tried first. A line that it does not fit is tried with the others, but then a client must
//! not be able to choose its address by it: in a log that begins with the host, a request with the host `192.0.2.1 - -` would otherwise
//! be one of 192.0.2.1's. Such a line has another address where the user's name should be, and is refused.

use std::sync::LazyLock;

use memchr::memmem;

use super::compile::{Plan, Tail};
use super::conf::Notation;
use super::read::Spans;
use super::variable::Take;
use super::{Escape, Template};
use crate::address::TrustedProxies;
use crate::fields::{Reader, Texts};
use crate::syslog;
use shield_engine::request::{Line, Rejected};

/// Lines of another format in a row before it is tried first.
const MISSES_TO_RELEARN: u32 = 4;

/// Places at which a list of addresses can end.
const MAX_SPLITS: usize = 16;

struct Known {
    name: &'static str,
    template: Template,
    start: Start,
    /// One of `combined` and its likes.
    is_combined: bool,
}

/// What stands before the time or behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Address,
    /// A list of addresses that the client may have begun, and the user's name.
    List,
    /// A host, then the address.
    Host,
    /// A host and an address of which neither's place is certain.
    Pair,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(known);

const RESPONSE: &str = "\"$request\" $status $body_bytes_sent";

fn known() -> Vec<Known> {
    let mut all = Vec::new();
    let mut add = |name, start, is_combined, text: &str| {
        let notation = Notation { escape: Escape::Any, text: text.to_owned() };
        let template = Template::new(notation, Tail::Open).expect("the tests compile every format");
        all.push(Known { name, template, start, is_combined });
    };
    let combined = [
        ("combined", "[$time_local]"),
        ("combined with ISO times", "[$time_iso8601]"),
        ("combined with ISO times", "$time_iso8601"),
        ("combined with Unix times", "[$msec]"),
    ];
    for (name, time) in combined {
        add(name, Start::Address, true, &format!("$remote_addr - $remote_user {time} {RESPONSE}"));
    }
    let by_host = [
        ("combined, host first", "[$time_local]"),
        ("combined with ISO times, host first", "[$time_iso8601]"),
    ];
    for (name, time) in by_host {
        add(name, Start::Host, false, &format!("$host $remote_addr - $remote_user {time} {RESPONSE}"));
    }
    let proxy_manager =
        "- $request_method $scheme $host \"$request_uri\" [Client $remote_addr] [Length $body_bytes_sent]";
    let name = "Nginx Proxy Manager";
    add(
        name,
        Start::Address,
        false,
        &format!("[$time_local] $upstream_cache_status $upstream_status $status {proxy_manager}"),
    );
    add(name, Start::Address, false, &format!("[$time_local] $status {proxy_manager}"));
    for time in ["[$time_local]", "[$time_iso8601]", "$time_iso8601", "$time_local", "[$msec]", "$msec"] {
        let mut add = |start, head: &str| {
            add("time first", start, false, &format!("{time} {head} {RESPONSE}"));
        };
        add(Start::Address, "$remote_addr - $remote_user");
        add(Start::Address, "$remote_addr");
        add(Start::Host, "$host $remote_addr - $remote_user");
        add(Start::Pair, "$remote_addr $host");
        add(Start::Pair, "$host $remote_addr");
    }
    let list = [
        ("combined, forwarded addresses first", "[$time_local]"),
        ("combined, forwarded addresses first", "[$time_iso8601]"),
    ];
    for (name, time) in list {
        add(name, Start::List, true, &format!("$http_x_forwarded_for {time} {RESPONSE}"));
    }
    let ident = "combined with identities";
    add(
        ident,
        Start::Address,
        true,
        &format!("$remote_addr $request_id $remote_user [$time_local] {RESPONSE}"),
    );
    all
}

/// Recognises the format of one log.
#[derive(Debug)]
pub(crate) struct Recogniser {
    only_combined: bool,
    /// The format that fitted last.
    last: Option<&'static str>,
    /// The position in [`KNOWN`] of the format that most lines have.
    learned: Option<usize>,
    misses: u32,
}

impl Recogniser {
    pub(crate) fn of_all() -> Recogniser {
        Recogniser { only_combined: false, last: None, learned: None, misses: 0 }
    }

    /// Recognises `combined` and formats that differ from it in little. That the log is `combined` is certain, so nothing is
    /// learned.
    pub(crate) fn of_combined() -> Recogniser {
        Recogniser { only_combined: true, learned: Some(0), ..Recogniser::of_all() }
    }

    pub(crate) fn recognised(&self) -> Option<&'static str> {
        let learned = self.learned.filter(|_| !self.only_combined).and_then(|at| KNOWN.get(at));
        learned.map(|known| known.name).or(self.last)
    }

    pub(crate) fn read(
        &mut self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        let line = if self.only_combined { line.trim_ascii_start() } else { line };
        let learned = self.learned.and_then(|at| KNOWN.get(at));
        let mut refused = None;
        if let Some(known) = learned {
            match known.read(line, true, reader, texts) {
                Some(Ok(found)) => {
                    self.misses = 0;
                    self.last = Some(known.name);
                    return Ok(found);
                }
                // The line has the log's format: its reason is the true one, and no other format can change it.
                Some(Err(why)) if why != Rejected::NoStatus => return Err(why),
                Some(Err(why)) => refused = Some(why),
                None => {}
            }
        }
        if refused.is_none() {
            match self.try_others(line, reader, texts) {
                Some(Ok(found)) => return Ok(found),
                other => refused = other.and_then(Result::err),
            }
        }
        let salvaged = learned
            .into_iter()
            .chain(self.candidates().filter(|_| learned.is_none()).map(|(_, known)| known))
            .filter(|known| known.start != Start::List)
            .find_map(|known| {
                let mut spans =
                    known.template.plan.salvage(line, &|spans| super::whole(line, spans, reader))?;
                known.finish(line, &mut spans, learned.is_some(), reader, texts).ok()
            });
        match salvaged {
            Some(found) => Ok(Line { salvaged: true, ..found }),
            None => Err(refused.unwrap_or(Rejected::Malformed)),
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.learned.is_some()
    }

    /// Reads a line exactly of the learned format, which is neither JSON nor behind a header of syslog.
    #[inline]
    pub(crate) fn read_settled(
        &mut self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Option<Line> {
        let known = self.learned.and_then(|at| KNOWN.get(at))?;
        let is_other = matches!(line.first(), None | Some(b'{' | b' ' | b'\t' | b'\r'));
        if is_other || syslog::without_header(line).is_some() {
            return None;
        }
        let line = line.trim_ascii_end();
        let found = match known.read_quickly(line, reader, texts) {
            Some(found) => found,
            None => known.read(line, true, reader, texts)?.ok()?,
        };
        self.misses = 0;
        self.last = Some(known.name);
        Some(found)
    }

    fn candidates(&self) -> impl Iterator<Item = (usize, &'static Known)> + use<> {
        let only_combined = self.only_combined;
        KNOWN.iter().enumerate().filter(move |(_, known)| known.is_combined || !only_combined)
    }

    /// Reads a line by a format that the lines before it did not have.
    fn try_others(
        &mut self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Option<Result<Line, Rejected>> {
        let mut refused = None;
        for (at, known) in self.candidates() {
            match known.read(line, false, reader, texts) {
                Some(Ok(found)) => {
                    self.misses += 1;
                    self.last = Some(known.name);
                    let learns = self.learned.is_none() || self.misses >= MISSES_TO_RELEARN;
                    if learns && !self.only_combined {
                        (self.learned, self.misses) = (Some(at), 0);
                    }
                    return Some(Ok(found));
                }
                Some(Err(why)) => refused = refused.or(Some(Err(why))),
                None => {}
            }
        }
        refused
    }
}

impl Known {
    /// Reads a line that has exactly this format; `None` if it has not.
    #[inline]
    fn read(
        &self,
        line: &[u8],
        is_learned: bool,
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Option<Result<Line, Rejected>> {
        let mut spans = Spans::none();
        self.template.plan.fit(line, &mut spans)?;
        // In a log that is known to begin with the host this could be a Host header of the client's.
        let is_list = self.start == Start::Host && !is_learned && begins_a_list(spans.of(Take::Host, line));
        if is_list {
            return None;
        }
        Some(self.finish(line, &mut spans, is_learned, reader, texts))
    }

    /// Does the same for a usual line of the format that the log is known to have.
    #[inline]
    fn read_quickly(&self, line: &[u8], reader: &Reader, texts: &mut Texts<'_>) -> Option<Line> {
        if self.start == Start::List {
            return None;
        }
        let mut spans = Spans::none();
        let values = self.template.plan.read_quickly(line, &mut spans, reader)?;
        // See `finish`: then the host is looked at.
        let is_doubtful = self.start == Start::Host && values.status == 400;
        (!is_doubtful).then(|| self.template.plan.finish_plain(line, &spans, &values, texts))
    }

    #[inline]
    fn finish(
        &self,
        line: &[u8],
        spans: &mut Spans,
        is_learned: bool,
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        if self.start == Start::List {
            split_list(line, spans, is_learned, reader).ok_or(Rejected::NoAddress)?;
        }
        let values = Plan::values(line, spans, reader)?;
        let names_another = |text| names_another(text, values.client.addr);
        let is_doubtful = match self.start {
            // What is the identity here would be the address if the log began with the host.
            Start::Address => !is_learned && names_another(behind_address(line, spans)),
            Start::List => false,
            // nginx refuses a host with blanks, and writes it as it came to the line of that refusal.
            Start::Host => (!is_learned || values.status == 400) && names_another(spans.of(Take::User, line)),
            Start::Pair => !is_learned && names_another(spans.of(Take::Host, line)),
        };
        if is_doubtful {
            return Err(Rejected::NoAddress);
        }
        Ok(self.template.plan.finish(line, spans, &values, texts))
    }
}

/// Returns whether `word` is an address with a comma behind it, so that another one follows.
fn begins_a_list(word: &[u8]) -> bool {
    let Some(addr) = word.strip_suffix(b",") else { return false };
    TrustedProxies::default().attribute(addr, b"").is_some()
}

/// Returns everything between the address and the time or the request, whichever follows.
fn behind_address<'l>(line: &'l [u8], spans: &Spans) -> &'l [u8] {
    let (_, from) = spans.bounds(Take::Addr);
    let starts = [Take::Time, Take::Request].map(|take| spans.bounds(take).0);
    let end = starts.into_iter().filter(|start| *start >= from).min();
    line.get(from..end.unwrap_or(from)).unwrap_or_default()
}

/// Returns whether a word of `text` is an address other than `addr`, or what nginx writes for one on a socket of the machine.
fn names_another(text: &[u8], addr: std::net::IpAddr) -> bool {
    if text == b"-" {
        return false;
    }
    let parser = TrustedProxies::default();
    // ingress-nginx has an address in brackets, which may be a header's.
    let is_bracketed = |word: &&[u8]| word.starts_with(b"[") && word.ends_with(b"]");
    text.split(|byte| *byte == b' ').filter(|word| !is_bracketed(word)).any(|word| {
        let word = word.strip_suffix(b",").unwrap_or(word);
        if word == b"unix:" {
            return true;
        }
        parser.attribute(word, b"").is_some_and(|other| other.addr != addr)
    })
}

/// Returns whether an element of the list that is no address has a word in it that is one: then the line may begin with the host,
/// and the list be a user's name.
fn hides_another(list: &[u8], addr: std::net::IpAddr) -> bool {
    let is_address = |element: &&[u8]| TrustedProxies::default().attribute(element, b"").is_some();
    list.split(|byte| *byte == b',')
        .filter(|element| !is_address(element))
        .any(|text| names_another(text, addr))
}

/// Splits `LIST - USER` into the two. The client may have written ` - ` into both, so every place at which the list can
/// end must give the same client; of several clients only one that the proxies in front can have written is believed.
fn split_list(line: &[u8], spans: &mut Spans, is_learned: bool, reader: &Reader) -> Option<()> {
    let both = spans.of(Take::Addr, line);
    let mut found: Option<(&[u8], std::net::IpAddr, bool)> = None;
    for at in memmem::find_iter(both, b" -").take(MAX_SPLITS) {
        let (list, rest) = both.split_at(at);
        let Some(user) = rest.strip_prefix(b" - ") else { continue };
        if user.is_empty() {
            continue;
        }
        let Some(client) = reader.proxies.attribute(list, b"") else { continue };
        let is_doubtful = names_another(user, client.addr) || hides_another(list, client.addr);
        if !is_learned && is_doubtful {
            return None;
        }
        let comes_by_proxy = client.behind_proxy;
        match found {
            Some((_, addr, _)) if addr == client.addr => {}
            Some((_, _, by_proxy)) if by_proxy == comes_by_proxy => return None,
            Some((_, _, true)) => {}
            _ => found = Some((list, client.addr, comes_by_proxy)),
        }
    }
    found.map(|(list, ..)| spans.change(Take::Addr, list, line))
}
