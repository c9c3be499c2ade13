//! What CrowdSec's local API is to be told of this host's own bans: each once, and each that ended before its end. Pure: the time
//! comes in.
//!
//! The ledger says what is wanted, the server what it has been told: what differs is due. So nothing is queued on the disk, and a
//! start asks the server alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::own_bans::OwnBan;
use crate::text;
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::Rule;

/// A ban that ends within this time is not worth an alert.
const LEAST_LEFT_MS: i64 = 5_000;
/// Stands for a permanent ban, which CrowdSec does not have: ten years.
const LONGEST_MS: i64 = 87_600 * 3_600_000;
/// Ends that are no farther apart are the same: clocks are set, and durations rounded.
const SAME_MS: i64 = 60_000;

/// Why a ban is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// It is on CrowdSec's allowlist.
    Allowed,
    /// The server does not take it.
    Refused,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    Tell(Alert),
    TakeBack(Client),
}

impl Due {
    pub(super) fn client(&self) -> Client {
        match self {
            Due::Tell(alert) => alert.client,
            Due::TakeBack(client) => *client,
        }
    }
}

/// A ban to tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alert {
    pub client: Client,
    pub rule: Rule,
    pub since_ms: i64,
    /// The server counts the duration from `stop_at`, so that both come from the same moment.
    pub now_ms: i64,
    pub left_ms: i64,
}

impl Alert {
    /// As `POST /v1/alerts` takes it. What clients asked for is not in it: the server may pass it on.
    pub(super) fn body(&self, origin: &str) -> Value {
        let scenario = format!("shield/{}", self.rule);
        let (scope, value) = scope(self.client);
        let time = |ms| jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string();
        json!({
            "scenario": scenario,
            "scenario_hash": "",
            "scenario_version": "",
            "message": text::crowdsec::alert(self.client, self.rule),
            "events_count": 1,
            "events": [],
            "start_at": time(self.since_ms.min(self.now_ms)),
            "stop_at": time(self.now_ms),
            "capacity": 0,
            "leakspeed": "0",
            "simulated": false,
            "remediation": true,
            "source": { "scope": scope, "value": value },
            "decisions": [{
                "duration": format!("{}ms", self.left_ms),
                "origin": origin,
                "scenario": scenario,
                "scope": scope,
                "type": "ban",
                "value": value,
            }],
        })
    }

    fn ends_ms(&self) -> i64 {
        self.now_ms + self.left_ms
    }
}

/// The scope and the value by which CrowdSec knows a client: an IPv6 prefix is a range.
pub(super) fn scope(client: Client) -> (&'static str, String) {
    let network = client.network();
    match network.prefix_len() == network.max_prefix_len() {
        true => ("Ip", network.addr().to_string()),
        false => ("Range", network.to_string()),
    }
}

#[derive(Debug, Default)]
pub(super) struct Alerts {
    own: BTreeMap<Client, OwnBan>,
    /// What the server has of this host: until when.
    told: BTreeMap<Client, i64>,
    left_out: BTreeMap<Client, LeftOut>,
    /// To be compared, and in which order they came.
    dirty: BTreeMap<Client, u64>,
    turn: u64,
}

impl Alerts {
    /// Bans that are told and in force.
    pub(super) fn told(&self) -> u64 {
        self.told.len() as u64
    }

    /// What is still to be compared, and mostly to be told.
    pub(super) fn waiting(&self) -> u64 {
        self.dirty.len() as u64
    }

    pub(super) fn left_out(&self, why: LeftOut) -> u64 {
        self.left_out.values().filter(|known| **known == why).count() as u64
    }

    /// Takes over all own bans in force.
    pub(super) fn set_all(&mut self, bans: impl IntoIterator<Item = (Client, OwnBan)>) {
        let gone = std::mem::take(&mut self.own);
        let mut bans: Vec<_> = bans.into_iter().collect();
        bans.sort_by_key(|(client, ban)| (ban.since_ms, *client));
        gone.keys().for_each(|client| self.touch(*client));
        // What an earlier run told as well.
        let told: Vec<Client> = self.told.keys().copied().collect();
        told.into_iter().for_each(|client| self.touch(client));
        for (client, ban) in bans {
            self.set(client, ban);
        }
    }

    /// A ban of this host. One that was imported may be CrowdSec's own.
    pub(super) fn set(&mut self, client: Client, ban: OwnBan) {
        match ban.rule {
            Rule::Imported => drop(self.own.remove(&client)),
            _ => drop(self.own.insert(client, ban)),
        }
        self.left_out.remove(&client);
        self.touch(client);
    }

    pub(super) fn extend(&mut self, client: Client, ends: Ends) {
        if let Some(own) = self.own.get_mut(&client) {
            own.ends = ends;
            self.touch(client);
        }
    }

    /// The ban is over, by itself or before its end.
    pub(super) fn over(&mut self, client: Client) {
        self.own.remove(&client);
        self.left_out.remove(&client);
        self.touch(client);
    }

    fn touch(&mut self, client: Client) {
        self.turn += 1;
        self.dirty.insert(client, self.turn);
    }

    /// What the server says that it has of this host.
    pub(super) fn found(&mut self, client: Client, ends_ms: i64) {
        let known = self.told.entry(client).or_insert(ends_ms);
        *known = ends_ms.max(*known);
    }

    /// The server knows nothing of this host any more.
    pub(super) fn forgotten(&mut self) {
        self.told.clear();
        let own: Vec<Client> = self.own.keys().copied().collect();
        own.into_iter().for_each(|client| self.touch(client));
    }

    /// At most `most` things to do, the newest first.
    pub(super) fn due(&mut self, most: usize, now: Now) -> Vec<Due> {
        self.told.retain(|_, ends_ms| *ends_ms > now.wall_ms);
        let mut order: Vec<(Reverse<u64>, Client)> =
            self.dirty.iter().map(|(client, turn)| (Reverse(*turn), *client)).collect();
        order.sort_unstable();
        let mut due = Vec::new();
        for (_, client) in order {
            if due.len() == most {
                break;
            }
            match self.compare(client, now) {
                Some(one) => due.push(one),
                None => drop(self.dirty.remove(&client)),
            }
        }
        due
    }

    fn compare(&self, client: Client, now: Now) -> Option<Due> {
        let told = self.told.get(&client).copied();
        let own = self.own.get(&client).filter(|_| !self.left_out.contains_key(&client));
        let left_ms = own.map(|own| own.ends.remaining_ms(now).map_or(LONGEST_MS, |left| left as i64));
        let left_ms = left_ms.map(|left| left.min(LONGEST_MS)).filter(|left| *left >= LEAST_LEFT_MS);
        match (own, left_ms, told) {
            (Some(own), Some(left_ms), told) => {
                let alert =
                    Alert { client, rule: own.rule, since_ms: own.since_ms, now_ms: now.wall_ms, left_ms };
                match told.map(|told| told - alert.ends_ms()) {
                    Some(longer) if longer > SAME_MS => Some(Due::TakeBack(client)),
                    Some(longer) if longer >= -SAME_MS => None,
                    _ => Some(Due::Tell(alert)),
                }
            }
            (.., Some(ends_ms)) if ends_ms - now.wall_ms >= LEAST_LEFT_MS => Some(Due::TakeBack(client)),
            _ => None,
        }
    }

    /// The server has it.
    pub(super) fn told_now(&mut self, alert: &Alert) {
        self.told.insert(alert.client, alert.ends_ms());
    }

    /// The server has nothing of it any more.
    pub(super) fn taken_back(&mut self, client: Client) {
        self.told.remove(&client);
    }

    /// It is not told, until the ban is another.
    pub(super) fn leave_out(&mut self, client: Client, why: LeftOut) {
        self.left_out.insert(client, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 1_000_000 };

    fn at(secs: u64) -> Now {
        Now { wall_ms: T0.wall_ms + secs as i64 * 1_000, boot_ms: T0.boot_ms + secs * 1_000 }
    }

    fn client(text: &str) -> Client {
        text.parse().unwrap()
    }

    fn ban(rule: Rule, secs: u64) -> OwnBan {
        OwnBan { since_ms: T0.wall_ms, ends: Ends::after(T0, secs * 1_000), rule, why: "secret".to_owned() }
    }

    /// Does all that is due, and returns it as text.
    fn work(alerts: &mut Alerts, now: Now) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let due = alerts.due(2, now);
            if due.is_empty() {
                return done;
            }
            for one in due {
                match one {
                    Due::Tell(alert) => {
                        alerts.told_now(&alert);
                        done.push(format!("tell {} {} s", alert.client, alert.left_ms / 1_000));
                    }
                    Due::TakeBack(client) => {
                        alerts.taken_back(client);
                        done.push(format!("take back {client}"));
                    }
                }
            }
        }
    }

    #[test]
    fn each_ban_is_told_once_the_newest_first_and_taken_back_when_it_ends_early() {
        let mut alerts = Alerts::default();
        for n in 1..=3 {
            alerts.set(client(&format!("203.0.113.{n}")), ban(Rule::Probing, 600));
        }
        let told = ["tell 203.0.113.3 600 s", "tell 203.0.113.2 600 s", "tell 203.0.113.1 600 s"];
        assert_eq!(work(&mut alerts, T0), told);
        assert_eq!((work(&mut alerts, at(60)), alerts.told()), (vec![], 3), "once");
        alerts.over(client("203.0.113.2"));
        assert_eq!(work(&mut alerts, at(61)), ["take back 203.0.113.2"]);
        alerts.extend(client("203.0.113.1"), Ends::after(T0, 3_600_000));
        assert_eq!(work(&mut alerts, at(100)), ["tell 203.0.113.1 3500 s"]);
        // By itself: the server knows the end.
        alerts.over(client("203.0.113.3"));
        assert_eq!((work(&mut alerts, at(600)), alerts.told()), (vec![], 1));
        // A shorter one by hand: the longer must not stay there.
        alerts.set(
            client("203.0.113.1"),
            OwnBan { ends: Ends::after(at(600), 60_000), ..ban(Rule::Operator, 1) },
        );
        assert_eq!(work(&mut alerts, at(600)), ["take back 203.0.113.1", "tell 203.0.113.1 60 s"]);
    }

    #[test]
    fn a_start_tells_what_the_server_does_not_have_and_takes_back_what_is_over() {
        let mut alerts = Alerts::default();
        let ends_ms = T0.wall_ms + 600_000;
        for n in [1, 2] {
            alerts.found(client(&format!("203.0.113.{n}")), ends_ms);
        }
        // The longest counts.
        alerts.found(client("203.0.113.1"), ends_ms - 300_000);
        let own = [1, 3].map(|n| (client(&format!("203.0.113.{n}")), ban(Rule::Flood, 600)));
        alerts.set_all(own.clone());
        assert_eq!(work(&mut alerts, T0), ["tell 203.0.113.3 600 s", "take back 203.0.113.2"]);
        // What overflowed is read anew.
        alerts.set_all(own[..1].to_vec());
        assert_eq!(work(&mut alerts, T0), ["take back 203.0.113.3"]);
        alerts.forgotten();
        assert_eq!(work(&mut alerts, T0), ["tell 203.0.113.1 600 s"], "the server was set up anew");
    }

    #[test]
    fn what_may_be_crowdsecs_own_what_it_allows_and_what_it_refuses_is_not_told() {
        let mut alerts = Alerts::default();
        alerts.set(client("203.0.113.1"), ban(Rule::Imported, 600));
        alerts.set(client("203.0.113.2"), ban(Rule::Probing, 4));
        assert_eq!(work(&mut alerts, T0), Vec::<String>::new());
        for (n, why) in [(3, LeftOut::Allowed), (4, LeftOut::Refused)] {
            let client = client(&format!("203.0.113.{n}"));
            alerts.set(client, ban(Rule::Probing, 600));
            alerts.leave_out(client, why);
            assert_eq!((work(&mut alerts, T0), alerts.left_out(why)), (vec![], 1));
        }
        alerts.set(client("203.0.113.3"), ban(Rule::Probing, 900));
        assert_eq!(work(&mut alerts, T0), ["tell 203.0.113.3 900 s"], "another ban is another question");
        alerts.over(client("203.0.113.4"));
        assert_eq!(alerts.left_out(LeftOut::Refused), 0);
    }

    #[test]
    fn an_alert_as_the_api_takes_it() {
        let alert = Alert {
            client: client("2001:db8::/64"),
            rule: Rule::Probing,
            since_ms: T0.wall_ms - 1_500,
            now_ms: T0.wall_ms,
            left_ms: 600_000,
        };
        let body = alert.body("shield:web-1");
        assert_eq!(body["source"], json!({ "scope": "Range", "value": "2001:db8::/64" }));
        assert_eq!(body["stop_at"], "2027-01-15T08:00:00Z", "the server counts the duration from there");
        assert_eq!(body["start_at"], "2027-01-15T07:59:58.5Z");
        let decision = json!({ "duration": "600000ms", "origin": "shield:web-1", "scenario": "shield/probing",
            "scope": "Range", "type": "ban", "value": "2001:db8::/64" });
        assert_eq!(body["decisions"], json!([decision]));
        assert!(!body.to_string().contains("secret"), "grounds hold what clients asked for");
        assert_eq!(scope(client("203.0.113.5")), ("Ip", "203.0.113.5".to_owned()));
        assert_eq!(scope(client("198.51.100.0/24")), ("Range", "198.51.100.0/24".to_owned()));
        let permanent = OwnBan { ends: Ends::Never, ..ban(Rule::Operator, 1) };
        let mut alerts = Alerts::default();
        alerts.set(client("203.0.113.5"), permanent);
        assert_eq!(work(&mut alerts, T0), ["tell 203.0.113.5 315360000 s"]);
    }
}
