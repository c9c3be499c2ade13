//! Events for the tests of this part.

use shield_engine::action::{BanRecord, LiftReason, Notice};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_engine::verdict::{Evidence, PathCount, Rule};

/// 2026-05-11T22:07:33Z.
pub(crate) const AT_MS: i64 = 1_778_537_253_000;

pub(crate) fn banned() -> Notice {
    banned_client(Client::from(std::net::Ipv4Addr::new(192, 0, 2, 156)))
}

pub(crate) fn banned_client(client: Client) -> Notice {
    Notice::Banned(Box::new(BanRecord {
        ban: Ban {
            client,
            serial: 1,
            since_ms: AT_MS,
            ends: Ends::At { boot_ms: 601_000, wall_ms: AT_MS + 600_000 },
            offence: std::num::NonZeroU32::new(1),
            rule: Rule::ZScore,
            place: shield_engine::ban::Place::Everywhere,
        },
        reason: None,
        evidence: Some(Box::new(evidence())),
    }))
}

pub(crate) fn evidence() -> Evidence {
    Evidence {
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
        errors: 4,
        measures: vec![],
        top_paths: vec![PathCount { path: "/<script>alert(1)</script>".into(), count: 223 }],
        account: Vec::new(),
        lines: Vec::new(),
        sites: Vec::new(),
        policy: None,
        observe: None,
        at_secs: AT_MS / 1000,
    }
}

pub(crate) fn banned_by_hand(reason: &str) -> Notice {
    Notice::Banned(Box::new(BanRecord {
        ban: Ban {
            client: "2001:db8:1:2::/64".parse().unwrap(),
            serial: 2,
            since_ms: AT_MS,
            ends: Ends::Never,
            offence: None,
            rule: Rule::Operator,
            place: shield_engine::ban::Place::Everywhere,
        },
        reason: Some(reason.into()),
        evidence: None,
    }))
}

pub(crate) fn lifted() -> Notice {
    Notice::Lifted {
        client: "192.0.2.156".parse().unwrap(),
        reason: LiftReason::Operator,
        lasted_secs: 61,
        offence: 1,
        note: Some("asked for by mail".into()),
    }
}

pub(crate) fn anomaly() -> Notice {
    let condition = "z-score=30.00 > threshold=3.0".into();
    Notice::GlobalAnomalyStarted { condition, rate: 3.1, mean: 0.1, stddev: 0.1 }
}

pub(crate) fn degraded(part: &str) -> Notice {
    Notice::Degraded { part: part.into(), reason: "the program was detached".into() }
}
