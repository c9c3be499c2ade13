//! A slowed client against a real nginx, through the XDP program: a visitor reads pages as ever, a scanner gets little through,
//! and neither a kill nor a ban opens a gap.
//!
//! Alone: a page must be read within 3 s, and an answer come within 100 ms.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shield_agent::test_support::api::types::{BanPage, SlowedClient};
use shield_tests::http::{Get, is_timeout};
use shield_tests::site::{ATTACKER, SERVER, Site, VISITOR};
use shield_tests::wait;

const PROBES: [&str; 8] = [
    "/phpinfo.php",
    "/shell.php",
    "/backup.php",
    "/config.php",
    "/wp-login.php",
    "/old-admin.php",
    "/x.php",
    "/c99.php",
];

const SERVER_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x80)), 80);
/// A visitor of another network.
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 1);

/// What a page embeds. Asking for the page itself ten times over each connection would be a flood.
const FILES: [&str; 3] = ["/static/app.js", "/static/style.css", "/static/logo.svg"];

/// How long a page may take: normal time on a machine that others use too. A page whose packets were dropped takes longer: a SYN
/// that is lost costs a second, and data twice its round trips each time.
const PAGE_AT_MOST: Duration = Duration::from_secs(3);

fn page_of_bans(site: &Site) -> Result<BanPage> {
    Ok(serde_json::from_value(site.home.json(&site.server, &["bans"])?)?)
}

fn slowed(site: &Site) -> Result<Vec<SlowedClient>> {
    Ok(page_of_bans(site)?.slowed)
}

fn get(site: &Site, from: IpAddr, path: &str, timeout: Duration) -> Result<u16> {
    let get = Get { server: SERVER, from: Some(from), path, timeout };
    site.street.enter(|| get.send()).map(|response| response.status)
}

/// Probes until the client is slowed.
fn probe_until_slowed(site: &Site, from: IpAddr) -> SlowedClient {
    for probe in PROBES {
        get(site, from, probe, Duration::from_secs(2)).unwrap();
        let found = wait::until("the lane", Duration::from_millis(1_500), || {
            Ok(slowed(site)?.into_iter().find(|slowed| slowed.client.contains(from)))
        });
        if let Ok(found) = found {
            return found;
        }
        assert!(page_of_bans(site).unwrap().bans.is_empty(), "banned before it was slowed");
    }
    panic!("nobody was slowed: {}", site.home.log());
}

/// Asks for `files` over one connection that stays open.
fn ask_kept_open(stream: &TcpStream, files: usize) -> Result<()> {
    let mut reader = BufReader::new(stream);
    for path in FILES.iter().cycle().take(files) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        (&*stream).write_all(request.as_bytes()).context("could not ask")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).context("could not read the headers")?;
            ensure!(!line.is_empty(), "closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).context("could not read the body")?;
    }
    Ok(())
}

/// Reads a page as a browser does: six connections that stay open, ten files over each.
fn read_page(site: &Site, from: IpAddr) -> Result<Duration> {
    let started = Instant::now();
    let get = Get { server: SERVER, from: Some(from), path: "/", timeout: Duration::from_secs(5) };
    site.street.enter(|| get.send())?;
    let streams: Vec<TcpStream> =
        site.street.enter(|| (0..6).map(|_| get.open()).collect::<Result<Vec<_>>>())?;
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            streams.iter().map(|stream| scope.spawn(|| ask_kept_open(stream, 10))).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok(started.elapsed())
}

#[test]
fn a_slowed_visitor_still_reads_the_page_and_a_scanner_gets_little_through() {
    let site = Site::create("[slow]\nterm = \"60s\"\n").unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    probe_until_slowed(&site, VISITOR);
    // The probes themselves have used connections up.
    wait::sleep(Duration::from_secs(6)).unwrap();
    for page in 0..2 {
        let took = read_page(&site, VISITOR).unwrap();
        assert!(took < PAGE_AT_MOST, "page {page} took {took:?}");
        wait::sleep(Duration::from_secs(3)).unwrap();
    }
    let begin = Instant::now();
    let (mut answered, mut lost) = (0, 0);
    while begin.elapsed() < Duration::from_secs(6) {
        match get(&site, VISITOR, "/", Duration::from_millis(100)) {
            Ok(_) => answered += 1,
            Err(error) if is_timeout(&error) => lost += 1,
            Err(error) => panic!("{error:#}"),
        }
    }
    // A burst of 12, and 2 a second.
    assert!(
        answered <= 12 + 2 * 7 + 2,
        "{answered} of {} requests by new connections passed",
        answered + lost
    );
    assert!(answered >= 4 && lost > 0, "{answered} passed, {lost} were lost");
    // Nobody else notices.
    assert_eq!(get(&site, ATTACKER, "/", Duration::from_secs(2)).unwrap(), 200);
    let status = site.status().unwrap();
    assert_eq!((status.slowed.active, status.slowed.since_start), (1, 1));
    let text = site.home.command(&site.server, &["explain", &VISITOR.to_string()]).unwrap();
    assert!(text.contains("is not banned, but slowed to 2 connections/s and 20 packets/s"), "{text}");
}

#[test]
fn a_kill_keeps_the_slow_lane_and_a_ban_opens_no_gap() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    let before = probe_until_slowed(&site, ATTACKER);
    // It is saved at the next second.
    wait::sleep(Duration::from_millis(1_500)).unwrap();
    agent.kill().unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let after = slowed(&site).unwrap();
    assert_eq!(after.len(), 1, "{}", site.home.log());
    assert_eq!((after[0].client, after[0].since_ms), (before.client, before.since_ms));
    assert!(after[0].ends_ms.abs_diff(before.ends_ms) < 2_000, "{after:?}");
    site.home.command(&site.server, &["ban", &ATTACKER.to_string(), "--for", "10m"]).unwrap();
    wait::until("the ban", Duration::from_secs(5), || Ok(site.request(ATTACKER)?.is_none().then_some(())))
        .unwrap();
    for _ in 0..10 {
        assert_eq!(site.request(ATTACKER).unwrap(), None, "dropped all the time");
    }
    assert!(slowed(&site).unwrap().is_empty());
    assert_eq!(site.bans().unwrap().len(), 1);
}

/// The n-th /64 of a /48 whose addresses are all the street's.
fn hopped(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 7, n, 0, 0, 0, 1).into()
}

fn get_v6(site: &Site, from: IpAddr, path: &str) -> Result<Option<u16>> {
    let get = Get { server: SERVER_V6, from: Some(from), path, timeout: Duration::from_millis(100) };
    match site.street.enter(|| get.send()) {
        Ok(response) => Ok(Some(response.status)),
        Err(error) if is_timeout(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[test]
fn whoever_hops_through_a_network_gets_no_more_through_than_one_client() {
    let site = Site::create("").unwrap();
    site.server.add_address("eth0", &format!("{}/64", SERVER_V6.ip())).unwrap();
    site.street.add_address("eth0", "2001:db8:80::1/64").unwrap();
    site.street.add_address("eth0", &format!("{OTHER_V6}/128")).unwrap();
    site.server.set_default_route("2001:db8:80::1".parse().unwrap()).unwrap();
    // Every address of the network is the street's, and a connection may come from each.
    site.street.run(&["ip", "-6", "route", "add", "local", "2001:db8:7::/48", "dev", "lo"]).unwrap();
    site.street.run(&["sysctl", "-q", "-w", "net.ipv6.ip_nonlocal_bind=1"]).unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let mut hops = 0..u16::MAX;
    let network = wait::until("the network in the lane", Duration::from_secs(30), || {
        for n in hops.by_ref().take(10) {
            get_v6(&site, hopped(n), "/.env")?;
        }
        Ok(slowed(&site)?.into_iter().find(|slowed| slowed.client.to_string() == "2001:db8:7::/48"))
    })
    .unwrap();
    assert!(network.words.contains("in this network only probe"), "{network:?}");
    let (begin, mut answered, mut asked) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(6) {
        answered += u32::from(get_v6(&site, hopped(hops.next().unwrap()), "/.env").unwrap().is_some());
        asked += 1;
    }
    assert!(answered <= 12 + 2 * 7 + 2 && answered < asked, "{answered} of {asked} passed");
    // Nobody else notices, of either family.
    assert_eq!(get_v6(&site, OTHER_V6.into(), "/").unwrap(), Some(200));
    assert_eq!(get(&site, VISITOR, "/", Duration::from_secs(2)).unwrap(), 200);
    let text = site.home.command(&site.server, &["explain", &hopped(60_000).to_string()]).unwrap();
    assert!(text.contains("slowed to 2 connections/s"), "{text}");
    let text = site.home.command(&site.server, &["unban", "2001:db8:7::/48"]).unwrap();
    assert!(text.contains("no longer slowed"), "{text}");
    wait::until("an answer", Duration::from_secs(5), || get_v6(&site, hopped(60_001), "/")).unwrap();
}

#[test]
fn an_operator_lets_a_slowed_client_go() {
    let site = Site::create("").unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    probe_until_slowed(&site, ATTACKER);
    let text = site.home.command(&site.server, &["unban", &ATTACKER.to_string()]).unwrap();
    assert!(text.contains("no longer slowed"), "{text}");
    assert!(slowed(&site).unwrap().is_empty());
}

#[test]
fn without_xdp_the_state_says_that_nobody_is_slowed() {
    let site = Site::create("[xdp]\nmode = \"off\"\n").unwrap();
    let _agent = site.start_agent(&[]).unwrap();
    let said = wait::until("the state of the slow lane", Duration::from_secs(5), || {
        Ok(site.status()?.parts.into_iter().find(|part| part.part == "slow"))
    })
    .unwrap();
    assert_eq!(said.text, "clients cannot be slowed: XDP is off");
}
