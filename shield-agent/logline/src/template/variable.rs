//! nginx's variables: what Shield takes from them, and which bytes they can contain.
//!
//! The bytes decide where a field ends for certain. Whatever a client can influence counts as text that may contain anything
//! that nginx does not escape; so does a variable that is not known here.

use super::Escape;

/// What Shield takes from a field. The discriminants index the spans of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Addr,
    Forwarded,
    Time,
    Request,
    Method,
    Path,
    Args,
    Status,
    Size,
    Host,
    Server,
    /// The connection's address, beside the client's.
    Realip,
    User,
    /// Nothing.
    Skip,
}

impl Take {
    pub(crate) const COUNT: usize = Take::Skip as usize + 1;
}

/// The kinds of text that variables contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// One address, or `unix:`.
    Addr,
    /// Digits, dots and dashes.
    Number,
    /// Several values of upstream servers, with blanks between.
    List,
    /// `24/Nov/2026:14:35:01 +0100`, always of one length.
    TimeLocal,
    TimeIso,
    /// A word that nginx or the administrator chose.
    Word,
    /// `HTTP/1.1`.
    Protocol,
    /// A host that nginx has validated: no blank and no control character.
    Host,
    /// Anything.
    Text,
}

/// The variable with the connection's address before nginx's realip module replaced it.
pub(crate) const REALIP: &str = "realip_remote_addr";

/// The length of `$time_local`.
pub(crate) const TIME_LOCAL_BYTES: usize = 26;

/// A variable of nginx's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variable {
    pub class: Class,
    /// What it is taken for, with its place among the variables for the same: less is preferred.
    pub role: Option<(Take, u8)>,
}

impl Variable {
    pub(crate) fn named(name: &str) -> Variable {
        let (class, role) = match name {
            "remote_addr" => (Class::Addr, Some((Take::Addr, 0))),
            REALIP => (Class::Addr, Some((Take::Addr, 1))),
            "proxy_protocol_addr" => (Class::Addr, Some((Take::Addr, 2))),
            "proxy_add_x_forwarded_for" => (Class::Text, Some((Take::Forwarded, 1))),
            "http_x_forwarded_for" => (Class::Text, Some((Take::Forwarded, 0))),
            "time_iso8601" => (Class::TimeIso, Some((Take::Time, 0))),
            "time_local" => (Class::TimeLocal, Some((Take::Time, 1))),
            "msec" => (Class::Number, Some((Take::Time, 2))),
            "request" => (Class::Text, Some((Take::Request, 0))),
            "request_method" => (Class::Word, Some((Take::Method, 0))),
            "request_uri" => (Class::Text, Some((Take::Path, 0))),
            "uri" | "document_uri" => (Class::Text, Some((Take::Path, 1))),
            "args" | "query_string" => (Class::Text, Some((Take::Args, 0))),
            "status" => (Class::Number, Some((Take::Status, 0))),
            "body_bytes_sent" => (Class::Number, Some((Take::Size, 0))),
            "bytes_sent" => (Class::Number, Some((Take::Size, 1))),
            "host" => (Class::Host, Some((Take::Host, 0))),
            // Unlike `$host`, no client can choose it.
            "server_name" => (Class::Host, Some((Take::Server, 0))),
            "hostname" => (Class::Host, None),
            "remote_user" => (Class::Text, Some((Take::User, 0))),
            "server_addr" | "proxy_protocol_server_addr" => (Class::Addr, None),
            "request_length"
            | "request_time"
            | "connection"
            | "connection_requests"
            | "connection_time"
            | "pid"
            | "gzip_ratio"
            | "remote_port"
            | "server_port"
            | "realip_remote_port"
            | "proxy_protocol_port"
            | "proxy_protocol_server_port"
            | "content_length_sent" => (Class::Number, None),
            "upstream_addr"
            | "upstream_status"
            | "upstream_response_time"
            | "upstream_response_length"
            | "upstream_connect_time"
            | "upstream_header_time"
            | "upstream_bytes_received"
            | "upstream_bytes_sent"
            | "upstream_queue_time" => (Class::List, None),
            "server_protocol" => (Class::Protocol, None),
            "scheme"
            | "https"
            | "http2"
            | "http3"
            | "pipe"
            | "is_args"
            | "request_id"
            | "request_completion"
            | "ssl_protocol"
            | "ssl_cipher"
            | "ssl_session_reused"
            | "upstream_cache_status"
            | "nginx_version"
            | "connections_active" => (Class::Word, None),
            _ => (Class::Text, None),
        };
        Variable { class, role }
    }
}

/// Returns whether a value of this class may contain `byte` as it is written to the log.
///
/// A quote that nginx escaped with a backslash does not count for a reader that skips escaped bytes, which is only possible
/// from the left (`from_left`).
pub(crate) fn may_contain(class: Class, escape: Escape, byte: u8, from_left: bool) -> bool {
    let is_of = |others: &[u8]| byte.is_ascii_alphanumeric() || others.contains(&byte);
    match class {
        Class::Addr => is_of(b".:%_/"),
        Class::Number => byte.is_ascii_digit() || matches!(byte, b'.' | b'-'),
        Class::List => is_of(b".,:-_/[] "),
        Class::TimeLocal => is_of(b"/:+- "),
        Class::TimeIso => is_of(b":+-"),
        Class::Word => is_of(b"-._"),
        Class::Protocol => is_of(b"-._/"),
        Class::Host => byte > b' ' && text_may_contain(escape, byte, from_left),
        Class::Text => text_may_contain(escape, byte, from_left),
    }
}

fn text_may_contain(escape: Escape, byte: u8, from_left: bool) -> bool {
    match (escape, byte) {
        (_, b'\n') => false,
        (Escape::None, _) => true,
        (Escape::Default, b'"') => false,
        (Escape::Json | Escape::Any, b'"') => !from_left,
        (_, 0..0x20) => false,
        (Escape::Default, 0x7f..) => false,
        _ => true,
    }
}

/// Returns whether a value can contain a line break that `escape=none` writes as it is: a part of the request that nginx decodes, or
/// that has none of a header's limits.
pub(crate) fn may_break_the_line(name: &str) -> bool {
    let is_decoded = matches!(
        name,
        "uri"
            | "document_uri"
            | "remote_user"
            | "request_body"
            | "request_filename"
            | "fastcgi_script_name"
            | "fastcgi_path_info"
    );
    is_decoded || name.starts_with("ssl_client_") || name.bytes().all(|byte| byte.is_ascii_digit())
}
