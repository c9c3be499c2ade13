//! Histories of logs, and what is found in them.

use super::*;
use shield_engine::request::Rejected;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn at(ms: u64) -> Now {
    Now { wall_ms: 1_795_500_000_000 + ms as i64, boot_ms: 5_000_000 + ms }
}

/// Batches as the parser makes them.
struct Lines {
    batch: Batch,
}

impl Lines {
    fn new() -> Lines {
        Lines { batch: Batch { live: true, ..Batch::default() } }
    }

    /// Not live, because their times stand still.
    fn good(n: u64) -> Batch {
        let line = |lines: Lines, n| lines.line(&format!("198.51.100.{}", n % 200), at(0), "/");
        Batch { live: false, ..(0..n).fold(Lines::new(), line).batch }
    }

    fn line(self, addr: &str, time: Now, path: &str) -> Lines {
        self.whole(addr, time.wall_secs(), "GET", path, 200)
    }

    fn whole(mut self, addr: &str, time: i64, method: &str, path: &str, status: u16) -> Lines {
        let place = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend_from_slice(text.as_bytes());
            (bytes.len() - text.len()) as u32
        };
        let method_at = place(&mut self.batch.bytes, method);
        let path_at = place(&mut self.batch.bytes, path);
        self.batch.lines.push(shield_engine::request::Line {
            addr: addr.parse().unwrap(),
            time,
            method_at,
            method_len: method.len() as u16,
            path_at,
            path_len: path.len() as u32,
            server_at: 0,
            server_len: 0,
            peer_at: 0,
            peer_len: 0,
            status,
            size: 100,
            behind_proxy: false,
            salvaged: false,
        });
        self
    }

    fn refused(mut self, n: u64) -> Batch {
        self.batch.rejected[Rejected::Malformed.index()] = n;
        self.batch.first_refused = Some(RefusedLine::new(Rejected::Malformed, b"web1 198.51.100.7 GET /"));
        self.batch
    }
}

fn mixed(good: u64, refused: u64) -> Batch {
    Lines { batch: Lines::good(good) }.refused(refused)
}

fn kind(sight: &LogSight) -> Option<Kind> {
    sight.finding().map(|finding| finding.kind())
}

/// Reads one batch of `lines` every `every_ms`, with a look that finds nothing after each.
fn read_all(sight: &mut LogSight, from_ms: u64, every_ms: u64, batches: &[Batch]) -> u64 {
    let mut ms = from_ms;
    for batch in batches {
        ms += every_ms;
        sight.read(batch, at(ms));
        sight.idle(at(ms));
    }
    ms
}

#[test]
fn an_unknown_format_is_found_after_twenty_lines_and_a_changed_one_after_a_hundred() {
    let one = || Lines::new().refused(1);
    let mut new = LogSight::default();
    let mut ms = read_all(&mut new, 0, 10, &vec![one(); 19]);
    assert_eq!(kind(&new), None);
    ms = read_all(&mut new, ms, 10, &[one()]);
    let Some(Finding::Refused(lines)) = new.finding() else { panic!("{:?}", new.finding()) };
    assert_eq!((lines.refused, lines.of), (20, 20));
    assert_eq!(&*lines.first.unwrap().text, b"web1 198.51.100.7 GET /");
    read_all(&mut new, ms, 10, &vec![one(); 500]);
    let Some(Finding::Refused(lines)) = new.finding() else { panic!("{:?}", new.finding()) };
    assert_eq!((lines.refused, lines.of), (200, 200));

    let mut changed = LogSight::default();
    let ms = read_all(&mut changed, 0, 10, &vec![Lines::good(1); 1_000]);
    let ms = read_all(&mut changed, ms, 10, &vec![one(); 99]);
    assert_eq!(kind(&changed), None);
    read_all(&mut changed, ms, 10, &[one()]);
    assert_eq!(kind(&changed), Some(Kind::Refused));
}

#[test]
fn on_a_site_with_few_lines_a_minute_shows_it() {
    let mut slow = LogSight::default();
    let ms = read_all(&mut slow, 0, 10_000, &vec![Lines::new().refused(1); 5]);
    assert_eq!(kind(&slow), None);
    slow.idle(at(ms + 5_000));
    assert_eq!(kind(&slow), Some(Kind::Refused), "five lines within 45 s, none of them read");
    let mut changed = LogSight::default();
    let ms = read_all(&mut changed, 0, 1_000, &vec![Lines::good(1); 1_000]);
    let ms = read_all(&mut changed, ms, 2_500, &vec![Lines::new().refused(1); 20]);
    changed.idle(at(ms));
    let Some(Finding::Refused(lines)) = changed.finding() else { panic!("{:?}", changed.finding()) };
    assert_eq!((lines.refused, lines.of), (20, 20), "what is said is true: none of the last 20");
}

#[test]
fn it_recovers_soon_after_the_first_fault_and_later_after_each_further_one() {
    let mut sight = LogSight::default();
    let mut ms = 0;
    let mut recovered_after = Vec::new();
    for _ in 0..4 {
        ms = read_all(&mut sight, ms, 100, &vec![Lines::new().refused(1); 120]);
        assert_eq!(kind(&sight), Some(Kind::Refused));
        let since = ms;
        while kind(&sight).is_some() {
            ms = read_all(&mut sight, ms, 1_000, &[Lines::good(10)]);
            assert!(ms - since < 2 * HOUR, "{:?} after {recovered_after:?}", sight.finding());
        }
        recovered_after.push((ms - since) / 1_000);
    }
    assert_eq!(recovered_after, [12, 62, 602, 3_602]);
}

/// What it costs to hide that a log is not read: one good line in a hundred does not, nor half of them.
#[test]
fn good_lines_among_refused_ones_hide_nothing() {
    for (good, refused) in [(1, 99), (10, 90), (45, 55)] {
        let mut sight = LogSight::default();
        read_all(&mut sight, 0, 1_000, &vec![mixed(good, refused); 10]);
        assert_eq!(kind(&sight), Some(Kind::Refused), "{good} of 100 are good");
    }
    let mut bursts = LogSight::default();
    let mut ms = read_all(&mut bursts, 0, 100, &vec![mixed(0, 100); 3]);
    for _ in 0..100 {
        ms = read_all(&mut bursts, ms, 9_000, &[Lines::good(50)]);
        ms = read_all(&mut bursts, ms, 100, &[mixed(0, 100)]);
    }
    assert_eq!(kind(&bursts), Some(Kind::Refused), "bursts of good lines in between are no calm");
}

/// What it costs to make a healthy log look blind: half of its lines.
#[test]
fn a_client_with_broken_lines_does_not_blind_a_busy_log_but_is_told_of_when_it_goes_on() {
    let mut sight = LogSight::default();
    let mut ms = read_all(&mut sight, 0, 1_000, &vec![mixed(70, 30); 200]);
    assert_eq!(kind(&sight), None);
    let mut changes = 0;
    let mut was = None;
    for _ in 0..3_600 {
        ms = read_all(&mut sight, ms, 1_000, &[mixed(70, 30)]);
        changes += usize::from(kind(&sight) != was);
        was = kind(&sight);
    }
    assert_eq!((was, changes), (Some(Kind::SomeRefused), 1));
    let Some(Finding::SomeRefused(lines)) = sight.finding() else { panic!() };
    assert_eq!(lines.refused * 100 / lines.of, 30);
    assert!(lines.first.is_some());
    for _ in 0..600 {
        ms = read_all(&mut sight, ms, 1_000, &[Lines::good(100)]);
    }
    assert_eq!(kind(&sight), None);
}

#[test]
fn a_few_refused_lines_that_do_not_go_on_are_nothing() {
    let mut sight = LogSight::default();
    let mut ms = 0;
    for minute in 0..600 {
        let refused = if minute % 60 == 0 { 20 } else { 0 };
        ms = read_all(&mut sight, ms, MINUTE, &[mixed(300, refused)]);
        assert_eq!(kind(&sight), None, "minute {minute}");
    }
    let empty = Batch { rejected: [0, 0, 0, 0, 0, 500], ..Batch::default() };
    read_all(&mut sight, ms, 100, &[empty]);
    assert_eq!(kind(&sight), None, "empty lines");
}

/// One line of each of `clients`.
fn round(lines: impl Fn(Lines, &str) -> Lines, clients: u64) -> Batch {
    (0..clients).fold(Lines::new(), |made, n| lines(made, &format!("198.51.100.{n}"))).batch
}

#[test]
fn fields_with_the_wrong_values_are_found_in_most_clients_lines() {
    let check = |line: &dyn Fn(Lines, &str) -> Lines, expected: Option<FieldFault>| {
        let mut sight = LogSight::default();
        read_all(&mut sight, 0, 1_000, &vec![round(line, 10); 20]);
        assert_eq!(sight.finding(), expected.map(Finding::Field));
        assert_eq!(at_a_glance(&round(line, 10), &Surroundings::default()), expected.map(Finding::Field));
    };
    let t = at(0).wall_secs();
    check(&|lines, addr| lines.whole(addr, t, "GET", "/x", 200), None);
    check(&|lines, addr| lines.whole(addr, t, "", "GET /x HTTP/1.1", 200), Some(FieldFault::PathIsRequest));
    check(&|lines, addr| lines.whole(addr, t, "GET", "", 200), Some(FieldFault::PathEmpty));
    check(&|lines, addr| lines.whole(addr, t, "", "", 400), None);
    check(&|lines, addr| lines.whole(addr, t, "200", "/x", 200), Some(FieldFault::MethodIsNumber));
    check(&|lines, addr| lines.whole(addr, t, "GET", "/x", 0), Some(FieldFault::StatusZero));
}

/// A client that writes `GET GET /x HTTP/1.1 HTTP/1.1`, alone at night, by day among others, or from a whole IPv6 network.
#[test]
fn a_client_cannot_make_a_field_look_wrong() {
    let odd = |lines: Lines, addr: &str| lines.whole(addr, 0, "GET", "GET /x HTTP/1.1", 404);
    let mut sight = LogSight::default();
    let visitors = || round(|lines, addr| lines.whole(addr, 0, "GET", "/", 200), 3);
    let ms = read_all(&mut sight, 0, 1_000, &vec![visitors(); 40]);
    let alone = || (0..30).fold(Lines::new(), |lines, _| odd(lines, "203.0.113.66")).batch;
    let ms = read_all(&mut sight, ms, 1_000, &vec![alone(); 40]);
    assert_eq!(sight.finding(), None, "alone at night");
    let among = || odd(odd(Lines { batch: visitors() }, "203.0.113.66"), "203.0.113.66").batch;
    let ms = read_all(&mut sight, ms, 1_000, &vec![among(); 100]);
    assert_eq!(sight.finding(), None, "among three visitors");
    let network = || {
        let lines = Lines { batch: visitors() };
        (0..29).fold(lines, |lines, n| odd(lines, &format!("2001:db8::{n:x}"))).batch
    };
    read_all(&mut sight, ms, 1_000, &vec![network(); 100]);
    assert_eq!(sight.finding(), None, "with many addresses of one network");
}

#[test]
fn a_time_that_stands_still_is_found_among_live_lines() {
    let mut sight = LogSight::default();
    let line = || Lines::new().whole("198.51.100.1", 1_795_500_000, "GET", "/", 200).batch;
    read_all(&mut sight, 0, 20_000, &vec![line(); 35]);
    assert_eq!(sight.finding(), Some(Finding::Field(FieldFault::TimeStands)));
    read_all(&mut sight, 700_000, 20_000, &[Lines::new().line("198.51.100.1", at(720_000), "/").batch]);
    assert_eq!(sight.finding(), None);
}

/// An arrival of one line a second from `from` to `to`, seconds before it is read.
fn arrival(now: Now, from: i64, to: i64) -> Batch {
    let secs = (to..=from).rev();
    secs.fold(Lines::new(), |lines, ago| lines.whole("198.51.100.1", now.wall_secs() - ago, "GET", "/", 200))
        .batch
}

/// Looks every second, reads `batch(now)` every `every_ms`.
fn arrivals(
    sight: &mut LogSight,
    from_ms: u64,
    every_ms: u64,
    times: u64,
    batch: &dyn Fn(Now) -> Batch,
) -> u64 {
    let mut ms = from_ms;
    for _ in 0..times {
        for _ in 0..every_ms / 1_000 {
            ms += 1_000;
            sight.idle(at(ms));
        }
        sight.read(&batch(at(ms)), at(ms));
    }
    sight.idle(at(ms + 500));
    ms
}

#[test]
fn a_buffered_log_is_late_and_a_slow_reader_and_a_wrong_clock_are_not() {
    let buffered = |now: Now| arrival(now, 299, 0);
    let mut late = LogSight::default();
    let ms = arrivals(&mut late, 0, 5 * MINUTE, 2, &buffered);
    assert_eq!(late.finding(), None);
    let ms = arrivals(&mut late, ms, 5 * MINUTE, 2, &buffered);
    assert_eq!(late.finding(), Some(Finding::Late { by_secs: 299 }));
    let ms = arrivals(&mut late, ms, 10_000, 6 * 59, &|now| arrival(now, 9, 0));
    assert_eq!(kind(&late), Some(Kind::Late), "by day the buffer fills sooner");
    arrivals(&mut late, ms, 10_000, 20, &|now| arrival(now, 9, 0));
    assert_eq!(late.finding(), None);

    let mut slow = LogSight::default();
    for n in 0..10 {
        let now = at(n * 300_000);
        slow.idle(now);
        slow.read(&arrival(at((n + 1) * 300_000), 299, 0), at((n + 1) * 300_000));
    }
    assert_eq!(slow.finding(), None, "the reader did not look in between");
    let mut wrong = LogSight::default();
    arrivals(&mut wrong, 0, 5_000, 100, &|now| arrival(now, 3_604, 3_600));
    assert_eq!(wrong.finding(), None, "an hour behind, all of them");
    let mut long = LogSight::default();
    let request = |now| {
        Lines { batch: arrival(now, 600, 600) }
            .line("198.51.100.2", now, "/")
            .line("198.51.100.3", now, "/")
            .batch
    };
    arrivals(&mut long, 0, 5_000, 100, &request);
    assert_eq!(long.finding(), None, "a long request beside short ones, logged with the time of its start");
}

/// Runs a source for `hours`, with `gap_secs(hour of the week)` between lines, and looks at it every 30 s.
fn run(
    sight: &mut SourceSight,
    from_ms: u64,
    hours: u64,
    gap_secs: &dyn Fn(i64) -> Option<u64>,
) -> (u64, Vec<u64>) {
    let (mut ms, mut alarms, mut was, mut last) = (from_ms, Vec::new(), false, from_ms);
    while ms < from_ms + hours * HOUR {
        ms += 30_000;
        let hour = at(ms).wall_secs().div_euclid(3_600).rem_euclid(168);
        if gap_secs(hour).is_some_and(|gap| ms - last >= gap * 1_000) {
            last = ms;
            sight.read(&Lines::good(1), at(ms));
        }
        sight.idle(at(ms));
        let is = matches!(sight.finding(), Some(Finding::Silent { .. }));
        if is && !was {
            alarms.push((ms - last) / 1_000);
        }
        was = is;
    }
    (ms, alarms)
}

#[test]
fn a_silence_far_longer_than_usual_is_found_after_a_day_and_not_before() {
    let busy = |_| Some(30);
    let mut young = SourceSight::default();
    let (ms, _) = run(&mut young, 0, 20, &busy);
    assert_eq!(run(&mut young, ms, 3, &|_| None).1, [] as [u64; 0], "not within the first day");
    let mut sight = SourceSight::default();
    let (ms, alarms) = run(&mut sight, 0, 26, &busy);
    assert!(alarms.is_empty());
    let (ms, alarms) = run(&mut sight, ms, 2, &|_| None);
    assert_eq!(alarms, [900]);
    let Some(Finding::Silent { usual_secs, for_secs }) = sight.finding() else { panic!() };
    assert_eq!((usual_secs, for_secs), (30, 7_200));
    let (ms, _) = run(&mut sight, ms, 1, &busy);
    assert_eq!(sight.finding(), None, "lines came");
    assert_eq!(run(&mut sight, ms, 1, &|_| None).1, [900], "an outage is not learned as usual");
    sight.idle(at(ms + HOUR));
    let mut slept = SourceSight::default();
    let (ms, _) = run(&mut slept, 0, 26, &busy);
    slept.idle(at(ms + 12 * HOUR));
    assert_eq!(slept.finding(), None, "nobody looked: the machine was suspended");
}

#[test]
fn sites_that_sleep_do_not_alarm_and_are_watched_while_they_are_awake() {
    // Hours of the week from Thursday on, because the epoch began on one.
    let office = |hour: i64| {
        let (day, hour) = (hour / 24, hour % 24);
        (![2, 3].contains(&day) && (8..18).contains(&hour)).then_some(30)
    };
    let mut sight = SourceSight::default();
    let (mut ms, mut alarms) = run(&mut sight, 0, 24 * 15, &office);
    assert_eq!(alarms, [] as [u64; 0]);
    while at(ms).wall_secs().div_euclid(3_600).rem_euclid(168) != 24 * 5 + 11 {
        (ms, alarms) = run(&mut sight, ms, 1, &office);
        assert_eq!(alarms, [] as [u64; 0]);
    }
    assert_eq!(run(&mut sight, ms, 2, &|_| None).1, [900], "on a Tuesday at eleven");

    let mut rare = SourceSight::default();
    assert_eq!(
        run(&mut rare, 0, 24 * 20, &|_| Some(7 * 3_600)).1,
        [] as [u64; 0],
        "a line every seven hours"
    );
    let mut once = SourceSight::default();
    let (ms, _) = run(&mut once, 0, 1, &|_| Some(30));
    assert_eq!(run(&mut once, ms, 24 * 20, &|_| None).1, [] as [u64; 0], "a site that was visited once");
}

fn surroundings() -> Surroundings {
    Surroundings {
        own: vec!["172.17.0.1".parse().unwrap(), "192.0.2.80".parse().unwrap()],
        gateways: vec!["192.0.2.1".parse().unwrap()],
        proxies: vec!["203.0.113.0/29".parse().unwrap()],
        allowed: vec!["10.9.0.0/16".parse().unwrap()],
    }
}

/// Runs a source for `hours`: every ten seconds one line of `addr` for one of `paths` paths, and judges every ten minutes.
fn one_client(addr: &str, paths: u64, hours: u64, other: Option<(&str, u64)>) -> Option<OneClient> {
    let mut sight = SourceSight::default();
    for n in 0..hours * 360 {
        let now = at(n * 10_000);
        let mut lines = Lines::new().line(addr, now, &format!("/page/{}?{n}", n % paths));
        if let Some((other, every)) = other
            && n % every == every - 1
        {
            lines = lines.line(other, now, "/");
        }
        sight.read(&lines.batch, now);
        if n % 60 == 0 {
            sight.judge_clients(&surroundings(), now);
        }
    }
    match sight.finding() {
        Some(Finding::OneClient(one)) => Some(one),
        _ => None,
    }
}

#[test]
fn one_address_for_all_clients_needs_evidence_that_fits_the_address() {
    let check = |addr: &str, paths, hours, other, expected: Option<Origin>| {
        let found = one_client(addr, paths, hours, other).map(|one| one.origin);
        assert_eq!(found, expected, "{addr}, {paths} paths, {hours} h, {other:?}");
    };
    check("172.17.0.1", 100, 1, None, Some(Origin::Own));
    check("127.0.0.1", 100, 1, None, Some(Origin::Own));
    check("192.0.2.1", 100, 1, None, Some(Origin::Gateway));
    check("172.18.0.1", 100, 1, None, Some(Origin::Container));
    check("10.0.2.100", 100, 1, None, Some(Origin::Container));
    check("203.0.113.5", 100, 1, None, Some(Origin::TrustedProxy));
    check("172.17.0.1", 2, 48, None, None);
    check("172.17.0.1", 100, 1, Some(("198.51.100.7", 30)), Some(Origin::Own));
    check("172.17.0.1", 100, 1, Some(("127.0.0.1", 2)), Some(Origin::Own));
    check("172.17.0.1", 100, 1, Some(("198.51.100.7", 3)), None);
    check("10.9.1.1", 100, 72, None, None);
    check("192.168.1.20", 100, 12, None, None);
    check("192.168.1.20", 100, 26, None, Some(Origin::Private));
    check("192.168.1.20", 100, 26, Some(("192.168.1.21", 1_000)), None);
    check("192.168.1.20", 3, 26, None, None);
    check("198.51.100.7", 100, 26, None, None);
    check("198.51.100.7", 100, 60, None, Some(Origin::Public));
    check("198.51.100.7", 100, 60, Some(("203.0.113.200", 3_000)), None);
}
