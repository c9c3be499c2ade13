//! Inner parts that the crate's integration tests, the privileged tests and the benchmarks reach into, under the
//! modules' own names.

pub mod address_owner {
    pub use crate::address_owner::mmdb;
}
pub mod api {
    pub use crate::api::{Server, Settings};
    pub mod backend {
        pub use crate::api::backend::{
            AgentView, AllowedRow, Answer, Backend, BanQuery, BanRow, BanRows, ClientView, Mode, Refusal,
            SiteView, TopClient, TopClients,
        };
    }
    pub mod samples {
        pub use crate::api::samples::Sampled;
    }
    pub mod document {
        pub use crate::api::document::{openapi, typescript};
    }
    pub mod feed {
        pub use crate::api::feed::Feed;
    }
    pub mod listen {
        pub use crate::api::listen::Limits;
    }
    pub mod operation {
        pub use crate::api::operation::Operation;
    }
    pub mod priority {
        pub use crate::api::priority::give_way;
    }
    pub mod socket {
        pub use crate::api::socket::ControlSocket;
    }
    pub mod token {
        pub use crate::api::token::Token;
    }
    pub mod types {
        pub use crate::api::types::{
            AddressOwner, Ban, BanPage, CanaryReport, CanaryRequest, ClientState, ConfigView, FleetOrigin,
            FleetView, LabList, LabView, Offences, PartStateName, PastBan, Promotion, ReloadOutcome,
            ReloadReport, SiteList, SlowedClient, Status, Trust,
        };
    }
}
pub mod beside {
    //! What runs beside the live engine, for the benchmark of its cost.

    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, ensure};
    use shield_engine::backoff::Term;
    use shield_engine::client::Client;
    use shield_engine::operator_rules::{PolicyAction, PolicyQuestion};
    use shield_engine::verdict::{Evidence, PathCount, Rule};

    use crate::canary;
    use crate::clock;
    use crate::config::Config;
    use crate::pipeline::{Handle, Message};
    use crate::policy::service::Service;
    use crate::policy::{self, asking};
    use crate::source::Pool;

    /// The argument by which a program is started as the policy's process: then it calls [`policy_worker`].
    pub const POLICY_WORKER: &str = asking::COMMAND;

    /// Evaluates a policy until its standard input ends.
    ///
    /// # Errors
    /// When the process cannot be bounded.
    pub fn policy_worker() -> Result<()> {
        policy::worker::run()
    }

    /// Asks the rules of a folder about bans, one after the other, as the engine does, and returns how long each answer took to be
    /// back in the owner's queue.
    ///
    /// # Errors
    /// When the rules do not answer.
    pub fn ask_about_bans(dir: &Path, bans: u32) -> Result<Vec<Duration>> {
        let (owner, mut inbox) = Handle::new();
        let settings = policy::Settings { dir: Some(dir.to_owned()), on_error: PolicyAction::Ban };
        let service = Service::start(&settings, owner)?;
        let mut took = Vec::new();
        for id in 0..u64::from(bans) {
            let begin = Instant::now();
            service.ask(Box::new(question(id)));
            let answer = loop {
                let message = inbox.control.blocking_recv().context("could not get an answer")?;
                if let Message::Policy(answers) = message {
                    break answers.into_iter().find(|answer| answer.id == id);
                }
            };
            took.push(begin.elapsed());
            let word = answer.context("could not get the answer to the question")?.word;
            ensure!(word.is_ok(), "the rules did not answer: {word:?}");
        }
        Ok(took)
    }

    fn question(id: u64) -> PolicyQuestion {
        let paths = (0..10).map(|n| PathCount { path: format!("/backup-{n}/site.sql.gz"), count: 10 - n });
        PolicyQuestion {
            id,
            client: Client::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 | (id as u32 & 0xff))),
            by_proxy: false,
            in_good_standing: false,
            offence: 1,
            term: Term::Secs(600),
            bans: 1_000,
            evidence: Box::new(Evidence {
                rule: Rule::ZScore,
                condition: "z-score=5.43 > threshold=2.0".into(),
                rate: 3.72,
                mean: 0.1,
                stddev: 0.67,
                z_score: 5.43,
                threshold: 2.0,
                tightened: false,
                baseline: "floor".into(),
                window_secs: 60,
                requests: 223,
                errors: 200,
                measures: Vec::new(),
                top_paths: paths.collect(),
                account: Vec::new(),
                lines: Vec::new(),
                sites: Vec::new(),
                policy: None,
                observe: None,
                at_secs: 1_778_537_253,
            }),
            at_ms: 1_778_537_253_000,
        }
    }

    /// A canary with the configuration that is in force, which does the most work that one can.
    pub struct Canary(canary::Canary);

    impl Canary {
        /// Starts it beside the engine of this owner.
        ///
        /// # Errors
        /// When its thread cannot be started.
        pub fn start(owner: &Handle, pool: &Pool) -> Result<Canary> {
            let canary = canary::Canary::default();
            let text = "[allow]\nsearch_engines = false\n";
            let start = canary::Start {
                name: "bench".to_owned(),
                text: text.to_owned(),
                base: String::new(),
                in_force: Arc::new(Config::parse(text)?),
                baseline: None,
                allowed: Vec::new(),
                now: clock::now(),
            };
            canary.start(start, owner, pool.clone())?;
            Ok(Canary(canary))
        }

        /// Lines that it has judged, and lines that found no place in its queue.
        pub fn lines(&self) -> (u64, u64) {
            let figures = self.0.report().figures;
            (figures.lines, figures.lost_lines)
        }

        /// Ends it.
        pub fn end(&self, owner: &Handle) {
            self.0.abort(owner);
        }
    }
}
pub mod cli {
    pub use crate::cli::{ClientCommand, Connection, EXIT_CODES_HELP};
    pub mod client {
        pub use crate::cli::client::{AgentClient, ClientError, Endpoint, EventStream, Message};
    }
}
pub mod clock {
    pub use crate::clock::*;
}
pub mod config {
    pub use crate::config::Config;
    pub use crate::config::schema::schema;
}
pub mod edge {
    pub use crate::edge::list::EdgeList;
}
pub mod enforce {
    pub use crate::enforce::ban::{Ban, Drops, Failure, Slow};
    pub use crate::enforce::desired::Desired;
    pub use crate::enforce::enforcer::{Enforcer, Urgent};
    pub mod interpreter {
        pub use crate::enforce::interpreter::Interpreter;
        pub use crate::enforce::interpreter::report::Report;
        pub use crate::enforce::interpreter::settings::Settings;
        pub use crate::enforce::interpreter::shared::Start;
    }
    pub mod iptables {
        pub use crate::enforce::iptables::IptablesEnforcer;
        pub use crate::enforce::iptables::sets::Version;
        pub use crate::enforce::iptables::settings::{Backend, Settings};
        pub mod programs {
            pub use crate::enforce::iptables::programs::{Host, NotInstalled, Programs};
        }
    }
    pub mod nginx {
        pub use crate::enforce::nginx::include::{OpenPath, http, server};
        pub use crate::enforce::nginx::{Backend, Commands, MapEnforcer, NginxEnforcer, Settings};
    }
    pub mod simulator {
        pub use crate::enforce::simulator::SimulatedHost;
    }
    pub mod xdp {
        pub use crate::enforce::xdp::XdpEnforcer;
        pub use crate::enforce::xdp::interfaces::Selection;
        pub use crate::enforce::xdp::settings::{Mode, Settings};
        pub mod object {
            pub use crate::enforce::xdp::object::*;
        }
    }
}
pub mod fuzz;
pub mod notify {
    pub mod audit {
        pub use crate::notify::audit::AuditLog;
    }
}
pub mod owner {
    pub use crate::owner::Owner;
}
pub mod pipeline {
    pub use crate::pipeline::{Handle, Message};
}
pub mod replay {
    pub use crate::replay::{Outcome, Replay};
    pub mod input {
        pub use crate::replay::input::{Input, read_beside};
    }
    pub mod labels {
        pub use crate::replay::labels::{Decision, Labels, Score};
    }
}
pub mod sites {
    pub use crate::sites::{Counts, SiteCounts};
}
pub mod source {
    pub use crate::source::pool::Pool;
    pub use crate::source::sight::Trouble;
    pub use crate::source::stats::{Backlog, Rate, Snapshot};
    pub use crate::source::{FirstStart, Prepared, Settings};
}
pub mod store {
    pub use crate::store::boots::BootId;
    pub use crate::store::{Found, Settings, Store};
    pub mod reader {
        pub use crate::store::reader::Reader;
    }
    pub mod writer {
        pub use crate::store::writer::{Kept, Writer};
    }
}
pub mod suggest {
    pub mod bucket {
        pub use crate::suggest::bucket::{Answer, Bucket, Delay, Limit, Rate};
    }
}
