//! Inner parts that the crate's integration tests, the privileged tests and the benchmarks reach into, under the
//! modules' own names.

pub mod api {
    pub use crate::api::{Server, Settings};
    pub mod backend {
        pub use crate::api::backend::{
            AgentView, AllowedRow, Answer, Backend, BanQuery, BanRow, BanRows, ClientView, Mode, Refusal,
            TopClient, TopClients,
        };
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
            Ban, BanPage, ClientState, ConfigView, FleetOrigin, FleetView, Offences, PartStateName, PastBan,
            ReloadOutcome, ReloadReport, SlowedClient, Status, Trust,
        };
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
        pub use crate::replay::input::Input;
    }
    pub mod labels {
        pub use crate::replay::labels::{Decision, Labels, Score};
    }
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
