//! Leftovers: none after `cleanup`, none in a dry run, and the rules of other programs stay unchanged.

use std::time::Duration;

use shield_tests::site::{ATTACKER, SERVER, Site, VISITOR};
use shield_tests::traffic::{Behaviour, Requester, VISITED_PATHS};
use shield_tests::{residue, wait};

#[test]
fn cleanup_leaves_nothing_of_ours_and_everything_of_others() {
    let site = Site::create("").unwrap();
    let theirs: [&[&str]; 4] = [
        &[
            "iptables",
            "-A",
            "INPUT",
            "-s",
            "198.51.100.200",
            "-j",
            "DROP",
            "-m",
            "comment",
            "--comment",
            "theirs",
        ],
        &["ip6tables", "-A", "INPUT", "-s", "2001:db8:dead::/48", "-j", "DROP"],
        &["ipset", "create", "theirs", "hash:ip"],
        &["nft", "add", "table", "inet", "theirs"],
    ];
    for command in theirs {
        site.server.run(command).unwrap();
    }
    let before = site.server.enter(residue::network_state).unwrap();

    let agent = site.start_agent(&[]).unwrap();
    site.ban_attacker("10m").unwrap();
    let held = residue::of_shield(&site.server, &site.home.pins()).unwrap();
    for expected in ["SHIELD", "XDP program on", "pin "] {
        assert!(held.iter().any(|fact| fact.contains(expected)), "{expected} is not among {held:#?}");
    }

    agent.stop().unwrap();
    assert_eq!(site.request(ATTACKER).unwrap(), None, "stopping must not lift");
    site.home.command(&site.server, &["cleanup"]).unwrap();
    assert_eq!(residue::of_shield(&site.server, &site.home.pins()).unwrap(), Vec::<String>::new());
    let after = site.server.enter(residue::network_state).unwrap();
    let lost: Vec<_> = before.iter().filter(|fact| !after.contains(fact)).collect();
    assert!(lost.is_empty(), "touched what is not ours: {lost:#?}");
    assert_eq!(site.request(ATTACKER).unwrap(), Some(200));
    // A second clean-up finds nothing, which is not an error.
    site.home.command(&site.server, &["cleanup"]).unwrap();
}

#[test]
fn a_dry_run_says_what_it_would_do_and_leaves_the_kernel_alone() {
    let site = Site::create("").unwrap();
    let before = site.server.enter(residue::network_state).unwrap();
    let agent = site.start_agent(&["--dry-run"]).unwrap();
    assert!(site.status().unwrap().dry_run);
    let flood = Behaviour {
        server: SERVER,
        from: Some(ATTACKER),
        paths: VISITED_PATHS,
        pause: Duration::from_millis(20),
        timeout: Duration::from_secs(2),
        threads: 4,
    };
    let attack = Requester::start(&site.street, flood);
    wait::until("the agent to say who would be dropped", Duration::from_secs(30), || {
        let audit = std::fs::read_to_string(site.home.audit()).unwrap_or_default();
        Ok(audit.lines().any(|line| line.contains(&ATTACKER.to_string())).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}; it logged:\n{}", site.home.log()));
    drop(attack);
    assert_eq!(site.request(ATTACKER).unwrap(), Some(200));
    assert_eq!(site.request(VISITOR).unwrap(), Some(200));
    assert_eq!(residue::of_shield(&site.server, &site.home.pins()).unwrap(), Vec::<String>::new());
    assert_eq!(site.server.enter(residue::network_state).unwrap(), before);
    // Dry-run bans were once stored beside the real ones, and the next real run enforced them.
    drop(agent);
    let _real = site.start_agent(&[]).unwrap();
    assert!(site.bans().unwrap().is_empty(), "what a dry run would have banned");
    assert_eq!(site.request(ATTACKER).unwrap(), Some(200));
}
