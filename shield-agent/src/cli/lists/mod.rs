//! Ban lists in the formats of other tools: parsed into entries, written from bans. Pure; one file per format.

pub(crate) mod bounds;
mod crowdsec;
mod fail2ban;
mod plain;
mod shield;

use clap::ValueEnum;

use crate::api::types::{Ban, Term};
use crate::text::printable;
use shield_engine::client::Client;

/// The format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Detected from the content
    Auto,
    /// Shield's own JSON, as `export` and `bans --json` write it
    Shield,
    /// One address or network a line; `#` and `;` begin a comment, which becomes the reason
    Plain,
    /// CrowdSec: `cscli decisions list -o json` or `-o raw`, and the JSON and CSV of `cscli decisions import`
    Crowdsec,
    /// fail2ban: `fail2ban-client banned`, `… status JAIL`, `… get JAIL banip --with-time`
    #[value(name = "fail2ban")]
    Fail2ban,
}

/// One valid entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub client: Client,
    /// The term from now; `None` when the list has none.
    pub term: Option<Term>,
    /// The list's reason or comment.
    pub reason: Option<String>,
}

/// An invalid entry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Wrong {
    /// `line 7`, `entry 3`.
    pub place: String,
    pub why: String,
}

/// A parsed list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub entries: Vec<Entry>,
    pub wrong: Vec<Wrong>,
    /// Entries that have ended, or that are not bans (a captcha).
    pub passed_over: usize,
    /// Entries that are imported, but not quite as written or only because of `--force`.
    pub remarks: Vec<Wrong>,
}

impl Parsed {
    /// Both are shown in a terminal, and may hold text of the list.
    fn wrong(&mut self, place: String, why: impl Into<String>) {
        self.wrong.push(Wrong { place: printable(&place), why: printable(&why.into()) });
    }

    /// Adds an entry whose ban ends in `left_secs`; it has ended when that is not positive.
    fn add_until(&mut self, client: Client, left_secs: i64, reason: Option<String>) {
        match u64::try_from(left_secs) {
            Ok(secs) if secs > 0 => {
                self.entries.push(Entry { client, term: Some(Term::Secs(secs)), reason });
            }
            _ => self.passed_over += 1,
        }
    }
}

/// The present and the time zone of a list.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// Now, in milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// The zone of times written without one.
    pub zone: jiff::tz::TimeZone,
}

/// Parses a list. An error concerns the whole list; invalid entries are in the result.
pub(crate) fn parse(text: &str, format: ListFormat, reading: &Reading) -> Result<Parsed, String> {
    let text = text.trim_start_matches('\u{feff}');
    match format {
        ListFormat::Auto => parse(text, detect(text)?, reading),
        ListFormat::Shield => shield::parse(text, reading.now_ms),
        ListFormat::Plain => Ok(plain::parse(text)),
        ListFormat::Crowdsec => crowdsec::parse(text),
        ListFormat::Fail2ban => fail2ban::parse(text, reading),
    }
}

/// Writes bans as a list that [`parse`] and the other tool read.
pub(crate) fn write(bans: &[Ban], format: ListFormat, reading: &Reading) -> String {
    match format {
        ListFormat::Auto | ListFormat::Shield => shield::write(bans, reading.now_ms),
        ListFormat::Plain => plain::write(bans),
        ListFormat::Crowdsec => crowdsec::write(bans),
        ListFormat::Fail2ban => fail2ban::write(bans, reading),
    }
}

/// Detects the format; plain when it looks like no other.
fn detect(text: &str) -> Result<ListFormat, String> {
    let begin = text.trim_start();
    let first_line = begin.lines().next().unwrap_or_default();
    match begin.chars().next() {
        None => Err("the list is empty".to_owned()),
        Some('{') => Ok(ListFormat::Shield),
        Some('[') if fail2ban::is_banned_output(begin) => Ok(ListFormat::Fail2ban),
        Some('[') => Ok(ListFormat::Crowdsec),
        Some(_) if begin.trim_end() == "null" || crowdsec::is_heading(first_line) => Ok(ListFormat::Crowdsec),
        Some(_) if fail2ban::is_text(begin) => Ok(ListFormat::Fail2ban),
        Some(_) => Ok(ListFormat::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::verdict::Rule;

    const NOW_MS: i64 = 1_778_537_253_000;

    fn reading() -> Reading {
        Reading { now_ms: NOW_MS, zone: jiff::tz::TimeZone::UTC }
    }

    /// A list in short: `client term reason`, an entry a line; then what was not understood.
    fn in_short(parsed: &Parsed) -> String {
        let term = |term: Option<Term>| match term {
            None => "-".to_owned(),
            Some(Term::Next) => "next".to_owned(),
            Some(Term::Permanent) => "permanent".to_owned(),
            Some(Term::Secs(secs)) => format!("{secs}s"),
        };
        let entry =
            |e: &Entry| format!("{} {} {}\n", e.client, term(e.term), e.reason.as_deref().unwrap_or("-"));
        let wrong = |wrong: &Wrong| format!("! {}: {}\n", wrong.place, wrong.why);
        let passed = if parsed.passed_over > 0 {
            format!("passed over {}\n", parsed.passed_over)
        } else {
            String::new()
        };
        parsed.entries.iter().map(entry).chain(parsed.wrong.iter().map(wrong)).chain([passed]).collect()
    }

    fn check(text: &str, format: ListFormat, expected: &str) {
        for format in [format, ListFormat::Auto] {
            let parsed = parse(text, format, &reading()).unwrap();
            assert_eq!(in_short(&parsed), expected, "{format:?}: {text}");
        }
    }

    #[test]
    fn plain_lists() {
        let list = "\u{feff}# a comment\n192.0.2.7\n\n 198.51.100.0/24 ; SBL1\r\n2001:db8::1, x\n203.0.113.9 # scans\n";
        let expected = "192.0.2.7 - -\n198.51.100.0/24 - SBL1\n2001:db8::1/128 - -\n203.0.113.9 - scans\n";
        check(list, ListFormat::Plain, expected);
        let wrong = "192.0.2.7\n192.0.2.256\nevil.example # who?\nfe80::1%eth0\n";
        let expected = "192.0.2.7 - -\n\
            ! line 2: \"192.0.2.256\" is neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/64\n\
            ! line 3: \"evil.example\" is neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/64\n\
            ! line 4: \"fe80::1%eth0\" is neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/64\n";
        check(wrong, ListFormat::Plain, expected);
    }

    #[test]
    fn crowdsec_decisions() {
        let listed = r#"[{"id": 1, "scenario": "crowdsecurity/http-probing", "decisions": [
            {"duration": "3h59m49s", "origin": "crowdsec", "scenario": "crowdsecurity/http-probing", "scope": "Ip",
             "type": "ban", "value": "192.0.2.7", "simulated": false},
            {"duration": "1h0m0.5s", "scope": "Range", "type": "ban", "value": "198.51.100.0/24"},
            {"duration": "4h", "scope": "Ip", "type": "captcha", "value": "192.0.2.9"},
            {"duration": "-5m", "scope": "Ip", "type": "ban", "value": "192.0.2.10"},
            {"duration": "4h", "scope": "Country", "type": "ban", "value": "XX"},
            {"duration": "4h", "scope": "Ip", "type": "ban"}]}]"#;
        let expected = "192.0.2.7 14389s crowdsecurity/http-probing\n198.51.100.0/24 3600s -\n\
            ! entry 5: the scope Country is neither Ip nor Range\n! entry 6: no value\npassed over 2\n";
        check(listed, ListFormat::Crowdsec, expected);
        check("null", ListFormat::Crowdsec, "");
        let flat = r#"[{"duration":"24h","reason":"manual","scope":"ip","type":"ban","value":"192.0.2.7"}]"#;
        check(flat, ListFormat::Crowdsec, "192.0.2.7 86400s manual\n");
        let raw = "id,source,ip,reason,action,country,as,events_count,expiration,simulated,alert_id\n\
            7,crowdsec,Ip:192.0.2.7,\"probing, again\",ban,XX,64500 Example,11,3h59m49s,false,9\n";
        check(raw, ListFormat::Crowdsec, "192.0.2.7 14389s probing, again\n");
        let csv = "duration,reason,scope,type,value\n24h,manual,Ip,ban,192.0.2.7\n24h,manual,Ip,ban\n";
        check(csv, ListFormat::Crowdsec, "192.0.2.7 86400s manual\n! entry 2: no value\n");
    }

    #[test]
    fn fail2ban_output() {
        let banned = "[{'sshd': ['192.0.2.7', '2001:db8::1']}, {'nginx-botsearch': []}]";
        check(banned, ListFormat::Fail2ban, "192.0.2.7 - fail2ban sshd\n2001:db8::1/128 - fail2ban sshd\n");
        let status = "Status for the jail: sshd\n|- Filter\n|  `- Total failed:\t5\n`- Actions\n   |- Currently banned:\t2\n   \
            `- Banned IP list:\t192.0.2.7 198.51.100.8\n";
        check(status, ListFormat::Fail2ban, "192.0.2.7 - fail2ban sshd\n198.51.100.8 - fail2ban sshd\n");
        let unnamed = "Status for the jail: \n`- Banned IP list: 192.0.2.7 nobody\n";
        let expected = "192.0.2.7 - fail2ban\n! list: \"nobody\" is neither an IP address nor a network such as \
            192.0.2.0/24 or 2001:db8::/64\n";
        check(unnamed, ListFormat::Fail2ban, expected);
        let with_time = "192.0.2.7 \t2026-05-11 22:00:00 + 600 = 2026-05-11 22:10:00\n\
            192.0.2.8 \t2026-05-11 20:00:00 + 600 = 2026-05-11 20:10:00\n\
            192.0.2.9 \t2026-05-11 20:00:00 + -1 = 9999-12-31 23:59:59\n\
            192.0.2.10 \t2026-05-11 + 600 = then\n";
        let expected = "192.0.2.7 147s fail2ban\n192.0.2.9 permanent fail2ban\n\
            ! line 4: \"then\" is not a time such as `2026-05-11 22:10:00`\npassed over 1\n";
        check(with_time, ListFormat::Fail2ban, expected);
    }

    #[test]
    fn shields_own() {
        let list = format!(
            r#"{{"format": "shield-bans", "version": 1, "bans": [
                {{"client": "192.0.2.7", "ends_ms": {}, "rule": "probing"}},
                {{"client": "192.0.2.8", "ends_ms": null, "rule": "operator", "reason": "scraping"}},
                {{"client": "192.0.2.9", "ends_ms": 1000}}, {{"client": "nobody"}}, {{"ends_ms": 1}}]}}"#,
            NOW_MS + 90_500
        );
        let expected = "192.0.2.7 91s probing\n192.0.2.8 permanent scraping\n\
            ! entry 4: \"nobody\" is neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/64\n\
            ! entry 5: missing field `client`\npassed over 1\n";
        check(&list, ListFormat::Shield, expected);
    }

    #[test]
    fn what_is_no_list_at_all_is_refused_with_the_reason() {
        let check = |text: &str, format, expected: &str| {
            let error = parse(text, format, &reading()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(" \n", ListFormat::Auto, "empty");
        check("{", ListFormat::Auto, "not JSON");
        check("{\"bans\": 3}", ListFormat::Auto, "`bans`");
        check("{\"format\": \"shield-bans\", \"version\": 2, \"bans\": []}", ListFormat::Auto, "version 2");
        check("[{\"value\": ", ListFormat::Auto, "not JSON");
        check("192.0.2.7", ListFormat::Shield, "not JSON");
        check("a,b\n1,2\n", ListFormat::Crowdsec, "neither JSON nor CSV");
        check("192.0.2.7\n", ListFormat::Fail2ban, "not the output of fail2ban-client");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let ban = |client: &str, ends_ms| Ban {
            client: client.parse().unwrap(),
            serial: 1,
            since_ms: NOW_MS - 60_000,
            ends_ms,
            remaining_secs: ends_ms.map(|end: i64| (end - NOW_MS).unsigned_abs() / 1000),
            offence: 1,
            rule: Rule::Probing,
            reason: Some("scans, \"again\"".into()),
            words: String::new(),
            evidence: None,
            dropped: None,
            leaking: None,
            owner: None,
            enforced_by: None,
        };
        let bans = [ban("192.0.2.7", Some(NOW_MS + 90_000)), ban("2001:db8:1::/64", None)];
        let read = |format| {
            let text = write(&bans, format, &reading());
            in_short(&parse(&text, ListFormat::Auto, &reading()).unwrap())
        };
        assert_eq!(
            read(ListFormat::Shield),
            "192.0.2.7 90s scans, \"again\"\n2001:db8:1::/64 permanent scans, \"again\"\n"
        );
        assert_eq!(
            read(ListFormat::Plain),
            "192.0.2.7 - scans, \"again\"\n2001:db8:1::/64 - scans, \"again\"\n"
        );
        let long = crowdsec::PERMANENT_HOURS * 3600;
        assert_eq!(
            read(ListFormat::Crowdsec),
            format!("192.0.2.7 90s scans, \"again\"\n2001:db8:1::/64 {long}s scans, \"again\"\n")
        );
        assert_eq!(
            read(ListFormat::Fail2ban),
            "192.0.2.7 90s fail2ban\n2001:db8:1::/64 permanent fail2ban\n"
        );
    }
}
