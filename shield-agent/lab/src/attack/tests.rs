use super::*;

fn attackers() -> Machine {
    Machine {
        name: "attackers".to_owned(),
        role: Role::Attacker,
        namespace: "shl-a-20261130-021504-attackers".to_owned(),
        addresses: (1..=40).map(|n| IpAddr::from([203, 0, 113, n])).collect(),
        networks: vec!["203.0.113.128/26".to_owned(), "2001:db8:66::/48".to_owned()],
    }
}

#[test]
fn every_attack_comes_from_addresses_of_its_own_attackers_alone() {
    let attackers = attackers();
    for kind in Kind::ALL {
        let plan = kinds::Plan::of(kind, &attackers, &[]).unwrap();
        assert!(plan.sources.iter().all(|source| owns(&attackers, *source)), "{kind:?}");
        for n in 0..100 {
            let target = plan.probe(n).target;
            assert!(target.starts_with('/') && !target.contains([' ', '\r', '\n']), "{target:?}");
        }
        assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
        kind.limits().check().unwrap();
    }
    assert!(!owns(&attackers, IpAddr::from([203, 0, 113, 200])));
    assert!(!owns(&attackers, IpAddr::from([127, 0, 0, 1])));
    let hops = kinds::Plan::of(Kind::Ipv6Hopping, &attackers, &[]).unwrap().sources;
    assert!(hops.len() > 100 && hops[0] != hops[1]);
}

/// Otherwise one attack's ban would shorten the next one's way to its own.
#[test]
fn no_two_attacks_ask_for_the_same_names_but_those_that_share_a_list() {
    let mut seen = std::collections::BTreeMap::new();
    for kind in [Kind::Scan, Kind::SlowScan, Kind::Ipv6Hopping, Kind::EvasionForwarded, Kind::EvasionAgent] {
        let plan = kinds::Plan::of(kind, &attackers(), &[]).unwrap();
        for n in 0..60 {
            let target = plan.probe(n).target;
            assert_eq!(*seen.entry(target.clone()).or_insert(kind), kind, "{target}");
        }
    }
}

#[test]
fn a_foreign_address_and_too_large_an_attack_are_refused() {
    let environment: Environment = serde_json::from_value(serde_json::json!({
        "id": "a-20261130-021504", "created": 0, "ends": 0, "profile": "direct", "phase": "ready",
        "folder": "/nowhere", "machines": [attackers()], "processes": []
    }))
    .unwrap();
    let refuse = |limits, from: &[IpAddr], why: &str| {
        let error = run(&environment, Kind::Scan, limits, from).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let limits = Kind::Scan.limits();
    for foreign in [IpAddr::from([198, 51, 100, 2]), IpAddr::from([127, 0, 0, 1]), IpAddr::from([8, 8, 8, 8])]
    {
        refuse(limits, &[foreign], "is no address of the environment's attackers");
    }
    for too_large in [
        Limits { at_most: Duration::from_secs(86_400), ..limits },
        Limits { requests: 10_000_000, ..limits },
        Limits { per_sec: 1e6, ..limits },
    ] {
        refuse(too_large, &[], "so large an attack");
    }
    for nothing in [0.0, -1.0, f64::NAN] {
        refuse(Limits { per_sec: nothing, ..limits }, &[], "without a rate");
    }
}
