//! The operations of `/api/v1`: the one table that the router, the clients and the document are made from.

use hyper::Method;

/// The path that all operations are below.
pub(crate) const BASE: &str = "/api/v1";

/// An operation of `/api/v1`: a method on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Returns the caller's permissions.
    Whoami,
    /// Returns the state of the agent.
    Status,
    /// Lists bans in force.
    Bans,
    /// Lists the bans in force for other programs.
    Export,
    /// Bans clients.
    Ban,
    /// Lifts bans.
    Unban,
    /// Bans a list.
    Import,
    /// Returns the allowlist.
    Allowlist,
    /// Adds to the allowlist.
    Allow,
    /// Removes from the allowlist.
    Disallow,
    /// Pauses automatic bans.
    Pause,
    /// Ends a pause or a stop of automatic bans.
    Resume,
    /// Loads the configuration again.
    Reload,
    /// Returns what the canary found.
    Canary,
    /// Starts a canary.
    CanaryStart,
    /// Ends the canary.
    CanaryAbort,
    /// Asks whether the canary may be promoted.
    CanaryPromote,
    /// Puts a change of this host on record.
    Record,
    /// Returns the display names.
    Labels,
    /// Lists the busiest clients.
    Clients,
    /// Lists the sites.
    Sites,
    /// Lists the environments for rehearsals.
    Labs,
    /// Explains why a client is banned, or why it is not.
    Explain,
    /// Streams events and snapshots.
    Events,
    /// Lists recent events.
    RecentEvents,
    /// Returns the time series of the plots.
    History,
    /// Returns the configuration.
    Config,
    /// Returns the state of the fleet.
    Fleet,
    /// Lifts all that another host wanted, and believes it no more.
    ForgetOrigin,
    /// Believes another host again.
    TrustOrigin,
}

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 30] = [
        Operation::Whoami,
        Operation::Status,
        Operation::Bans,
        Operation::Export,
        Operation::Ban,
        Operation::Unban,
        Operation::Import,
        Operation::Allowlist,
        Operation::Allow,
        Operation::Disallow,
        Operation::Pause,
        Operation::Resume,
        Operation::Reload,
        Operation::Canary,
        Operation::CanaryStart,
        Operation::CanaryAbort,
        Operation::CanaryPromote,
        Operation::Record,
        Operation::Labels,
        Operation::Clients,
        Operation::Sites,
        Operation::Labs,
        Operation::Explain,
        Operation::Events,
        Operation::RecentEvents,
        Operation::History,
        Operation::Config,
        Operation::Fleet,
        Operation::ForgetOrigin,
        Operation::TrustOrigin,
    ];

    fn route(self) -> (Method, &'static str) {
        match self {
            Operation::Whoami => (Method::GET, "/whoami"),
            Operation::Status => (Method::GET, "/status"),
            Operation::Bans => (Method::GET, "/bans"),
            Operation::Export => (Method::GET, "/export"),
            Operation::Ban => (Method::POST, "/ban"),
            Operation::Unban => (Method::POST, "/unban"),
            Operation::Import => (Method::POST, "/import"),
            Operation::Allowlist => (Method::GET, "/allow"),
            Operation::Allow => (Method::POST, "/allow"),
            Operation::Disallow => (Method::POST, "/disallow"),
            Operation::Pause => (Method::POST, "/pause"),
            Operation::Resume => (Method::POST, "/resume"),
            Operation::Reload => (Method::POST, "/reload"),
            Operation::Canary => (Method::GET, "/canary"),
            Operation::CanaryStart => (Method::POST, "/canary/start"),
            Operation::CanaryAbort => (Method::POST, "/canary/abort"),
            Operation::CanaryPromote => (Method::POST, "/canary/promote"),
            Operation::Record => (Method::POST, "/record"),
            Operation::Labels => (Method::GET, "/labels"),
            Operation::Clients => (Method::GET, "/clients"),
            Operation::Sites => (Method::GET, "/sites"),
            Operation::Labs => (Method::GET, "/labs"),
            Operation::Explain => (Method::GET, "/explain"),
            Operation::Events => (Method::GET, "/events"),
            Operation::RecentEvents => (Method::GET, "/events/recent"),
            Operation::History => (Method::GET, "/history"),
            Operation::Config => (Method::GET, "/config"),
            Operation::Fleet => (Method::GET, "/fleet"),
            Operation::ForgetOrigin => (Method::POST, "/fleet/forget"),
            Operation::TrustOrigin => (Method::POST, "/fleet/trust"),
        }
    }

    /// The HTTP method.
    pub fn method(self) -> Method {
        self.route().0
    }

    /// The path below [`BASE`].
    pub fn path(self) -> &'static str {
        self.route().1
    }
}
