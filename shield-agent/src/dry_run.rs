//! Turns a dry run's notices into what is true: bans become "would ban". The engine decides as always and does not know
//! that the run is dry, so that a dry run shows what a real one would do.

use std::borrow::Cow;

use crate::pipeline::Announce;
use shield_engine::action::Notice;

/// The reason in a dry run's "would ban" notices.
pub(crate) const BECAUSE: &str = "dry run";

/// Wraps a receiver of notices.
pub(crate) fn announce(mut receiver: Announce) -> Announce {
    Box::new(move |notice| {
        if let Some(notice) = translate(notice) {
            receiver(&notice);
        }
    })
}

/// Returns `None` for leaks: a client that is not dropped is expected to get through.
fn translate(notice: &Notice) -> Option<Cow<'_, Notice>> {
    Some(match notice {
        Notice::Leaking { .. } => return None,
        Notice::Banned(ban) => Cow::Owned(Notice::WouldBan { ban: ban.clone(), because: BECAUSE.to_owned() }),
        Notice::Lifted { client, reason, lasted_secs, offence, note } => Cow::Owned(Notice::Lifted {
            client: *client,
            reason: *reason,
            lasted_secs: *lasted_secs,
            offence: *offence,
            note: Some(note.as_ref().map_or(BECAUSE.to_owned(), |note| format!("{BECAUSE}; {note}"))),
        }),
        // It leaves nothing in the kernel.
        Notice::Stopping { .. } => Cow::Owned(Notice::Stopping { bans: 0 }),
        Notice::Slowed { slowed, unmade: None } => {
            Cow::Owned(Notice::Slowed { slowed: slowed.clone(), unmade: Some(BECAUSE.to_owned()) })
        }
        // Nobody was slowed, so nobody is let go.
        Notice::Released { .. } => return None,
        other => Cow::Borrowed(other),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::text;
    use shield_engine::action::{BanRecord, LiftReason};
    use shield_engine::ban::Ban;
    use shield_engine::time::Ends;
    use shield_engine::verdict::Rule;

    #[test]
    fn no_notice_claims_a_ban() {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&texts);
        let mut announce = announce(Box::new(move |notice| {
            received.lock().unwrap().push(text::notice_line(notice));
        }));
        let client = "192.0.2.7".parse().unwrap();
        announce(&Notice::Banned(Box::new(BanRecord {
            ban: Ban {
                client,
                serial: 1,
                since_ms: 1_000,
                ends: Ends::At { boot_ms: 0, wall_ms: 601_000 },
                offence: std::num::NonZeroU32::new(1),
                rule: Rule::Operator,
                place: shield_engine::ban::Place::Everywhere,
            },
            reason: Some("scraping".into()),
            evidence: None,
        })));
        announce(&Notice::Lifted {
            client,
            reason: LiftReason::Operator,
            lasted_secs: 61,
            offence: 0,
            note: Some("asked for by mail".into()),
        });
        announce(&Notice::Stopping { bans: 3 });
        announce(&Notice::Leaking { client, requests: 9, cause: "nobody drops them".into() });
        let expected = [
            "192.0.2.7 would be banned for 10 min, but is not (dry run): scraping",
            "ban of 192.0.2.7 ended after 1 min 1 s: lifted by an operator (dry run; asked for by mail)",
            "shield is stopping; no bans in force",
        ];
        assert_eq!(*texts.lock().unwrap(), expected);
    }
}
