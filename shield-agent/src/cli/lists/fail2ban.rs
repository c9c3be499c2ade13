//! Output of fail2ban-client: `banned` (a Python list of jails), `status JAIL` (a line of addresses), and
//! `get JAIL banip --with-time` (a line an address, with its end in the host's zone), which `write` also makes.

use jiff::civil::DateTime;
use serde_json::Value;

use super::{Entry, Parsed, Reading};
use crate::api::types::{Ban, Term};
use shield_engine::client::Client;

const LIST_LABEL: &str = "Banned IP list:";
const JAIL_LABEL: &str = "Status for the jail:";
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// The seconds and the end that fail2ban prints for a ban without one.
const PERMANENT_SECS: &str = "-1";
const PERMANENT_END: &str = "9999-12-31 23:59:59";

/// Recognises `fail2ban-client banned`: a list of jails, where CrowdSec prints one of decisions.
pub(super) fn is_banned_output(text: &str) -> bool {
    let inside = text.trim_start().trim_start_matches('[').trim_start();
    inside.starts_with("{'")
}

/// Recognises the other outputs.
pub(super) fn is_text(text: &str) -> bool {
    text.contains(LIST_LABEL) || text.lines().any(|line| timed(line).is_some())
}

pub(super) fn parse(text: &str, reading: &Reading) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    if text.trim_start().starts_with('[') {
        jails(text, &mut parsed)?;
    } else if text.contains(LIST_LABEL) {
        status(text, &mut parsed);
    } else if is_text(text) {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            if let Err(why) = read_timed(line, reading, &mut parsed) {
                parsed.wrong(format!("line {}", at + 1), why);
            }
        }
    } else {
        return Err(
            "this is not the output of fail2ban-client banned, status or get … banip --with-time".to_owned()
        );
    }
    Ok(parsed)
}

/// `[{'sshd': ['192.0.2.7']}, {'nginx': []}]`: Python's quotes made JSON's.
fn jails(text: &str, parsed: &mut Parsed) -> Result<(), String> {
    let list: Value = serde_json::from_str(&text.replace('\'', "\""))
        .map_err(|error| format!("this is not the output of fail2ban-client banned: {error}"))?;
    for (jail, addresses) in list.as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        for address in addresses.as_array().into_iter().flatten().filter_map(Value::as_str) {
            add(address, Some(jail), parsed);
        }
    }
    Ok(())
}

fn status(text: &str, parsed: &mut Parsed) {
    let mut jail = None;
    for line in text.lines() {
        if let Some((_, name)) = line.split_once(JAIL_LABEL) {
            jail = Some(name.trim());
        } else if let Some((_, addresses)) = line.split_once(LIST_LABEL) {
            addresses.split_whitespace().for_each(|address| add(address, jail, parsed));
        }
    }
}

/// A jail without a name, as a damaged output has one, is none.
fn add(address: &str, jail: Option<&str>, parsed: &mut Parsed) {
    let jail = jail.filter(|name| !name.trim().is_empty());
    match address.parse::<Client>() {
        Ok(client) => parsed.entries.push(Entry { client, term: None, reason: Some(reason(jail)) }),
        Err(error) => parsed.wrong(jail.unwrap_or("list").to_owned(), error.to_string()),
    }
}

fn reason(jail: Option<&str>) -> String {
    jail.map_or("fail2ban".to_owned(), |jail| format!("fail2ban {jail}"))
}

/// `ADDRESS \tSTART + SECONDS = END`, taken apart.
fn timed(line: &str) -> Option<(&str, &str, &str)> {
    let (begin, end) = line.split_once(" = ")?;
    let (begin, secs) = begin.rsplit_once(" + ")?;
    let address = begin.split_whitespace().next()?;
    secs.trim().parse::<i64>().ok()?;
    Some((address, secs.trim(), end.trim()))
}

fn read_timed(line: &str, reading: &Reading, parsed: &mut Parsed) -> Result<(), String> {
    let (address, secs, end) = timed(line).ok_or("not of the form `ADDRESS START + SECONDS = END`")?;
    let client: Client = address.parse().map_err(|error| format!("{error}"))?;
    if secs == PERMANENT_SECS {
        parsed.entries.push(Entry { client, term: Some(Term::Permanent), reason: Some(reason(None)) });
        return Ok(());
    }
    let wrong = |_| format!("{end:?} is not a time such as `2026-05-11 22:10:00`");
    let civil = DateTime::strptime(TIME_FORMAT, end).map_err(wrong)?;
    let end_ms = reading.zone.to_timestamp(civil).map_err(wrong)?.as_millisecond();
    parsed.add_until(client, (end_ms - reading.now_ms) / 1000, Some(reason(None)));
    Ok(())
}

/// Writes lines as `get JAIL banip --with-time` prints them.
pub(super) fn write(bans: &[Ban], reading: &Reading) -> String {
    let time = |ms: i64| {
        let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
        reading.zone.to_datetime(moment).strftime(TIME_FORMAT).to_string()
    };
    let line = |ban: &Ban| {
        let since = time(ban.since_ms);
        match ban.ends_ms {
            Some(end) => {
                let secs = (end - ban.since_ms) / 1000;
                format!("{} \t{since} + {secs} = {}\n", ban.client, time(end))
            }
            None => format!("{} \t{since} + {PERMANENT_SECS} = {PERMANENT_END}\n", ban.client),
        }
    };
    bans.iter().map(line).collect()
}
