//! Whether the agent is healthy after a restart: the unit's process answers, is the version that was installed, protects, and no
//! part is worse than before.

use std::time::{Duration, Instant};

use super::unit::{self, Main};
use crate::api::operation::Operation;
use crate::api::types::{PartStateName, Status};
use crate::cli::client::AgentClient;
use crate::cli::health::{self, Level};

/// Between two looks.
const EACH: Duration = Duration::from_secs(1);
/// For how long it has to stay healthy, as one process: one that dies after its first lines is not.
const HOLDS: Duration = Duration::from_secs(5);
/// Of one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Parts that keep clients out.
const ENFORCERS: [&str; 3] = ["iptables", "xdp", "nginx"];
/// Parts whose state is somebody else's: another host that is down is no reason to go back.
const OUTSIDE: [&str; 6] = ["slack", "webhook", "fleet", "crowdsec", "blocklist", "cloudflare"];

/// What is expected after a restart.
#[derive(Debug)]
pub(super) struct Expected<'e> {
    pub unit: &'e str,
    pub version: &'e str,
    /// The process before the restart.
    pub not_pid: u32,
    pub before: Option<&'e Status>,
}

/// Waits until it is healthy and stays so. Returns what it said last, with `Err` when it was not healthy in time.
pub(super) async fn until_healthy(
    expected: &Expected<'_>,
    client: &AgentClient,
    within: Duration,
) -> Result<String, String> {
    let deadline = Instant::now() + within;
    let mut since: Option<(Instant, u32)> = None;
    loop {
        let looked = look(expected, client).await;
        let is_late = Instant::now() >= deadline;
        match looked {
            Ok((pid, line)) => {
                let (begun, of) = since.filter(|(_, of)| *of == pid).unwrap_or((Instant::now(), pid));
                since = Some((begun, of));
                if begun.elapsed() >= HOLDS {
                    return Ok(line);
                }
                if Instant::now() >= deadline + HOLDS {
                    return Err("its process does not stay: it ends and is started again".to_owned());
                }
            }
            Err(why) if is_late => return Err(why),
            Err(_) => since = None,
        }
        tokio::time::sleep(EACH).await;
    }
}

async fn look(expected: &Expected<'_>, client: &AgentClient) -> Result<(u32, String), String> {
    let Main { pid, is_active } =
        unit::main_process(expected.unit).await.map_err(|error| format!("{error:#}"))?;
    if !is_active || pid == 0 {
        return Err("the unit is not active: its agent does not start or has ended".to_owned());
    }
    if pid == expected.not_pid {
        return Err("the agent from before still runs".to_owned());
    }
    let status = status(client).await?;
    if status.version != expected.version {
        return Err(format!("version {} answers, not {}", status.version, expected.version));
    }
    let (level, line) = health::judge(&status);
    if level == Level::Critical {
        return Err(line);
    }
    let worse = expected.before.map(|before| worse(before, &status)).unwrap_or_default();
    if worse.is_empty() { Ok((pid, line)) } else { Err(worse.join("; ")) }
}

/// Asks the running agent.
pub(super) async fn status(client: &AgentClient) -> Result<Status, String> {
    let asked = client.get::<Status>(Operation::Status, &[]);
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the agent does not answer".to_owned()),
    }
}

/// The parts that are worse than before. Pure.
fn worse(before: &Status, after: &Status) -> Vec<String> {
    let was = |name: &str| before.parts.iter().find(|part| part.part == name).map(|part| part.state);
    let is_outside = |name: &str| OUTSIDE.iter().any(|outside| name.starts_with(outside));
    let mut worse = Vec::new();
    for part in &after.parts {
        let (name, state) = (part.part.as_str(), part.state);
        let broke = state == PartStateName::Degraded
            && was(name) != Some(PartStateName::Degraded)
            && !is_outside(name);
        let stopped = ENFORCERS.contains(&name)
            && state != PartStateName::Active
            && was(name) == Some(PartStateName::Active);
        if broke || stopped {
            worse.push(format!("{name} is {}, which it was not before: {}", state.name(), part.text));
        }
    }
    if after.dry_run && !before.dry_run {
        worse.push("it is a dry run, which it was not before".to_owned());
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Part;

    fn status(parts: &[(&str, PartStateName)]) -> Status {
        let part = |(name, state): &(&str, PartStateName)| Part {
            part: (*name).into(),
            label: (*name).into(),
            state: *state,
            text: "why".into(),
        };
        let mut status = crate::cli::doctor::tests::status();
        status.parts = parts.iter().map(part).collect();
        status
    }

    #[test]
    fn only_what_is_worse_than_before_counts() {
        use PartStateName::{Active, Degraded, Off, Waiting};
        let before = status(&[("iptables", Active), ("xdp", Degraded), ("slack", Active), ("nginx", Off)]);
        let same = status(&[("iptables", Active), ("xdp", Degraded), ("slack", Degraded), ("nginx", Off)]);
        assert!(worse(&before, &same).is_empty(), "a mended part and somebody else's trouble are no reason");
        let cases = [
            (vec![("iptables", Waiting)], "iptables is waiting"),
            (vec![("iptables", Off)], "iptables is off"),
            (vec![("iptables", Active), ("source:/a", Degraded)], "source:/a is degraded"),
        ];
        for (parts, expected) in cases {
            let said = worse(&before, &status(&parts));
            assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
        }
    }
}
