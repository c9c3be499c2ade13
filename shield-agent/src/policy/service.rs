//! The thread that asks the rules about bans: questions come from the engine's thread through a bounded queue, answers go back to it
//! in batches. It owns the policy's process and starts the next one when that ends.
//!
//! Whatever goes wrong, every question that is still of use gets an answer at once: that the rules could not be asked. What then holds is
//! the engine's business (`on_error`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;
use tokio::sync::oneshot;

use super::asking::{Asking, Unanswered};
use super::bundle::Bundle;
use super::{Point, Settings, ban, host_name};
use crate::pipeline::{Handle, Message};
use crate::text::counted;
use shield_engine::event::{PartReport, PartState};
use shield_engine::operator_rules::{PolicyAction, PolicyAnswer, PolicyQuestion, PolicyWord};

/// The part's name.
pub(crate) const PART: &str = "policy";
/// Questions in the queue. The engine asks no more at a time.
const QUEUED: usize = 10_000;
/// Answers that go back together: one commit for all bans of a storm that come of them.
const BATCH: usize = 256;
/// The engine waits no longer for an answer.
const OF_USE: Duration = Duration::from_secs(2);
/// Time-outs in a row after which nobody is asked for a while: each would cost the others 5 ms.
const MAX_LATE: u32 = 3;
/// The pause before the process is started, or slow rules are asked, again; it doubles up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For how long a failure is the part's state.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How often the state is looked at when nothing is asked.
const LOOK_EACH: Duration = Duration::from_secs(5);

enum Order {
    Ask(Box<PolicyQuestion>, Instant),
    Reload(Settings, oneshot::Sender<Result<Reloaded, String>>),
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    Same,
    Changed,
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    orders: SyncSender<Order>,
}

impl Service {
    /// Reads the rules and starts the thread. Rules that are wrong are the part's state.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(settings: &Settings, owner: Handle) -> Result<Service> {
        let (orders, inbox) = sync_channel(QUEUED);
        let mut thread = Thread::new(owner);
        if let Err(why) = thread.load(settings) {
            thread.rules = Rules::Wrong(why);
        }
        thread.report();
        std::thread::Builder::new()
            .name("policy".to_owned())
            .spawn(move || thread.run(&inbox))
            .context("could not start the thread of the policy")?;
        Ok(Service { orders })
    }

    /// Asks. Never blocks: the engine goes on by itself about a question that finds no place.
    pub(crate) fn ask(&self, question: Box<PolicyQuestion>) {
        // Fails when the queue is full or the thread has ended.
        let _ = self.orders.try_send(Order::Ask(question, Instant::now()));
    }

    /// Reads the rules again. Those in force stay when the new ones are wrong.
    ///
    /// # Errors
    /// What is wrong with the new ones.
    pub(crate) async fn reload(&self, settings: Settings) -> Result<Reloaded, String> {
        let (answer, answered) = oneshot::channel();
        match self.orders.try_send(Order::Reload(settings, answer)) {
            Ok(()) => {
                answered.await.unwrap_or_else(|_| Err("the thread of the policy broke down".to_owned()))
            }
            Err(TrySendError::Full(_)) => Err("too many questions wait: reload again".to_owned()),
            Err(TrySendError::Disconnected(_)) => Err("the thread of the policy has ended".to_owned()),
        }
    }
}

/// What is asked.
enum Rules {
    /// No folder, or no rule about bans.
    Silent {
        detail: String,
        bundle: Option<Bundle>,
    },
    /// They could not be loaded when the agent started.
    Wrong(String),
    Loaded(Box<Loaded>),
}

struct Loaded {
    bundle: Bundle,
    asking: Option<Asking>,
    /// Nobody is asked before this moment, for this reason.
    resting: Option<(Instant, String)>,
    pause: Duration,
    late: u32,
}

struct Thread {
    owner: Handle,
    rules: Rules,
    host: String,
    failed: u64,
    last_failure: Option<(Instant, String)>,
    /// A reload that was refused, until the next one.
    refused: Option<String>,
    reported: Option<PartState>,
}

impl Thread {
    fn new(owner: Handle) -> Thread {
        let rules = Rules::Silent { detail: String::new(), bundle: None };
        Thread {
            owner,
            rules,
            host: host_name(),
            failed: 0,
            last_failure: None,
            refused: None,
            reported: None,
        }
    }

    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(inbox)));
            match turn {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => self.fail("the thread of the policy broke down and goes on".to_owned()),
            }
            self.report();
        }
    }

    /// Answers a batch. Returns whether there may be another one.
    fn turn(&mut self, inbox: &Receiver<Order>) -> bool {
        let is_settled = self.last_failure.is_none() && matches!(self.rules, Rules::Silent { .. });
        // Without rules time changes nothing.
        let next = if is_settled {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(LOOK_EACH)
        };
        let mut order = match next {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let mut answers = Vec::new();
        loop {
            match order {
                Order::Ask(question, at) if at.elapsed() < OF_USE => {
                    let word = self.word(&question).inspect_err(|why| self.fail(why.clone()));
                    answers.push(PolicyAnswer { id: question.id, client: question.client, word });
                }
                Order::Ask(..) => self.fail(format!("questions waited for {} s", OF_USE.as_secs())),
                Order::Reload(settings, answer) => {
                    // Nobody waits where the reload was given up.
                    let _ = answer.send(self.reload(&settings));
                }
            }
            if answers.len() >= BATCH {
                break;
            }
            match inbox.try_recv() {
                Ok(next) => order = next,
                Err(_) => break,
            }
        }
        if !answers.is_empty() {
            self.owner.send(Message::Policy(answers));
        }
        true
    }

    fn word(&mut self, question: &PolicyQuestion) -> Result<PolicyWord, String> {
        match &mut self.rules {
            Rules::Silent { .. } => {
                Ok(PolicyWord { action: PolicyAction::Ban, term: None, because: None, failed: None })
            }
            Rules::Wrong(why) => Err(why.clone()),
            Rules::Loaded(loaded) => loaded.ask(ban::document(question, &self.host, &TimeZone::system())),
        }
    }

    fn reload(&mut self, settings: &Settings) -> Result<Reloaded, String> {
        let reloaded = self.load(settings);
        self.refused = reloaded.as_ref().err().map(|why| format!("the rules of before stay in force: {why}"));
        if reloaded.is_ok() {
            (self.failed, self.last_failure) = (0, None);
        }
        self.report();
        reloaded
    }

    /// Puts the folder's rules in force, or leaves everything as it is.
    fn load(&mut self, settings: &Settings) -> Result<Reloaded, String> {
        let known = match &self.rules {
            Rules::Silent { bundle, .. } => bundle.as_ref(),
            Rules::Loaded(loaded) => Some(&loaded.bundle),
            Rules::Wrong(_) => None,
        };
        let Some(dir) = &settings.dir else {
            let change = if known.is_some() { Reloaded::Changed } else { Reloaded::Same };
            self.rules = Rules::Silent { detail: String::new(), bundle: None };
            return Ok(change);
        };
        let bundle = Bundle::read(dir).map_err(|error| format!("{error:#}"))?;
        let asking = Asking::start(&bundle, Point::Ban).map_err(|why| why.to_string())?;
        let change = if known == Some(&bundle) { Reloaded::Same } else { Reloaded::Changed };
        self.rules = if bundle.has_package(Point::Ban.package()) {
            let (asking, pause) = (Some(asking), FIRST_PAUSE);
            Rules::Loaded(Box::new(Loaded { bundle, asking, resting: None, pause, late: 0 }))
        } else {
            let detail = format!("{} has no rule about bans", dir.display());
            Rules::Silent { detail, bundle: Some(bundle) }
        };
        Ok(change)
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.last_failure = Some((Instant::now(), why));
    }

    /// Tells the engine the part's state when it is another one.
    fn report(&mut self) {
        if self.last_failure.as_ref().is_some_and(|(at, _)| at.elapsed() >= REMEMBERED) {
            (self.failed, self.last_failure) = (0, None);
        }
        let state = self.state();
        // The number of failures alone is no news.
        let is_same = match (&self.reported, &state) {
            (Some(reported), state) if reported == state => true,
            (Some(PartState::Degraded { .. }), PartState::Degraded { .. }) => self.refused.is_none(),
            // Who has no rules need not hear of them.
            (None, PartState::Off { .. }) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        self.reported = Some(state.clone());
        self.owner.send(Message::Part(PartReport { part: PART.to_owned(), state, repaired: None }));
    }

    fn state(&self) -> PartState {
        let hint = "`shield-agent policy check` and `policy eval ban` show what is wrong; until then on_error in [policy] holds";
        if let Rules::Wrong(why) = &self.rules {
            return PartState::Degraded { reason: format!("{why}; {hint}") };
        }
        if let Some(why) = &self.refused {
            return PartState::Degraded { reason: why.clone() };
        }
        if let Some((_, why)) = &self.last_failure {
            let failed = counted(self.failed, "question");
            return PartState::Degraded {
                reason: format!("{failed} without an answer, the last because {why}; {hint}"),
            };
        }
        match &self.rules {
            Rules::Silent { detail, .. } if detail.is_empty() => {
                PartState::Off { reason: "off in the configuration: no dir in [policy]".to_owned() }
            }
            Rules::Silent { detail, .. } => PartState::Active { detail: detail.clone() },
            Rules::Loaded(loaded) => PartState::Active {
                detail: format!(
                    "asked about each ban of a rule, {}",
                    counted(loaded.bundle.files.len() as u64, "file")
                ),
            },
            Rules::Wrong(why) => PartState::Degraded { reason: why.clone() },
        }
    }
}

impl Loaded {
    fn ask(&mut self, input: serde_json::Value) -> Result<PolicyWord, String> {
        if let Some((until, why)) = &self.resting {
            if Instant::now() < *until {
                return Err(why.clone());
            }
            self.resting = None;
        }
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None => match Asking::start(&self.bundle, Point::Ban) {
                Ok(asking) => self.asking.insert(asking),
                Err(why) => return Err(self.rest(why.to_string())),
            },
        };
        let told = asking.ask(Point::Ban.rule(), input);
        match told {
            Ok(value) => {
                (self.late, self.pause) = (0, FIRST_PAUSE);
                ban::answer(value)
            }
            Err(late @ Unanswered::TimedOut(_)) => {
                self.late += 1;
                let why = late.to_string();
                if self.late < MAX_LATE { Err(why) } else { Err(self.rest(why)) }
            }
            Err(Unanswered::Failed(why)) => Err(why),
            Err(broken @ Unanswered::Broken(_)) => {
                self.asking = None;
                Err(self.rest(broken.to_string()))
            }
        }
    }

    /// Asks nobody for a while.
    fn rest(&mut self, why: String) -> String {
        self.resting = Some((Instant::now() + self.pause, why.clone()));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.late = 0;
        why
    }
}
