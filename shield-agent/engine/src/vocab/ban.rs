//! A ban: the fields that the ledger, the store, announcements and a restart share.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::vocab::client::Client;
use crate::vocab::event::EnforcerName;
use crate::vocab::time::Ends;
use crate::vocab::verdict::Rule;

/// A ban without its reason and evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The banned client or network.
    pub client: Client,
    /// Grows by one with every ban or change of one, across restarts, so that a late deadline or outcome of an
    /// older ban never touches a newer one.
    pub serial: u64,
    /// The start on the wall clock, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// The end, on the clock of this boot.
    pub ends: Ends,
    /// The client's offences so far, this one included; `None` for a ban that counts as no offence (an operator's or
    /// a list's own term). Written as 0 in JSON and in the database.
    #[serde(with = "zero_is_none")]
    pub offence: Option<NonZeroU32>,
    /// The origin of the ban.
    pub rule: Rule,
    /// Which enforcers it is for. Absent in JSON where it is for all.
    #[serde(default, skip_serializing_if = "Place::is_everywhere")]
    pub place: Place,
}

/// The enforcers that a ban is for: those that its client's requests come past.
///
/// A ban is never taken out of a place while it lasts, only put into all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The client's own packets reach this host.
    Kernel,
    /// The client's packets are a proxy's.
    Nginx,
    /// Both, or not known.
    #[default]
    Everywhere,
}

impl Place {
    pub fn includes(self, enforcer: EnforcerName) -> bool {
        match self {
            Place::Kernel => EnforcerName::KERNEL.contains(&enforcer),
            Place::Nginx => enforcer == EnforcerName::Nginx,
            Place::Everywhere => true,
        }
    }

    pub fn is_everywhere(&self) -> bool {
        *self == Place::Everywhere
    }
}

impl Ban {
    /// The serial number of a ban that was not made; those of bans begin at 1. JSON has always had it as 0.
    pub const UNMADE: u64 = 0;

    /// The number of offences as JSON and the database spell it: 0 when the ban is none.
    pub fn offence_number(&self) -> u32 {
        self.offence.map_or(0, NonZeroU32::get)
    }
}

mod zero_is_none {
    use std::num::NonZeroU32;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(offence: &Option<NonZeroU32>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(offence.map_or(0, NonZeroU32::get))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
        u32::deserialize(from).map(NonZeroU32::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_is_no_offence_is_written_as_zero() {
        let ban = Ban {
            client: "192.0.2.1".parse().unwrap(),
            serial: 7,
            since_ms: 1,
            ends: Ends::Never,
            offence: None,
            rule: Rule::Operator,
            place: Place::Everywhere,
        };
        let json =
            r#"{"client":"192.0.2.1","serial":7,"since_ms":1,"ends":"never","offence":0,"rule":"operator"}"#;
        assert_eq!(serde_json::to_string(&ban).unwrap(), json);
        assert_eq!(serde_json::from_str::<Ban>(json).unwrap(), ban);
        let placed = Ban { place: Place::Nginx, ..ban };
        let written = serde_json::to_string(&placed).unwrap();
        assert_eq!(written, json.replace("\"operator\"", "\"operator\",\"place\":\"nginx\""));
        assert_eq!(serde_json::from_str::<Ban>(&written).unwrap(), placed);
        let third = Ban { offence: NonZeroU32::new(3), ..ban };
        assert_eq!(serde_json::from_str::<Ban>(&json.replace("offence\":0", "offence\":3")).unwrap(), third);
    }
}
