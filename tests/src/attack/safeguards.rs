//! Attempts to turn what protects the operator and good clients into a weapon.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Attack;
use super::target::{Target, flood, line, time};
use crate::ssh::{Machine, Pam};

pub(super) const EXEMPTION: Attack = Attack {
    name: "ssh-exemption",
    does: "a client keeps a connection to port 22 open without a login, and a local user's process called `sshd` connects to that client, before its ban and during it",
    failure: "the client is exempt, or its ban is lifted",
    run: exemption,
};

fn exemption() -> Result<String> {
    let machine = Machine::create("", Pam::Unused)?;
    let _agent = machine.agent(&machine.unit("")?)?;
    let watched = machine.nobody_is_exempt_without_a_login()?;
    Ok(format!("no exemption and no lift in {} s, which are four looks of the agent", watched.as_secs()))
}

pub(super) const BLAST_RADIUS: Attack = Attack {
    name: "blast-radius",
    does: "400 throw-away addresses attack at once, with the default limits on bans, on a site with 40 visitors; then 10 more attackers come",
    failure: "one of the 400 is not banned within 20 s, one of the 10 within a second, or a visitor is",
    run: blast_radius,
};

fn blast_radius() -> Result<String> {
    const WITHIN: Duration = Duration::from_secs(20);
    let target = Target::start("")?;
    let visitors: Vec<Ipv4Addr> = (0..40).map(|n| Ipv4Addr::new(10, 2, n, 7)).collect();
    let visit = || -> Result<()> {
        let time = time();
        let paths = ["/", "/style.css", "/app.js", "/logo.png"];
        let lines = visitors
            .iter()
            .flat_map(|visitor| paths.map(|path| line(&visitor.to_string(), &time, path, 200)));
        target.write(&lines.collect::<String>())
    };
    visit()?;
    target.settle()?;
    let crowd: Vec<Ipv4Addr> = (0..400).map(|_| target.fresh_client()).collect();
    for attacker in &crowd {
        target.write(&flood(&attacker.to_string())?)?;
    }
    visit()?;
    let took = target.wait_until_banned(&crowd, WITHIN)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        slowest = slowest.max(target.still_bans()?);
    }
    visit()?;
    target.settle()?;
    for visitor in &visitors {
        ensure!(!target.has_banned(&visitor.to_string())?, "the visitor {visitor} is banned");
    }
    Ok(format!(
        "{} banned in {:.1} s, the slowest of 10 more in {} ms, no visitor",
        crowd.len(),
        took.as_secs_f64(),
        slowest.as_millis()
    ))
}
