//! What to do so that a log of a given `log_format` is read: nothing, a setting, or another format.

use super::conf::{self, Notation, Part};
use super::{Escape, Recipe, Unusable};
use crate::{Output, Parser, Settings};

/// What a `log_format` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Its lines are recognised without a setting.
    AsItIs {
        /// The name of what is recognised.
        name: &'static str,
    },
    /// The text for the setting `format`.
    Setting(String),
    /// Its lines cannot be read.
    Unusable(Unusable),
}

/// Advises on a `log_format`, given its `escape=` (`default`, `json`, `none`) and its text without nginx's quotes.
pub fn advise(escape: &str, text: &str) -> Advice {
    let Some(escape) = Escape::named(escape) else {
        return Advice::Unusable(Unusable::Escape(escape.to_owned()));
    };
    let notation = Notation { escape, text: text.to_owned() };
    let pasted = pasted(&notation);
    let recipe = match Recipe::of(&pasted) {
        Ok(recipe) => recipe,
        Err(why) => return Advice::Unusable(why),
    };
    match recognised(&notation) {
        // Without escapes a recogniser may take a client's quote for the end of its text; the format's own reader does not.
        Some(name) if escape != Escape::None || matches!(recipe, Recipe::Json(_)) => Advice::AsItIs { name },
        _ => Advice::Setting(pasted),
    }
}

/// The shortest text for the setting that is read as this format.
fn pasted(notation: &Notation) -> String {
    if conf::read(&notation.text).as_ref() == Ok(notation) {
        return notation.text.clone();
    }
    let word = match notation.escape {
        Escape::Json => "escape=json ",
        Escape::None => "escape=none ",
        Escape::Default | Escape::Any => "",
    };
    format!("{word}'{}'", notation.text.replace('\'', "\\'"))
}

/// Returns the name by which an ordinary line of this format is recognised and read rightly.
fn recognised(notation: &Notation) -> Option<&'static str> {
    let mut line = Vec::new();
    for part in conf::parts(&notation.text).ok()? {
        match part {
            Part::Literal(text) => line.extend_from_slice(text.as_bytes()),
            Part::Variable(name) => line.extend_from_slice(sample(&name).as_bytes()),
        }
    }
    let mut parser = Parser::new(&Settings::default());
    let (end, mut out) = (line.len(), Output::default());
    let mut block = line;
    parser.parse_single(&mut block, 0, end, &mut out);
    let read = out.lines.first()?;
    let path = block.get(read.path_at as usize..)?.get(..read.path_len as usize)?;
    let has_path = ["$request", "$uri", "$document_uri"].iter().any(|name| notation.text.contains(name));
    let is_right =
        read.addr.to_string() == ADDR && read.status == STATUS && read.time == SECOND && !read.salvaged;
    (is_right && (path == b"/a" || !has_path)).then(|| parser.recognised().unwrap_or("JSON"))
}

const ADDR: &str = "198.51.100.7";
const STATUS: u16 = 418;
/// 2026-11-24T14:35:01Z.
const SECOND: i64 = 1_795_530_901;

fn sample(variable: &str) -> &'static str {
    match variable {
        "remote_addr" | "realip_remote_addr" | "proxy_protocol_addr" => ADDR,
        "status" => "418",
        "time_local" => "24/Nov/2026:15:35:01 +0100",
        "time_iso8601" => "2026-11-24T14:35:01+00:00",
        "msec" => "1795530901.123",
        "request" => "GET /a HTTP/1.1",
        "request_method" => "GET",
        "request_uri" | "uri" | "document_uri" => "/a",
        "is_args" => "",
        "args" | "query_string" => "",
        "host" | "http_host" | "server_name" => "www.example.org",
        "scheme" => "https",
        "server_protocol" => "HTTP/1.1",
        // Several, so that the format is recognised whatever a client sends.
        "http_x_forwarded_for" | "proxy_add_x_forwarded_for" => "203.0.113.1, 203.0.113.2",
        "remote_user" => "a b",
        "upstream_addr" => "192.0.2.1:80, 192.0.2.2:80",
        "upstream_status" => "502, 200",
        "upstream_cache_status" => "-",
        "http_referer" => "-",
        "http_user_agent" => "Mozilla/5.0 (X11)",
        _ => "1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_is_needed_is_advised() {
        let as_it_is = |name| Advice::AsItIs { name };
        let setting = |text: &str| Advice::Setting(text.to_owned());
        let check = |escape: &str, text: &str, expected: Advice| {
            assert_eq!(advise(escape, text), expected, "{escape}: {text}");
            if let Advice::Setting(text) = expected {
                assert!(Recipe::of(&text).is_ok(), "{text}");
            }
        };
        let combined = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer""#;
        check("default", combined, as_it_is("combined"));
        check("json", combined, as_it_is("combined"));
        check("default", &format!("$host {combined}"), as_it_is("combined, host first"));
        check(
            "default",
            &combined.replace("time_local", "time_iso8601"),
            as_it_is("combined with ISO times"),
        );
        let other = "$remote_addr $msec $status $request_uri";
        check("default", other, setting(other));
        check("json", other, setting(&format!("escape=json '{other}'")));
        let quoted = r#""$remote_addr" "$msec" "$status" "$request_uri""#;
        check("default", quoted, setting(quoted));
        let single = other.replace(' ', "' '");
        check("default", &format!("'{single}'"), setting(&format!("'{single}'")));
        check("default", &format!("'{other}'"), setting(&format!("'\\'{other}\\''")));
        check("json", r#"{"source_ip":"$remote_addr","timestamp":$msec,"status":$status}"#, as_it_is("JSON"));
        check(
            "json",
            r#"{"q":"$remote_addr","w":$msec,"e":$status}"#,
            setting(r#"escape=json '{"q":"$remote_addr","w":$msec,"e":$status}'"#),
        );
        check(
            "none",
            r#"{"source_ip":"$remote_addr","timestamp":$msec,"status":$status,"path":"$request_uri"}"#,
            Advice::Unusable(Unusable::UnescapedJson { variable: "request_uri".into() }),
        );
        // Nothing in it is a client's.
        check("none", r#"{"source_ip":"$remote_addr","timestamp":$msec,"status":$status}"#, as_it_is("JSON"));
        check("none", combined, Advice::Unusable(Unusable::BreaksLines { variable: "remote_user".into() }));
        let none = "$remote_addr $msec $status $request";
        check("none", none, setting(&format!("escape=none '{none}'")));
    }
}
