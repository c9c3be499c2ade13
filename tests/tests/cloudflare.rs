//! The exporter to Cloudflare in the agent, in the sandbox of the shipped unit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_tests::agent::{Agent, Home};
use shield_tests::cloud::{ACCOUNT, Cloud, Fault, LIST, TOKEN};
use shield_tests::netns::Namespace;
use shield_tests::wait;

/// Changes are collected for 10 s, and a refused one waits.
const PATIENCE: Duration = Duration::from_secs(150);
const OTHERS: &str = "198.51.100.9 somebody else's";

struct World {
    agent: Agent,
    cloud: Cloud,
    server: Namespace,
    home: Home,
}

impl World {
    fn create(faults: &[Fault], token: &str) -> World {
        let server = Namespace::create("server").unwrap();
        let home = Home::create().unwrap();
        let cloud = Cloud::start(&server, faults).unwrap();
        cloud.put("198.51.100.9", "somebody else's");
        // Root's alone, as the documentation says.
        let file = home.folder().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let log = home.folder().join("access.log");
        std::fs::write(&log, "").unwrap();
        let more = format!(
            "[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n[page]\nenabled = false\n\
             [cloudflare]\naccount = \"{ACCOUNT}\"\nlist = \"{LIST}\"\ntoken_file = {file:?}\nname = \"here\"\napi = \"{}\"\n\
             [nginx]\nmode = \"required\"\nfolder = {:?}\n",
            cloud.url(),
            home.folder().join("deny"),
        );
        home.configure(&log, "", &more).unwrap();
        let agent = Agent::start_in_unit(&server, &home, &[]).unwrap();
        World { agent, cloud, server, home }
    }

    fn until_items_are(&self, expected: &[&str]) {
        let found = wait::until("the list to be as it should be", PATIENCE, || {
            Ok((self.cloud.items() == expected).then_some(()))
        });
        assert!(
            found.is_ok(),
            "{:?}, not {expected:?}; the agent's log:\n{}",
            self.cloud.items(),
            self.home.log()
        );
    }

    /// None until the exporter's thread has told its first state, which may be after the agent answers.
    fn part(&self) -> Option<(PartStateName, String)> {
        let status: Status =
            serde_json::from_value(self.home.json(&self.server, &["status"]).unwrap()).unwrap();
        let part = status.parts.into_iter().find(|part| part.part == "cloudflare")?;
        Some((part.state, part.text))
    }
}

#[test]
fn bans_come_into_the_list_and_leave_it_whatever_cloudflare_answers_at_first() {
    let world = World::create(&[Fault::Busy, Fault::Error], TOKEN);
    world.home.command(&world.server, &["ban", "203.0.113.66", "--for", "1h"]).unwrap();
    world.home.command(&world.server, &["ban", "2001:db8:7::/64", "--for", "1h"]).unwrap();
    world.until_items_are(&[OTHERS, "2001:db8:7::/64 shield@here", "203.0.113.66 shield@here"]);
    assert!(world.cloud.is_faultless(), "it went on after 429 and 500");
    world.home.command(&world.server, &["unban", "203.0.113.66"]).unwrap();
    world.until_items_are(&[OTHERS, "2001:db8:7::/64 shield@here"]);
    wait::until("the state to say that all is done", PATIENCE, || {
        Ok(world.part().filter(|(state, _)| *state == PartStateName::Active))
    })
    .unwrap();
    assert!(world.cloud.calls() < 60, "{} calls", world.cloud.calls());

    let World { agent, cloud, server, home } = world;
    agent.stop().unwrap();
    assert_eq!(cloud.items().len(), 2, "a stop leaves them");
    home.command(&server, &["cleanup"]).unwrap();
    assert_eq!(cloud.items(), [OTHERS], "and the items of others stay");
}

#[test]
fn a_wrong_token_is_a_state_and_changes_nothing() {
    let world = World::create(&[], "another-token");
    world.home.command(&world.server, &["ban", "203.0.113.66", "--for", "1h"]).unwrap();
    let text = wait::until("the refusal to be a state", PATIENCE, || {
        Ok(world.part().filter(|(state, _)| *state == PartStateName::Degraded))
    })
    .unwrap()
    .1;
    assert!(text.contains("Authentication error"), "{text}");
    assert_eq!(world.cloud.items(), [OTHERS]);
    let bans = world.home.command(&world.server, &["bans"]).unwrap();
    assert!(bans.contains("203.0.113.66"), "{bans}");
}
