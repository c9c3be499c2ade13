//! A canary in the running agent, beside real traffic: a configuration that would ban the visitor is refused with the visitor named, a
//! good one is promoted without losing a ban, and taken back.
//!
//! Alone: the rules have 100 ms to answer, and without an answer nothing is promoted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::time::Duration;

use serde_json::Value;
use shield_tests::http::Get;
use shield_tests::site::{ATTACKER, SERVER, Site, VISITOR};
use shield_tests::traffic::VISITED_PATHS;
use shield_tests::wait;

fn visit(site: &Site, path: &str) {
    let get = Get { server: SERVER, from: Some(VISITOR), path, timeout: Duration::from_secs(2) };
    site.street.enter(|| get.send()).unwrap();
}

/// The configuration in force with another end.
fn variant(site: &Site, name: &str, more: &str) -> String {
    let path = site.home.folder().join(name);
    fs::write(&path, fs::read_to_string(site.home.config()).unwrap() + more).unwrap();
    path.display().to_string()
}

fn status(site: &Site) -> Value {
    site.home.json(&site.server, &["canary", "status"]).unwrap()
}

fn wait_until(site: &Site, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, Duration::from_secs(30), || Ok(Some(status(site)).filter(|report| is(report)))).unwrap()
}

#[test]
fn a_configuration_that_would_ban_the_visitor_is_refused_and_a_good_one_promoted() {
    let site = Site::create("[page]\nenabled = false\n").unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let before = fs::read_to_string(site.home.config()).unwrap();
    site.ban_attacker("1h").unwrap();

    let bad = variant(&site, "bad.toml", "\n[detect]\nflood.page_requests = 2\nflood.page_secs = 30\n");
    site.home.command(&site.server, &["canary", "start", "--config", &bad]).unwrap();
    // What was served in a second before speaks for a client.
    VISITED_PATHS.iter().for_each(|path| visit(&site, path));
    let seen = status(&site)["figures"]["observed_secs"].as_u64().unwrap();
    wait_until(&site, "the second to pass", |report| {
        report["figures"]["observed_secs"].as_u64().unwrap() >= seen + 2
            && report["figures"]["lines"].as_u64().unwrap() >= 4
    });
    for path in VISITED_PATHS.iter().cycle().take(24) {
        visit(&site, path);
    }
    let report =
        wait_until(&site, "the canary to find the visitor", |report| report["figures"]["only_canary"] == 1);
    assert_eq!(report["figures"]["live_bans"], 0, "{report}");
    let output = site.home.command_output(&site.server, &["canary", "promote", "--after", "1s"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("served well within a day, and live they are not banned: 198.51.100.7"), "{said}");
    assert_eq!(fs::read_to_string(site.home.config()).unwrap(), before, "nothing was changed");
    assert_eq!(site.request(VISITOR).unwrap(), Some(200), "a canary bans nobody");
    site.home.command(&site.server, &["canary", "abort"]).unwrap();

    let good = variant(&site, "good.toml", "\n[ban]\nmax_bans = 12345\n");
    site.home.command(&site.server, &["canary", "start", "--config", &good]).unwrap();
    for path in VISITED_PATHS {
        visit(&site, path);
    }
    let is_enough = |report: &Value| {
        let figure = |name: &str| report["figures"][name].as_u64().unwrap();
        figure("observed_secs") >= 1 && figure("lines") >= 4
    };
    wait_until(&site, "the canary to observe", is_enough);
    let output = site.home.command_output(&site.server, &["canary", "promote"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("and 1 h is the least"), "{said}");
    let shown = site.home.command(&site.server, &["status"]).unwrap();
    assert!(shown.contains("good.toml runs: ") && shown.contains("not to be promoted yet"), "{shown}");
    site.home.command(&site.server, &["canary", "promote", "--after", "1s"]).unwrap();
    assert!(fs::read_to_string(site.home.config()).unwrap().contains("12345"));
    let config = fs::read_to_string(site.home.folder().join("shield.toml.before-canary")).unwrap();
    assert_eq!(config, before);
    assert_eq!(status(&site)["state"], "ended");
    assert_eq!(site.bans().unwrap().len(), 1, "no ban is lost");
    assert_eq!(site.request(ATTACKER).unwrap(), None, "and it is in the kernel");

    site.home.command(&site.server, &["rollback"]).unwrap();
    assert_eq!(fs::read_to_string(site.home.config()).unwrap(), before);
    assert_eq!(site.bans().unwrap().len(), 1);
}

#[test]
fn a_file_that_was_changed_meanwhile_is_not_replaced() {
    let site = Site::create("[page]\nenabled = false\n").unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let new = variant(&site, "new.toml", "\n[ban]\nmax_bans = 12345\n");
    site.home.command(&site.server, &["canary", "start", "--config", &new]).unwrap();
    visit(&site, "/");
    wait_until(&site, "the canary to observe", |report| {
        report["figures"]["lines"] != 0 && report["figures"]["observed_secs"] != 0
    });
    let changed = fs::read_to_string(site.home.config()).unwrap() + "# by a colleague\n";
    fs::write(site.home.config(), &changed).unwrap();
    let output = site.home.command_output(&site.server, &["canary", "promote", "--after", "1s"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("was changed since the canary was started"), "{said}");
    assert_eq!(fs::read_to_string(site.home.config()).unwrap(), changed);
}

/// The operators' own rules alone decide, and a mistake in them lets nothing through.
#[test]
fn the_operators_rules_decide_about_a_promotion_and_a_mistake_in_them_refuses() {
    let site = Site::create("[page]\nenabled = false\n").unwrap();
    let rules = site.home.folder().join("policy");
    fs::create_dir(&rules).unwrap();
    let write = |text: &str| {
        fs::write(rules.join("promote.rego"), format!("package shield.promote\n{text}\n")).unwrap();
    };
    write("deny contains \"not on a Friday\" if input.candidate.bans >= 0");
    let config = fs::read_to_string(site.home.config()).unwrap() + &format!("\n[policy]\ndir = {rules:?}\n");
    fs::write(site.home.config(), &config).unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let new = variant(&site, "new.toml", "\n[ban]\nmax_bans = 12345\n");
    site.home.command(&site.server, &["canary", "start", "--config", &new]).unwrap();
    let refused = |expected: &str| {
        let output = site.home.command_output(&site.server, &["canary", "promote"]).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
        assert_eq!(fs::read_to_string(site.home.config()).unwrap(), config);
    };
    refused("not yet     not on a Friday\n");
    write("deny contains");
    refused("nothing goes live without its answer");
    write("f(x) := f(x + 1)\ndeny contains \"x\" if f(1)");
    refused("nothing goes live without its answer");
    // An hour has not passed; these rules do not ask for it.
    write("deny contains \"no line\" if input.lines == 1000000");
    site.home.command(&site.server, &["canary", "promote"]).unwrap();
    assert!(fs::read_to_string(site.home.config()).unwrap().contains("12345"));
}
