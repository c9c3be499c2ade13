//! The inputs that the fuzzer starts from.

use shield_agent::test_support::api::operation::Operation;
use shield_agent::test_support::fuzz;

use crate::{audit, lists};

/// The file that is installed, whose keys all stand behind a `#`.
const CONFIG: &str = include_str!("../../../../packaging/shield.toml");

/// A list of each kind.
const LISTS: [&str; 8] = [
    "192.0.2.1\n# a comment\n2001:db8::/48 # why\n198.51.100.0/24 ; why\nnonsense\n",
    r#"{"shield":1,"exported":"2027-01-15T08:00:00Z","bans":[{"client":"192.0.2.1","until":"2027-01-15T09:00:00Z","reason":"x"},{"client":"192.0.2.2","until":null}]}"#,
    r#"[{"id":1,"decisions":[{"duration":"3h59m12.5s","scope":"Ip","type":"ban","value":"192.0.2.1","scenario":"x/y"}]}]"#,
    r#"[{"duration":"-5m","scope":"Range","type":"captcha","value":"198.51.100.0/24","origin":"cscli"}]"#,
    "duration,scope,value,reason\n4h,ip,192.0.2.1,\"a, b\"\n",
    "[{'sshd': ['192.0.2.1', '2001:db8::1']}, {'nginx': []}]",
    "Status for the jail: sshd\n|- Filter\n`- Actions\n   `- Banned IP list: 192.0.2.1 192.0.2.2\n",
    "192.0.2.1 \t2027-01-15 08:00:00 + 600 = 2027-01-15 08:10:00\n",
];

/// Bodies and queries for any operation.
const BODIES: [&str; 12] = [
    r#"{"clients":["192.0.2.1","2001:db8::/48"],"term":600,"reason":"by hand"}"#,
    r#"{"clients":["192.0.2.1"],"term":"permanent"}"#,
    r#"{"clients":["192.0.2.1"],"forget":true,"reason":null}"#,
    r#"{"clients":["192.0.2.1"],"here":true}"#,
    r#"{"bans":[{"client":"192.0.2.1","term":3600,"reason":"x"},{"client":"192.0.2.0/24"}],"all_or_nothing":true}"#,
    r#"{"secs":1800,"reason":"maintenance"}"#,
    r#"{"origin":"web-2"}"#,
    "{}",
    "q=192.0.2&sort=ends&limit=50&offset=3&imported=false",
    "client=2001:db8::1&at=1700000000000",
    "limit=7&before=12&kind=banned",
    "range=24h&format=plain&n=9&cursor=50",
];

/// Writes the seeds of `target`, for libFuzzer to begin with.
pub fn write(target: &str) {
    shield_fuzz::write_all_seeds(|| of(target));
}

fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "config" => of_config(),
        "lists" => numbered(lists::FORMATS.len(), &LISTS),
        "bodies" => numbered(Operation::ALL.len(), &BODIES),
        "audit" => of_audit(),
        "database" => of_database(),
        other => panic!("there is no target {other}"),
    }
}

/// Each text behind each first byte.
fn numbered(firsts: usize, texts: &[&str]) -> Vec<Vec<u8>> {
    let of = |first: usize| texts.iter().map(move |text| [&[first as u8], text.as_bytes()].concat());
    (0..firsts).flat_map(of).collect()
}

/// Each section of the installed file with its keys in force.
fn of_config() -> Vec<Vec<u8>> {
    let is_setting = |line: &&str| line.contains('=') || line.starts_with('[');
    let uncommented = CONFIG.lines().map(|line| line.trim_start_matches('#').trim()).filter(is_setting);
    let mut sections: Vec<String> = vec![String::new()];
    for line in uncommented {
        if line.starts_with('[') {
            sections.push(String::new());
        }
        let section = sections.last_mut().expect("there is one");
        section.push_str(line);
        section.push('\n');
    }
    sections.into_iter().map(String::into_bytes).collect()
}

fn of_audit() -> Vec<Vec<u8>> {
    let log = fuzz::audit_log(3);
    let raw = [&[audit::EDITS + 1], log.as_slice()].concat();
    let edits = (0..6).map(|kind| vec![audit::EDITS, kind, 1, 44, b'x', kind, 0, 9, b'}']);
    edits.chain([raw, vec![audit::EDITS]]).collect()
}

fn of_database() -> Vec<Vec<u8>> {
    // The header, the schema's page, a page of rows; and cut in the middle.
    let places: [[u8; 3]; 6] = [[0, 0, 3], [0, 0, 60], [0, 0, 110], [0, 24, 7], [0, 66, 0], [255, 64, 0]];
    let edits = places.into_iter().map(|[high, middle, low]| vec![high, middle, low, 0xff]);
    edits.chain([Vec::new()]).collect()
}
