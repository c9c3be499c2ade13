//! The header that nginx puts before a line that it sends by syslog.

/// Strips the header `<PRI>Mon dd hh:mm:ss HOST TAG: ` from a syslog datagram. With nginx's `nohostname` HOST is missing.
///
/// The header ends at the first `: `, because nginx writes it and neither host nor tag can contain one.
pub fn message(datagram: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(datagram, b": ").filter(|_| datagram.first() == Some(&b'<'));
    let text = end.and_then(|end| datagram.get(end + 2..)).unwrap_or(datagram);
    text.strip_suffix(b"\n").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::message;

    const LINE: &str = r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"status":200}"#;

    #[test]
    fn the_syslog_header_is_cut_off() {
        let check = |datagram: &str, expected: &str| {
            assert_eq!(message(datagram.as_bytes()), expected.as_bytes(), "{datagram}");
        };
        check(&format!("<190>Nov 24 14:35:01 web nginx: {LINE}"), LINE);
        check(&format!("<190>Nov 24 14:35:01 nginx: {LINE}\n"), LINE);
        check(LINE, LINE);
    }
}
