//! The rotation of the audit log, where it is. nginx's own logs are rotated by nginx's package.

use anyhow::Result;

use super::quote;
use crate::config::Config;

const SHIPPED: &str = include_str!("../../../packaging/logrotate");
/// The path that the shipped file has.
const SHIPPED_PATH: &str = "/var/log/shield/audit.jsonl";

pub(super) fn rotation(config: &Config) -> Result<String> {
    let key = "[audit] path";
    let path = quote::logrotate(quote::path(&config.audit, key)?, key)?;
    let begin = format!("{SHIPPED_PATH} {{");
    let (comment, rest) = SHIPPED.split_once(&begin).expect("a test reads the shipped file");
    Ok(format!(
        "#\n# In place of /etc/logrotate.d/shield: two files that name one log are an error.\n{comment}{path} {{{rest}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_differs_from_what_is_shipped() {
        let config = Config::parse("[audit]\npath = '/srv/my audit/a.jsonl'").unwrap();
        let text = rotation(&config).unwrap();
        let shipped = text.replace("\"/srv/my audit/a.jsonl\"", SHIPPED_PATH);
        assert!(shipped.ends_with(SHIPPED), "{text}");
        assert_eq!(SHIPPED.matches(SHIPPED_PATH).count(), 1);
    }
}
