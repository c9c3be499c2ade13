//! An engine with its owner, without kernel and store: for tests of what tells the engine of others' bans.

use std::thread::JoinHandle;

use shield_engine::Engine;
use shield_engine::allowlist::{AllowReason, Allowed, Allowlist};
use shield_engine::policy::{Policy, Switch};
use shield_engine::settings::{RemoteSettings, Settings};
use shield_engine::verdict::Rule;

use crate::owner::Owner;
use crate::pipeline::{Handle, Job, Message};
use crate::source::Pool;

/// The server's own address, which nobody's word bans.
pub(crate) const OWN: &str = "192.0.2.10";

pub(crate) struct TestOwner {
    pub(crate) owner: Handle,
    thread: Option<JoinHandle<Engine>>,
}

impl TestOwner {
    /// One that takes others' bans.
    pub(crate) fn start() -> TestOwner {
        let defaults = Settings::default();
        let remote = RemoteSettings { switch: Switch::On, ..defaults.remote };
        let own = Allowed { network: format!("{OWN}/32").parse().unwrap(), reason: AllowReason::OwnAddress };
        let settings = Settings { remote, ..defaults };
        let engine = Engine::new(settings, Policy::default(), Allowlist::new([own]), 1, 7);
        let (owner, inbox) = Handle::new();
        let (jobs, jobs_in) = std::sync::mpsc::channel::<Job>();
        // In the performer's place.
        std::thread::spawn(move || jobs_in.into_iter().for_each(drop));
        let run = Owner::new(engine, inbox, jobs, Box::new(|_, _| {}), Pool::default());
        TestOwner { owner, thread: Some(std::thread::spawn(move || run.run())) }
    }

    pub(crate) async fn rule_of(&self, client: &str) -> Option<Rule> {
        let client = client.parse().unwrap();
        let rule = move |engine: &Engine, _| engine.ledger().ban_over(client).map(|ban| ban.rule);
        self.owner.query(rule).await.unwrap()
    }
}

impl Drop for TestOwner {
    fn drop(&mut self) {
        self.owner.send(Message::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
