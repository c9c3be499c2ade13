//! Pending notifications at the agent's exit: a ban right before SIGTERM reaches Slack, and a Slack that never answers delays
//! the exit no longer than the bound. A real HTTP server on the loopback stands in for Slack.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::receiver::{self, Behaviour};

/// Time limit for a message that must arrive; only a failing test takes this long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The agent's time limit for its last messages (`agent::FLUSH`).
const FLUSH: Duration = Duration::from_secs(3);

/// Time limit for the rest of the agent's exit on a busy machine.
const REST_OF_THE_END: Duration = Duration::from_secs(5);

/// An agent in a dry run that notifies this server.
struct World {
    agent: Agent,
    bodies: Receiver<String>,
    home: Home,
    namespace: Namespace,
}

impl World {
    fn create(behaviour: Behaviour) -> World {
        let namespace = Namespace::create("notify").unwrap();
        let (url, bodies) = receiver::start(&namespace, behaviour).unwrap();
        let home = Home::create().unwrap();
        let (log, secret) = (home.folder().join("access.log"), home.folder().join("slack"));
        fs::write(&log, "").unwrap();
        fs::write(&secret, url).unwrap();
        home.configure(&log, "", &format!("[page]\nenabled = false\n\n[slack]\nurl_file = {secret:?}\n"))
            .unwrap();
        let agent = Agent::start(&namespace, &home, &["--dry-run"]).unwrap();
        World { agent, bodies, home, namespace }
    }

    fn ban(&self, client: &str) {
        self.home.command(&self.namespace, &["ban", client, "--for", "10m"]).unwrap();
    }
}

#[test]
fn a_ban_right_before_sigterm_is_still_posted() {
    let World { agent, bodies, home, namespace } = World::create(Behaviour::Answers);
    home.command(&namespace, &["ban", "192.0.2.7", "--for", "10m"]).unwrap();
    assert!(bodies.recv_timeout(TIMEOUT).unwrap().contains("192.0.2.7"));
    // Slack takes one message a second: this one waits.
    home.command(&namespace, &["ban", "192.0.2.8", "--for", "10m"]).unwrap();
    assert!(agent.stop().unwrap().success(), "{}", home.log());
    let received: Vec<String> = bodies.try_iter().collect();
    assert!(received.iter().any(|body| body.contains("192.0.2.8")), "{received:?}\n{}", home.log());
    assert!(!home.log().contains("stopped before all events were posted"), "{}", home.log());
}

#[test]
fn slack_that_never_answers_holds_up_the_end_no_longer_than_the_bound() {
    let world = World::create(Behaviour::NeverAnswers);
    world.ban("192.0.2.7");
    world.bodies.recv_timeout(TIMEOUT).unwrap();
    world.ban("192.0.2.8");
    let began = Instant::now();
    assert!(world.agent.stop().unwrap().success(), "{}", world.home.log());
    let took = began.elapsed();
    assert!((FLUSH..FLUSH + REST_OF_THE_END).contains(&took), "{took:?}");
    let log = world.home.log();
    assert!(log.contains("stopped before all events were posted"), "{log}");
    let audit = fs::read_to_string(world.home.audit()).unwrap();
    assert!(audit.contains("192.0.2.8"), "the record is complete: {audit}");
}
