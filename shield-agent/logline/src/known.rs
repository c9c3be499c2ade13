//! The names that fields have in the JSON logs of common servers and guides, so that most logs need no map.
//!
//! Names are compared without case and without `_`, `-`, `@`: `remote_addr`, `RemoteAddr` and `remote-addr` are one. A name may
//! stand inside objects that group a log's fields (`request.remote_ip`, `@nginx_fields.status`).

use super::fields::Field;

/// A name in the form in which it is compared, with its place among the names of its field: less is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Names derived from a header, or shortened ones, come after those that say exactly what is wanted.
    is_second_choice: bool,
    /// Objects around it.
    depth: usize,
    place: usize,
}

impl Rank {
    /// A header, which the client may have written, and not the address of the connection; or a path without its query.
    pub(crate) fn is_second_choice(self) -> bool {
        self.is_second_choice
    }
}

/// Objects that a field may stand in.
const GROUPS: [&str; 14] = [
    "request",
    "httprequest",
    "nginxfields",
    "nginx",
    "access",
    "http",
    "fields",
    "response",
    "req",
    "res",
    "body",
    "url",
    "source",
    "client",
];

const MAX_DEPTH: usize = 3;

/// The longest name in these lists.
const MAX_NAME_BYTES: usize = 32;

/// The connection's address.
const ADDR: [&str; 14] = [
    "sourceip",
    "remoteaddr",
    "remoteip",
    "clienthost",
    "clientaddr",
    "remoteaddress",
    "remotehost",
    "clientaddress",
    "peeraddr",
    "peerip",
    "sourceaddress",
    "srcip",
    "proxyprotocoladdr",
    "address",
];
/// What may come from a header. Used only by a log that has none of [`ADDR`].
const ADDR_SECOND: [&str; 6] = ["clientip", "ip", "ipaddress", "realip", "client", "remote"];

const TIME: [&str; 17] = [
    "timestamp",
    "timeiso8601",
    "timelocal",
    "time",
    "ts",
    "msec",
    "timemsec",
    "startutc",
    "startlocal",
    "datetime",
    "date",
    "timeunix",
    "timems",
    "logtime",
    "eventtime",
    "accesstime",
    "isotime",
];
const METHOD: [&str; 5] = ["method", "requestmethod", "httpmethod", "reqmethod", "verb"];
const PATH: [&str; 5] = ["requesturi", "requestpath", "requesttarget", "originalurl", "original"];
/// nginx's `$uri` is decoded and has no query, so `$request` is preferred.
const PATH_SECOND: [&str; 7] = ["path", "uri", "url", "requesturl", "urlpath", "documenturi", "target"];
const REQUEST: [&str; 4] = ["request", "requestline", "httprequest", "reqline"];
const STATUS: [&str; 10] = [
    "status",
    "downstreamstatus",
    "httpstatus",
    "statuscode",
    "responsecode",
    "responsestatus",
    "httpstatuscode",
    "httpcode",
    "code",
    "respstatus",
];
/// What another server answered.
const STATUS_SECOND: [&str; 2] = ["originstatus", "upstreamstatus"];
const SIZE: [&str; 12] = [
    "responsesize",
    "bodybytessent",
    "bytessent",
    "downstreamcontentsize",
    "size",
    "bytes",
    "responsebytes",
    "sentbytes",
    "responselength",
    "bytesout",
    "bodysent",
    "length",
];
const FORWARDED: [&str; 5] =
    ["httpxforwardedfor", "xforwardedfor", "forwardedfor", "proxyaddxforwardedfor", "requestxforwardedfor"];

/// The server section, which the administrator named; not the host, which the client did.
const SERVER: [&str; 1] = ["servername"];
/// The connection's address beside the client's.
const REALIP: [&str; 2] = ["peer", "realipremoteaddr"];

/// Returns the rank of `path` (names joined by dots) among the names of `field`; `None` when it is none of them.
pub(crate) fn rank(field: Field, path: &[u8]) -> Option<Rank> {
    let mut parts = path.rsplit(|byte| *byte == b'.');
    let name = Plain::of(parts.next()?)?;
    let mut depth = 0;
    for group in parts {
        depth += 1;
        let group = Plain::of(group)?;
        if depth > MAX_DEPTH || !GROUPS.contains(&group.text()) {
            return None;
        }
    }
    let (first, second): (&[&str], &[&str]) = match field {
        Field::Addr => (&ADDR, &ADDR_SECOND),
        Field::Peer => (&ADDR, &[]),
        Field::Time => (&TIME, &[]),
        Field::Method => (&METHOD, &[]),
        Field::Path => (&PATH, &PATH_SECOND),
        Field::Request => (&REQUEST, &[]),
        Field::Status => (&STATUS, &STATUS_SECOND),
        Field::Size => (&SIZE, &[]),
        Field::Forwarded => (&FORWARDED, &[]),
        Field::Server => (&SERVER, &[]),
        Field::Realip => (&REALIP, &[]),
    };
    let place_in = |names: &[&str]| names.iter().position(|known| *known == name.text());
    if let Some(place) = place_in(first) {
        return Some(Rank { is_second_choice: false, depth, place });
    }
    Some(Rank { is_second_choice: true, depth, place: place_in(second)? })
}

/// Returns whether the last part of a path can name a client's address, whatever object it stands in.
pub(crate) fn is_address_name(leaf: &[u8]) -> bool {
    Plain::of(leaf).is_some_and(|name| ADDR.contains(&name.text()) || ADDR_SECOND.contains(&name.text()))
}

/// Returns whether a field of this name holds what a header says, and not the address of the connection.
pub(crate) fn is_header_name(leaf: &[u8]) -> bool {
    const PARTS: [&str; 5] = ["forward", "xff", "realip", "clientip", "connectingip"];
    Plain::of(leaf).is_some_and(|name| PARTS.iter().any(|part| name.text().contains(part)))
}

/// A name without case and separators.
struct Plain {
    bytes: [u8; MAX_NAME_BYTES],
    len: usize,
}

impl Plain {
    fn of(name: &[u8]) -> Option<Plain> {
        let mut plain = Plain { bytes: [0; MAX_NAME_BYTES], len: 0 };
        for byte in name.iter().filter(|byte| !matches!(byte, b'_' | b'-' | b'@')) {
            *plain.bytes.get_mut(plain.len)? = byte.to_ascii_lowercase();
            plain.len += 1;
        }
        Some(plain)
    }

    fn text(&self) -> &str {
        let text = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_every_spelling_and_in_their_groups() {
        let known = |field, path: &str| rank(field, path.as_bytes()).is_some();
        for path in
            ["remote_addr", "RemoteAddr", "remote-addr", "request.remote_ip", "ClientHost", "source.ip"]
        {
            assert!(known(Field::Addr, path), "{path}");
        }
        for path in ["@timestamp", "time_local", "StartUTC", "@nginx_fields.time_iso8601"] {
            assert!(known(Field::Time, path), "{path}");
        }
        assert!(known(Field::Status, "http.response.status_code"));
        assert!(known(Field::Size, "http.response.body.bytes"));
        assert!(!known(Field::Addr, "request.headers.remote_addr"), "headers are the client's");
        assert!(!known(Field::Addr, "junk.remote_addr"));
        assert!(!known(Field::Time, "request_time"), "a duration");
    }

    #[test]
    fn the_connection_goes_before_a_header_and_the_outer_object_before_an_inner_one() {
        let rank = |path: &str| rank(Field::Addr, path.as_bytes()).unwrap();
        assert!(rank("remote_addr") < rank("client_ip"));
        assert!(rank("remote_addr") < rank("request.remote_addr"));
        assert!(rank("request.remote_ip") < rank("request.client_ip"));
        assert!(rank("client_ip").is_second_choice());
    }
}
