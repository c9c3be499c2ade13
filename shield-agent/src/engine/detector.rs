//! (window, baseline, policy) -> verdict, with evidence.

use super::client::Client;
use super::request::Request;
use super::time::Now;
use super::verdict::Verdict;

/// Learns what this server's traffic looks like and judges clients against it.
pub struct Detector {
    ipv6_prefix: u8,
}

impl Detector {
    /// A detector that knows nothing yet.
    pub fn new(ipv6_prefix: u8) -> Detector {
        Detector { ipv6_prefix }
    }

    /// Counts one request and judges its client. `banned`: the client is banned now, so its request teaches nothing
    /// and is not judged.
    pub fn observe(&mut self, request: &Request<'_>, client: Client, banned: bool, now: Now) -> Verdict {
        let _ = (request, client, banned, now, self.ipv6_prefix);
        Verdict::Normal
    }
}
