//! What a dry run announces: the engine decides as always and knows no difference; people are told that nobody is
//! dropped. Applied between the performer and everybody who tells people.

use std::borrow::Cow;

use crate::performer::Announce;
use shield_engine::action::Notice;

/// Why a dry run bans nobody.
pub(crate) const BECAUSE: &str = "dry run";

/// Tells `announce` what would have happened.
pub(crate) fn told(mut announce: Announce) -> Announce {
    Box::new(move |notice| {
        if let Some(notice) = as_it_is(notice) {
            announce(&notice);
        }
    })
}

/// `None` for what is no news: whoever is not dropped still comes through.
fn as_it_is(notice: &Notice) -> Option<Cow<'_, Notice>> {
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
    fn nobody_is_said_to_be_banned() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let mut announce = told(Box::new(move |notice| {
            ears.lock().unwrap().push(text::notice_line(notice));
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
        announce(&Notice::Leaking { client, requests: 9, cause: "nobody drops them".into() });
        let expected = [
            "192.0.2.7 would be banned for 10 min, but is not (dry run): scraping",
            "ban of 192.0.2.7 ended after 1 min 1 s: lifted by an operator (dry run; asked for by mail)",
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}
