//! `[detect]`: the detector's policy. The keys are those of `engine::policy::Policy`, written over the profile's values as
//! TOML tables: a new key of the policy is a key of the file without a line here.

use anyhow::{Context, Result, bail};

use shield_engine::policy::Policy;

use super::place::Place;
use super::suggest::nearest;

const PROFILES: [&str; 2] = ["default", "classic"];

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
    let mut merged = toml::Table::try_from(&base).context("could not write the built-in policy as TOML")?;
    overlay(&mut merged, table, "detect", &Place::section("detect"))?;
    let policy: Policy = merged.try_into().map_err(|error: toml::de::Error| {
        let message = format!("[detect] has a value of the wrong kind: {}", error.message());
        Place::section("detect").error(message)
    })?;
    Ok((profile, policy))
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
    }
}
