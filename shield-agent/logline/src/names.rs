//! The names that one log's fields have: the configured ones, and for the others those of its first whole line.
//!
//! Once found they are kept. A client that can break out of its text (nginx with `escape=none`) could otherwise add a field
//! whose name is preferred, and with it choose the line's address.
//!
//! For the same reason a second address in a line makes it untrusted ([`Gather::into_trusted`]): a broken-out text can hide
//! the field that nginx wrote in an object of its own (`"junk":{"a":"`), but cannot remove it. Places where the log's first whole
//! line has addresses too (`client_ip` beside `remote_addr`) are the log's own.

use std::net::IpAddr;

use super::address;
use super::fields::{self, Field, FieldNames, RawFields, Value};
use super::known::{self, Rank};
use shield_engine::time::EventSecs;

/// A value is taken for a time only from 2000 on: durations are named alike, and are small.
const FIRST_SECOND: EventSecs = 946_684_800;

/// Names of one log's fields, as paths joined by dots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    paths: [Option<Box<[u8]>>; Field::ALL.len()],
    /// The last part of the address field's path, if it is configured.
    own_leaf: Option<Box<[u8]>>,
    /// Other places of addresses in the log's first whole line.
    companions: Vec<Box<[u8]>>,
}

impl Names {
    /// The names before a line was read: the configured ones, and Shield's own.
    pub(crate) fn unknown(given: &FieldNames) -> Names {
        let own = |field| match field {
            Field::Addr => Some("source_ip"),
            Field::Time => Some("timestamp"),
            Field::Method => Some("method"),
            Field::Path => Some("path"),
            Field::Status => Some("status"),
            Field::Size => Some("response_size"),
            Field::Peer | Field::Request | Field::Forwarded | Field::Server | Field::Realip => None,
        };
        let name = |field| given.name(field).or_else(|| own(field)).map(|name| name.as_bytes().into());
        Names { paths: Field::ALL.map(name), own_leaf: own_leaf(given), companions: Vec::new() }
    }

    /// Finds the names by a line, given the path and value of everything in it. `None` when the line has no address, time or
    /// status where one is configured or known.
    ///
    /// `before` are the names that the log had so far. A line that has other ones tells nothing when it may be one of those before,
    /// changed by a client: when the address's name stands elsewhere in it, or when it has two different addresses.
    pub(crate) fn of_line(
        given: &FieldNames,
        values: &[(Vec<u8>, Value<'_>)],
        before: Option<&Names>,
    ) -> Option<Names> {
        let named = |field| given.name(field).map(|name| Box::from(name.as_bytes()));
        let mut paths: [Option<Box<[u8]>>; Field::ALL.len()] = Field::ALL.map(named);
        if let Some(known) = before.and_then(|names| names.path(Field::Addr)) {
            let mut alike = values.iter().filter(|(path, _)| leaf(path) == leaf(known));
            match (alike.next(), alike.next()) {
                (None, _) => {}
                (Some((path, _)), None) if path == known => paths[Field::Addr as usize] = Some(known.into()),
                _ => return None,
            }
        }
        for field in Field::ALL {
            let slot = &mut paths[field as usize];
            *slot = slot.take().or_else(|| find(field, values));
        }
        let path = |field: Field| paths[field as usize].clone();
        let addr_path = path(Field::Addr)?;
        // A header is followed only where nothing says which connection sent it.
        let is_header = given.source_ip.is_some() && known::is_header_name(leaf(&addr_path));
        if !is_header {
            paths[Field::Peer as usize] = None;
        }
        let value_at = |path: &[u8]| values.iter().find(|(at, _)| at == path).map(|(_, value)| value);
        let has = |field: Field, is_valid: &dyn Fn(&Value<'_>) -> bool| {
            let path = paths[field as usize].as_deref();
            path.and_then(value_at).is_some_and(is_valid)
        };
        let has_address = has(Field::Addr, &is_address) || has(Field::Peer, &is_address);
        let is_whole = has_address
            && has(Field::Time, &|value| fields::time(value).is_some())
            && has(Field::Status, &|value| fields::status(value).is_some());
        if !is_whole {
            return None;
        }
        let occurs_twice = |path: &[u8]| values.iter().filter(|(at, _)| at == path).count() > 1;
        if paths.iter().flatten().any(|path| occurs_twice(path)) {
            return None;
        }
        prefer_request_line(&mut paths, given);
        let mut names = Names { paths, own_leaf: own_leaf(given), companions: Vec::new() };
        let addresses: Vec<&(Vec<u8>, Value<'_>)> =
            values.iter().filter(|(path, _)| *path != *addr_path && names.may_be_address(path)).collect();
        let ours = value_at(&addr_path).and_then(address_of);
        let differs = |value: &Value<'_>| address_of(value).is_some_and(|other| Some(other) != ours);
        if before.is_some() && addresses.iter().any(|(_, value)| differs(value)) {
            return None;
        }
        names.companions = addresses.iter().map(|(path, _)| path.as_slice().into()).collect();
        Some(names)
    }

    /// Returns the field at this path.
    #[inline]
    pub(crate) fn field(&self, path: &[u8]) -> Option<Field> {
        Field::ALL.into_iter().find(|field| self.path(*field) == Some(path))
    }

    /// Returns the path of this field; `None` when the log has none.
    pub(crate) fn path(&self, field: Field) -> Option<&[u8]> {
        self.paths[field as usize].as_deref()
    }

    /// Returns whether a value at this path, which is not the address field's, could be the address that nginx wrote.
    fn may_be_address(&self, path: &[u8]) -> bool {
        let leaf = leaf(path);
        match &self.own_leaf {
            Some(own) => **own == *leaf,
            None => known::is_address_name(leaf),
        }
    }

    /// Returns whether the value at this path is one whose address must be the line's own. See the file's top.
    pub(crate) fn is_watched(&self, path: &[u8]) -> bool {
        self.may_be_address(path)
            && !self.companions.iter().any(|known| **known == *path)
            && self.path(Field::Addr) != Some(path)
            && self.path(Field::Peer) != Some(path)
    }
}

fn own_leaf(given: &FieldNames) -> Option<Box<[u8]>> {
    given.source_ip.as_ref().map(|name| leaf(name.as_bytes()).into())
}

/// Returns the last part of a path.
pub(crate) fn leaf(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'.').next().unwrap_or_default()
}

/// Returns the best known name of this field that the line has a fitting value for.
fn find(field: Field, values: &[(Vec<u8>, Value<'_>)]) -> Option<Box<[u8]>> {
    let ranked = values.iter().filter_map(|(path, value)| Some((known::rank(field, path)?, path, value)));
    let ranked: Vec<(Rank, &Vec<u8>, &Value<'_>)> = ranked.collect();
    // `remote_addr` may be empty (`unix:`, a proxy's protocol that is not used). A header is no substitute: anybody can send one.
    let names_connection = field == Field::Addr && ranked.iter().any(|(rank, ..)| !rank.is_second_choice());
    let fits = |rank: &Rank, value: &Value<'_>| match field {
        Field::Addr => is_address(value) && !(names_connection && rank.is_second_choice()),
        Field::Time => fields::time(value).is_some_and(|time| time >= FIRST_SECOND),
        Field::Status => fields::status(value).is_some(),
        _ => *value != Value::Other,
    };
    let fitting = ranked.into_iter().filter(|(rank, _, value)| fits(rank, value));
    Some(fitting.min_by_key(|(rank, ..)| *rank)?.1.as_slice().into())
}

/// Leaves the path to the request line where the log has it and the path found is not the target as it was sent.
fn prefer_request_line(paths: &mut [Option<Box<[u8]>>; Field::ALL.len()], given: &FieldNames) {
    let is_second = |path: &[u8]| known::rank(Field::Path, path).is_some_and(Rank::is_second_choice);
    let path = paths[Field::Path as usize].as_deref();
    if given.path.is_none() && paths[Field::Request as usize].is_some() && path.is_some_and(is_second) {
        paths[Field::Path as usize] = None;
    }
}

fn is_address(value: &Value<'_>) -> bool {
    address_of(value).is_some()
}

fn address_of(value: &Value<'_>) -> Option<IpAddr> {
    address::last(value.text()?)
}

/// Collects the fields of one line, and whether it can be trusted.
pub(crate) struct Gather<'n, 'a> {
    names: &'n Names,
    raw: RawFields<'a>,
    has_twice: bool,
    /// The first address found where the log has none, and whether there was another one.
    stray: Option<IpAddr>,
    strays_differ: bool,
    companions_seen: u64,
}

impl<'n, 'a> Gather<'n, 'a> {
    pub(crate) fn new(names: &'n Names) -> Gather<'n, 'a> {
        Gather {
            names,
            raw: RawFields::default(),
            has_twice: false,
            stray: None,
            strays_differ: false,
            companions_seen: 0,
        }
    }

    /// Takes the value at this path.
    #[inline]
    pub(crate) fn take(&mut self, path: &[u8], value: Value<'a>) {
        if let Some(field) = self.names.field(path) {
            self.has_twice |= self.raw.slot(field).replace(value).is_some();
            return;
        }
        if let Value::Text(text) = &value
            && address::may_be(text)
            && self.names.may_be_address(path)
        {
            self.watch(path, text);
        }
    }

    #[cold]
    fn watch(&mut self, path: &[u8], text: &[u8]) {
        let Some(addr) = address::last(text) else { return };
        if let Some(at) = self.names.companions.iter().position(|known| **known == *path) {
            let bit = 1_u64 << (at % 64);
            if self.companions_seen & bit == 0 {
                self.companions_seen |= bit;
                return;
            }
        }
        self.strays_differ |= self.stray.is_some_and(|stray| stray != addr);
        self.stray = Some(addr);
    }

    /// The fields found.
    pub(crate) fn into_fields(self) -> RawFields<'a> {
        self.raw
    }

    /// The fields found; `None` when no field is certain: one occurs twice, or another place has an address that is not
    /// the line's. Then text broke out of its string.
    pub(crate) fn into_trusted(self) -> Option<RawFields<'a>> {
        self.is_trusted().then_some(self.raw)
    }

    pub(crate) fn is_trusted(&self) -> bool {
        let own = self.raw.get(Field::Addr).and_then(address_of);
        !self.has_twice && !self.strays_differ && (self.stray.is_none() || self.stray == own)
    }
}
