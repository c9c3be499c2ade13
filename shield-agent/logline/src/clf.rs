//! The `common` and `combined` formats: `ADDR IDENT USER [TIME] "REQUEST" STATUS SIZE`, with anything behind.
//!
//! nginx and Apache escape quotes in the request, so it ends at the first bare quote. Where another program does not escape
//! them, it ends at the first quote that a status follows, and the line counts as recovered (`salvaged`).

use memchr::{memchr, memchr_iter, memrchr};

use super::fields::{MAX_STATUS, Reader, Texts, decimal};
use super::text::{closing_quote, unescape};
use shield_engine::request::{Line, Rejected};

/// `24/Nov/2026:14:35:01 +0000`.
const TIME_BYTES: usize = 26;

/// Reads one line without its newline.
pub(crate) fn read(line: &[u8], reader: &mut Reader, texts: &mut Texts<'_>) -> Result<Line, Rejected> {
    let addr_end = memchr(b' ', line).ok_or(Rejected::Malformed)?;
    let (addr, rest) = line.split_at(addr_end);
    let (time, rest) = split_time(rest).ok_or(Rejected::Malformed)?;
    let client = reader.proxies.attribute(addr, b"").ok_or(Rejected::NoAddress)?;
    let time = reader.times.parse(time).ok_or(Rejected::NoTime)?;
    let request = split_request(rest).ok_or(Rejected::NoStatus)?;
    let (method, path) = split_target(request.text);
    let (method, path) = (unescape(method), unescape(path));
    Ok(Line {
        addr: client.addr,
        time,
        method_at: texts.place(&method),
        method_len: u16::try_from(method.len()).unwrap_or(u16::MAX),
        path_at: texts.place(&path),
        path_len: u32::try_from(path.len()).unwrap_or(u32::MAX),
        status: request.status,
        size: request.size,
        behind_proxy: client.behind_proxy,
        salvaged: request.salvaged,
    })
}

/// Splits off the time: the first bracketed text of its length with the request behind it, because a user name may contain
/// brackets.
fn split_time(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    memchr_iter(b'[', rest).find_map(|at| {
        let (time, after) = rest.get(at + 1..)?.split_at_checked(TIME_BYTES)?;
        Some((time, after.strip_prefix(b"] \"")?))
    })
}

/// The quoted request, with status and size behind it.
struct Exchange<'a> {
    text: &'a [u8],
    status: u16,
    size: u64,
    salvaged: bool,
}

fn split_request(rest: &[u8]) -> Option<Exchange<'_>> {
    let first = closing_quote(rest, 0);
    let ending_at = |end: usize, salvaged| {
        let (status, size) = read_response(rest.get(end + 1..)?)?;
        Some(Exchange { text: rest.get(..end)?, status, size, salvaged })
    };
    let bare = first.and_then(|end| ending_at(end, false));
    bare.or_else(|| memchr_iter(b'"', rest).find_map(|end| ending_at(end, true)))
}

/// Reads ` STATUS SIZE`; a size of `-` is 0.
fn read_response(after: &[u8]) -> Option<(u16, u64)> {
    let (status, rest) = after.strip_prefix(b" ")?.split_at_checked(3)?;
    let status = u16::try_from(decimal(status)?).ok().filter(|status| *status <= MAX_STATUS)?;
    let rest = rest.strip_prefix(b" ")?;
    let size = rest.get(..memchr(b' ', rest).unwrap_or(rest.len()))?;
    if size == b"-" { Some((status, 0)) } else { Some((status, decimal(size)?)) }
}

/// Splits `METHOD PATH PROTOCOL` into method and path. A malformed request (`-`, TLS sent to the HTTP port) has no method,
/// and its text, if there is any, is the path.
fn split_target(request: &[u8]) -> (&[u8], &[u8]) {
    let Some(first) = memchr(b' ', request) else {
        return (b"", if request == b"-" { b"" } else { request });
    };
    let (method, rest) = request.split_at(first);
    let rest = rest.get(1..).unwrap_or_default();
    let end =
        memrchr(b' ', rest).filter(|at| rest.get(at + 1..).is_some_and(|proto| proto.starts_with(b"HTTP/")));
    (method, rest.get(..end.unwrap_or(rest.len())).unwrap_or_default())
}
