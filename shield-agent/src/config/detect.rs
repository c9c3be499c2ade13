//! `[detect]`: the detector's policy. The keys are those of `engine::policy::Policy`, written over the profile's values as
//! TOML tables: a new key of the policy is a key of the file without a line here. Lists are read item by item, so that a
//! mistake names the item.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use shield_engine::policy::{PathPattern, Policy, ServerName, SitePolicy};
use shield_engine::verdict::Rule;

use super::place::Place;
use super::raw::{self, RawSite};
use super::suggest::nearest;

const PROFILES: [&str; 2] = ["default", "classic"];

/// Monitors' networks are not wider than these prefix lengths: what is in them is not judged at all.
const WIDEST_MONITORS: (u8, u8) = (8, 16);

/// Returns the profile's name and the policy.
///
/// # Errors
/// When a key is unknown or a value of the wrong kind.
pub(super) fn policy(mut table: toml::Table) -> Result<(String, Policy)> {
    let place = || Place::section("detect").key("profile");
    let profile = match table.remove("profile") {
        None => "default".to_owned(),
        Some(toml::Value::String(name)) => name,
        Some(other) => {
            let profiles = PROFILES.join(", ");
            bail!(place().error(format!("[detect] profile = {other} is not a name: write one of {profiles}")))
        }
    };
    let base = match profile.as_str() {
        "default" => Policy::default(),
        "classic" => Policy::classic(),
        other => {
            let profiles = PROFILES.join(", ");
            bail!(
                place()
                    .error(format!("[detect] profile = {other:?} does not exist: write one of {profiles}"))
            )
        }
    };
    let ignore_paths = list(&mut table, "ignore_paths", PathPattern::try_from)?;
    let expected_misses = list(&mut table, "expected_misses", PathPattern::try_from)?;
    let monitors = list(&mut table, "monitors", monitor)?;
    let mut observe = list(&mut table, "observe", rule)?;
    modes(&mut table, &mut observe)?;
    let mut merged = as_table(&base)?;
    overlay(&mut merged, table, "detect", &Place::section("detect"))?;
    let policy: Policy = merged.try_into().map_err(|error: toml::de::Error| {
        let message = format!("[detect] has a value of the wrong kind: {}", error.message());
        Place::section("detect").error(message)
    })?;
    Ok((profile, Policy { ignore_paths, expected_misses, monitors, observe, ..policy }))
}

/// The policy as a table of the file, without its sites, which have sections of their own.
fn as_table(policy: &Policy) -> Result<toml::Table> {
    let mut table = toml::Table::try_from(policy).context("could not write the policy as TOML")?;
    table.remove("sites");
    Ok(table)
}

/// The section with all its keys.
pub(super) fn written(profile: &str, policy: &Policy) -> Result<toml::Table> {
    let mut table = as_table(policy)?;
    table.insert("profile".to_owned(), profile.into());
    for rule in observable() {
        let mode = if policy.observe.contains(&rule) { OBSERVE } else { ENFORCE };
        let section = table.get_mut(rule.name()).and_then(toml::Value::as_table_mut);
        section.context("could not find the section of a rule")?.insert("mode".to_owned(), mode.into());
    }
    Ok(table)
}

const OBSERVE: &str = "observe";
const ENFORCE: &str = "enforce";

/// Takes `mode` out of each rule's section: `observe` is the same as the rule's name in the list `observe`.
fn modes(table: &mut toml::Table, observe: &mut Vec<Rule>) -> Result<()> {
    for rule in observable() {
        let Some(toml::Value::Table(section)) = table.get_mut(rule.name()) else { continue };
        let Some(mode) = section.remove("mode") else { continue };
        let name = rule.name();
        let place = Place::section("detect").key(name).key("mode");
        let is_listed = observe.contains(&rule);
        match mode.as_str() {
            Some(OBSERVE) if is_listed => {}
            Some(OBSERVE) => observe.push(rule),
            // A list that is there since a trial must not be forgotten, nor win in silence.
            Some(ENFORCE) if is_listed => bail!(place.error(format!(
                "[detect.{name}] mode = \"enforce\", but [detect] observe names {name:?}: take it out of one of the two"
            ))),
            Some(ENFORCE) => {}
            _ => bail!(place.error(format!(
                "[detect.{name}] mode = {mode} does not exist: write one of enforce, observe"
            ))),
        }
    }
    Ok(())
}

/// The rules that may only observe.
fn observable() -> impl Iterator<Item = Rule> {
    Rule::ALL.into_iter().filter(|rule| rule.is_detected() && *rule != Rule::Network)
}

/// Takes a list of texts out of the section and reads each.
fn list<T, E: std::fmt::Display>(
    table: &mut toml::Table,
    key: &str,
    read: impl Fn(String) -> Result<T, E>,
) -> Result<Vec<T>> {
    let place = || Place::section("detect").key(key);
    let items = match table.remove(key) {
        None => return Ok(Vec::new()),
        Some(toml::Value::Array(items)) => items,
        Some(other) => {
            let message = format!("[detect] {key} = {other} is no list: write [\"...\", \"...\"]");
            bail!(place().error(message))
        }
    };
    let item = |(at, item): (usize, toml::Value)| match item {
        toml::Value::String(text) => {
            read(text).map_err(|why| place().item(at).error(format!("[detect] {key}: {why}")))
        }
        other => {
            let message = format!("[detect] {key}: {other} must be a text: write it in quotation marks");
            Err(place().item(at).error(message))
        }
    };
    items.into_iter().enumerate().map(item).collect()
}

/// Checks the `[[site]]` sections.
pub(super) fn sites(raw: Vec<RawSite>) -> Result<Vec<SitePolicy>> {
    let mut sites: Vec<SitePolicy> = Vec::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let section = || Place::section("site").item(at);
        let Some(host) = raw.host else {
            bail!(section().error("[[site]] needs host: the first name of its server section (server_name)"))
        };
        let host = ServerName::try_from(host)
            .map_err(|why| section().key("host").error(format!("[[site]] host: {why}")))?;
        if sites.iter().any(|known| known.host == host) {
            bail!(
                section()
                    .key("host")
                    .error(format!("[[site]] host = \"{host}\" is there twice: join the two"))
            )
        }
        sites.push(SitePolicy {
            host,
            judged: raw.judged.unwrap_or(true),
            ignore_paths: items(raw.ignore_paths, &section().key("ignore_paths"), PathPattern::try_from)?,
            expected_misses: items(
                raw.expected_misses,
                &section().key("expected_misses"),
                PathPattern::try_from,
            )?,
            monitors: items(raw.monitors, &section().key("monitors"), monitor)?,
        });
    }
    Ok(sites)
}

fn items<T, E: std::fmt::Display>(
    texts: Option<Vec<String>>,
    place: &Place,
    read: impl Fn(String) -> Result<T, E>,
) -> Result<Vec<T>> {
    let item =
        |(at, text)| read(text).map_err(|why| place.clone().item(at).error(format!("[[site]]: {why}")));
    texts.unwrap_or_default().into_iter().enumerate().map(item).collect()
}

fn monitor(text: String) -> Result<IpNet, String> {
    let network = raw::network(&text).ok_or_else(|| {
        format!(
            "{text:?} is not a network: write an address, or one with its prefix length, such as 192.0.2.7, 192.0.2.0/24 or \
             2001:db8::/32 (not a user agent, which everybody can send)"
        )
    })?;
    let widest = if network.addr().is_ipv4() { WIDEST_MONITORS.0 } else { WIDEST_MONITORS.1 };
    if network.prefix_len() < widest {
        return Err(format!(
            "{text} would blind Shield to a large part of the internet: write the monitors' own addresses (at least /{widest})"
        ));
    }
    Ok(network.trunc())
}

fn rule(text: String) -> Result<Rule, String> {
    let known = observable().find(|rule| rule.name() == text);
    known.ok_or_else(|| match nearest(&text, observable().map(Rule::name)) {
        Some(best) => format!("there is no rule {text:?}; did you mean \"{best}\"?"),
        None if text == Rule::Network.name() => {
            "networks are not observed here: write networks = \"propose\" in [ban]".to_owned()
        }
        None => {
            let names: Vec<&str> = observable().map(Rule::name).collect();
            format!("there is no rule {text:?}; the rules are {}", names.join(", "))
        }
    })
}

/// Writes `own` over `base` and refuses keys that `base` does not have.
fn overlay(base: &mut toml::Table, own: toml::Table, section: &str, at: &Place) -> Result<()> {
    for (key, value) in own {
        let place = at.clone().key(&key);
        let Some(slot) = base.get_mut(&key) else {
            let keys: Vec<&str> = base.keys().map(String::as_str).chain(["profile"]).collect();
            let hint = match nearest(&key, keys.iter().copied()) {
                Some(best) => format!("did you mean `{best}`?"),
                None => format!("the keys here are {}", keys.join(", ")),
            };
            bail!(place.error(format!("[{section}] has no key `{key}`; {hint}")));
        };
        match (slot, value) {
            (toml::Value::Table(slot), toml::Value::Table(own)) => {
                overlay(slot, own, &format!("{section}.{key}"), &place)?;
            }
            (toml::Value::Table(_), other) => {
                bail!(place.error(format!("[{section}] {key} = {other} must be a section [{section}.{key}]")))
            }
            (slot, toml::Value::Integer(number)) if slot.is_float() => {
                *slot = toml::Value::Float(number as f64);
            }
            (slot, value) if slot.same_type(&value) => *slot = value,
            (slot, value) => {
                let kind = with_article(slot.type_str());
                bail!(
                    place.error(format!(
                        "[{section}] {key} = {value} is of the wrong kind: it must be {kind}"
                    ))
                );
            }
        }
    }
    Ok(())
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commented-out keys of `[detect]` in the configuration that is shipped.
    fn shipped() -> toml::Table {
        let file = include_str!("../../../packaging/shield.toml");
        let (_, section) = file.split_once("\n[detect]\n").expect("it has the section");
        let (section, _) = section.split_once("[[site]]").expect("sites come after it");
        let is_key = |line: &&str| {
            let key = line.split_once(" = ").map_or("", |(key, _)| key);
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
        };
        let keys: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix('#')).filter(is_key).collect();
        toml::from_str(&keys.join("\n")).expect("uncommented, it is a section")
    }

    fn assert_shows(shown: &toml::Table, expected: &toml::Table, section: &str) {
        for (key, default) in expected {
            let name = format!("{section}{key}");
            let shown =
                shown.get(key).unwrap_or_else(|| panic!("packaging/shield.toml does not show {name}"));
            match (shown, default) {
                (toml::Value::Table(shown), toml::Value::Table(default)) => {
                    assert_shows(shown, default, &format!("{name}."));
                }
                // An example says more than an empty list.
                (toml::Value::Array(_), toml::Value::Array(default)) if default.is_empty() => {}
                _ => assert_eq!(shown, default, "the default of {name}"),
            }
        }
        for key in shown.keys() {
            assert!(expected.contains_key(key), "there is no {section}{key}");
        }
    }

    #[test]
    fn the_shipped_file_shows_every_key_with_its_default() {
        let expected = written("default", &Policy::default()).unwrap();
        assert_shows(&shipped(), &expected, "");
        let (profile, _) = policy(shipped()).unwrap();
        assert_eq!(profile, "default", "and may be uncommented as it stands");
    }

    fn read(text: &str) -> Result<(String, Policy)> {
        policy(toml::from_str(text).unwrap())
    }

    #[test]
    fn an_empty_section_is_the_default_policy() {
        assert_eq!(read("").unwrap(), ("default".to_owned(), Policy::default()));
        assert_eq!(read("profile = 'classic'").unwrap().1, Policy::classic());
    }

    #[test]
    fn one_key_changes_one_value() {
        let (_, policy) = read("max_clients = 5000\n[z_score]\nthreshold = 7").unwrap();
        assert_eq!((policy.max_clients, policy.z_score.threshold), (5000, 7.0));
        assert_eq!(policy.z_score.min_requests, Policy::default().z_score.min_requests);
    }

    #[test]
    fn what_the_operator_says_is_normal() {
        let text = "ignore_paths = ['/healthz', '/metrics/*']\nexpected_misses = ['/nix-cache/*.narinfo']\n\
                    monitors = ['192.0.2.7/24', '2001:db8::1/128', '198.51.100.7']\nobserve = ['flood', 'z_score']";
        let (_, policy) = read(text).unwrap();
        assert_eq!((policy.ignore_paths.len(), policy.expected_misses.len()), (2, 1));
        let monitors: Vec<String> = policy.monitors.iter().map(ToString::to_string).collect();
        assert_eq!(monitors, ["192.0.2.0/24", "2001:db8::1/128", "198.51.100.7/32"]);
        assert_eq!(policy.observe, [Rule::Flood, Rule::ZScore]);
    }

    #[test]
    fn a_rule_observes_by_its_mode_or_by_the_list() {
        let observed = |text: &str| read(text).unwrap().1.observe;
        assert_eq!(observed("flood.mode = 'observe'"), [Rule::Flood]);
        assert_eq!(observed("observe = ['flood']\n[flood]\nmode = 'observe'"), [Rule::Flood]);
        assert_eq!(
            observed("observe = ['flood']\n[probing]\nmode = 'observe'"),
            [Rule::Flood, Rule::Probing]
        );
        assert_eq!(observed("flood.mode = 'enforce'"), []);
        for rule in observable() {
            assert_eq!(observed(&format!("[{}]\nmode = 'observe'", rule.name())), [rule]);
        }
    }

    #[test]
    fn slips_are_named() {
        let check = |text: &str, part: &str| {
            let message = format!("{:#}", read(text).unwrap_err());
            assert!(message.contains(part), "{message}");
        };
        check("max_cleints = 5", "did you mean `max_clients`?");
        check("[z_score]\ntreshold = 5", "[detect.z_score] has no key `treshold`; did you mean `threshold`?");
        check("max_clients = 'many'", "max_clients = \"many\" is of the wrong kind: it must be an integer");
        check("profile = 'clasic'", "write one of default, classic");
        check("z_score = 3", "must be a section [detect.z_score]");
        check("ignore_paths = '/healthz'", "[detect] ignore_paths = \"/healthz\" is no list");
        check("ignore_paths = ['/a', 3]", "[detect] ignore_paths: 3 must be a text");
        check("ignore_paths = ['/*']", "[detect] ignore_paths: \"/*\" would blind Shield");
        check("ignore_paths = ['/']", "would blind Shield to the site or its front page");
        check("expected_misses = ['*']", "[detect] expected_misses: \"*\" would blind Shield");
        check("expected_misses = ['narinfo']", "\"narinfo\" is no path: write one that begins with \"/\"");
        check("monitors = ['UptimeRobot/*']", "not a user agent, which everybody can send");
        check("monitors = ['uptime.example.com']", "with its prefix length");
        check("monitors = ['0.0.0.0/0']", "would blind Shield to a large part of the internet");
        check("observe = ['flod']", "there is no rule \"flod\"; did you mean \"flood\"?");
        check("observe = ['network']", "networks = \"propose\" in [ban]");
        check(
            "observe = ['everything']",
            "the rules are z_score, rate_multiplier, error_surge, probing, flood",
        );
        check(
            "flood.mode = 'watch'",
            "[detect.flood] mode = \"watch\" does not exist: write one of enforce, observe",
        );
        check("evidence.mode = 'observe'", "[detect.evidence] has no key `mode`");
        check("observe = ['flood']\nflood.mode = 'enforce'", "[detect] observe names \"flood\"");
        check("ignore_path = []", "did you mean `ignore_paths`?");
    }
}
