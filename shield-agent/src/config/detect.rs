//! `[detect]`: the detector's policy. The keys are those of `engine::policy::Policy`; what is not written keeps the
//! profile's value, so that this file never has to repeat the rules.

use anyhow::{Context, Result, bail};

use shield_engine::policy::Policy;

use super::suggest::nearest;

/// Which values a policy starts from.
const PROFILES: [&str; 2] = ["default", "classic"];

/// The profile's name and the policy that `[detect]` describes.
///
/// # Errors
/// Says which key is unknown (and the nearest known one), or which value is of the wrong kind.
pub(super) fn policy(mut table: toml::Table) -> Result<(String, Policy)> {
    let profile = match table.remove("profile") {
        None => "default".to_owned(),
        Some(toml::Value::String(name)) => name,
        Some(other) => {
            bail!("[detect] profile = {other} is not a name: write one of {}", PROFILES.join(", "))
        }
    };
    let base = match profile.as_str() {
        "default" => Policy::default(),
        "classic" => Policy::classic(),
        other => bail!("[detect] profile = {other:?} does not exist: write one of {}", PROFILES.join(", ")),
    };
    let mut merged = toml::Table::try_from(&base).context("cannot write the built-in policy as TOML")?;
    overlay(&mut merged, table, "detect")?;
    let policy: Policy = merged.try_into().map_err(|error: toml::de::Error| {
        anyhow::anyhow!("[detect] has a value of the wrong kind: {}", error.message())
    })?;
    Ok((profile, policy))
}

/// Writes `own` over `base`. A key that `base` does not have is refused.
fn overlay(base: &mut toml::Table, own: toml::Table, section: &str) -> Result<()> {
    for (key, value) in own {
        let Some(slot) = base.get_mut(&key) else {
            let keys: Vec<&str> = base.keys().map(String::as_str).chain(["profile"]).collect();
            match nearest(&key, keys.iter().copied()) {
                Some(best) => bail!("[{section}] has no key `{key}`; did you mean `{best}`?"),
                None => bail!("[{section}] has no key `{key}`; the keys here are {}", keys.join(", ")),
            }
        };
        match (slot, value) {
            (toml::Value::Table(slot), toml::Value::Table(own)) => {
                overlay(slot, own, &format!("{section}.{key}"))?;
            }
            (toml::Value::Table(_), other) => {
                bail!("[{section}] {key} = {other} must be a section [{section}.{key}]")
            }
            (slot, toml::Value::Integer(number)) if slot.is_float() => {
                *slot = toml::Value::Float(number as f64);
            }
            (slot, value) if slot.same_type(&value) => *slot = value,
            (slot, value) => {
                bail!("[{section}] {key} = {value} is of the wrong kind: it must be a {}", slot.type_str());
            }
        }
    }
    Ok(())
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
        check("max_clients = 'many'", "max_clients = \"many\" is of the wrong kind: it must be a integer");
        check("profile = 'clasic'", "write one of default, classic");
        check("z_score = 3", "must be a section [detect.z_score]");
    }
}
