//! A minute that is learned in pieces, while requests are counted, is learned as if at once.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::detect::detector::{Detector, LOOK_AHEAD, Standing};
use crate::detect::detector_tests;
use crate::detect::policy::Policy;
use crate::tests::push;
use crate::vocab::client::Client;
use crate::vocab::request::{Batch, Request};
use crate::vocab::time::Now;
use crate::vocab::verdict::Verdict;

/// A Monday's 08:00 UTC.
const START: i64 = 1_767_600_000;

const ASKED: [(&str, &str, u16); 9] = [
    ("GET", "/", 200),
    ("GET", "/style.css", 200),
    ("GET", "/photo.jpg", 200),
    ("GET", "/news/1", 200),
    ("GET", "/about", 301),
    ("POST", "/search", 200),
    ("GET", "/gone", 404),
    ("GET", "/.env", 404),
    ("POST", "/wp-login.php", 200),
];

fn addr(n: u32) -> IpAddr {
    // A client in each network: what one refuses teaches about another.
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0007 + n * 256))
}

fn client(n: u32) -> Client {
    Client::of_addr(addr(n), 64)
}

fn detector(max_clients: usize, at_once: usize) -> Detector {
    let mut detector = Detector::new(Policy { max_clients, ..Policy::default() }, 64, 1);
    detector.at_once = at_once;
    detector
}

fn request(second: i64, client: u32, what: usize) -> Request<'static> {
    detector_tests::request(addr(client), second, ASKED[what])
}

fn ask(detector: &mut Detector, second: i64, client: u32, what: usize) -> Verdict {
    let request = request(second, client, what);
    let prepared = detector.prepare(&request);
    detector.observe(&request, second, &prepared, Standing::Normal)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many seconds later, or earlier, a client asks for something.
    Ask(i64, u32, usize),
    Forget(u32),
    Charge(u32),
    Lose(u32),
}

fn step(pause: impl Strategy<Value = i64>) -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (pause, 0..40_u32, 0..ASKED.len()).prop_map(|(secs, client, what)| Step::Ask(secs, client, what)),
        1 => (0..40_u32).prop_map(Step::Forget),
        1 => (0..40_u32).prop_map(Step::Charge),
        1 => (0..40_u32).prop_map(Step::Lose),
    ]
}

/// Mostly no pause, so that most minutes have many requests of few clients.
fn short_pause() -> impl Strategy<Value = i64> {
    prop_oneof![20 => Just(0_i64), 8 => 1..4_i64, 2 => 4..40_i64, 2 => -30..0_i64]
}

fn any_pause() -> impl Strategy<Value = i64> {
    prop_oneof![60 => short_pause(), 1 => 40..200_i64, 1 => 590..1_300_i64]
}

fn take(detector: &mut Detector, step: Step, second: i64) -> Option<Verdict> {
    match step {
        Step::Ask(_, client, what) => return Some(ask(detector, second, client, what)),
        Step::Forget(n) => detector.forget(client(n)),
        Step::Charge(n) => detector.charge_standing(client(n)),
        Step::Lose(n) => detector.lose_standing(client(n)),
    }
    None
}

/// What was learned, as numbers: sums in another order differ in their last bits.
fn learned(detector: &mut Detector, second: i64) -> Vec<f64> {
    detector.finish_minute();
    let saved = String::from_utf8(detector.save()).expect("JSON");
    let numbers = saved.split(|c: char| !c.is_ascii_digit() && !".eE+-".contains(c));
    let mut all: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
    for n in 0..40 {
        let standing = detector.good_standing(client(n), second);
        all.push(standing.map_or(-1.0, |standing| f64::from(standing.credit)));
        all.push(f64::from(u8::from(detector.knows(client(n)))));
    }
    all
}

fn are_alike(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(1.0))
}

fn learns_the_same(max_clients: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let [mut pieces, mut at_once] = [0, usize::MAX].map(|limit| detector(max_clients, limit));
    let mut second = START;
    for step in steps {
        if let Step::Ask(secs, ..) = step {
            if (second + secs) / 60 > second / 60 {
                let alike = are_alike(&learned(&mut pieces, second), &learned(&mut at_once, second));
                prop_assert!(alike, "the minute before {}", second - second % 60);
            }
            second = START.max(second + secs);
        }
        let [one, other] =
            [&mut pieces, &mut at_once].map(|detector| format!("{:?}", take(detector, *step, second)));
        prop_assert_eq!(one, other);
    }
    prop_assert!(are_alike(&learned(&mut pieces, second), &learned(&mut at_once, second)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn in_pieces_the_same_is_learned_as_at_once(steps in prop::collection::vec(step(any_pause()), 1..900)) {
        learns_the_same(1_000, &steps)?;
    }

    /// In a table that is too small for all of them.
    #[test]
    fn who_has_to_make_room_is_learned_too(steps in prop::collection::vec(step(short_pause()), 1..900)) {
        learns_the_same(25, &steps)?;
    }

    /// Nothing depends on whether time passes in ticks or with the next line. (Over a silence of many minutes the table is swept at
    /// its end alone.)
    #[test]
    fn the_pieces_are_those_of_the_log(
        steps in prop::collection::vec(step(prop_oneof![40 => short_pause(), 1 => 40..200_i64]), 1..600),
    ) {
        let [mut jumping, mut ticking] = [(), ()].map(|()| detector(1_000, 0));
        let mut second = START;
        for step in steps {
            if let Step::Ask(secs, ..) = step {
                for tick in second..second + secs {
                    ticking.tick(tick);
                }
                second = START.max(second + secs);
            }
            take(&mut jumping, step, second);
            take(&mut ticking, step, second);
            prop_assert_eq!(jumping.clients.left_to_walk(), ticking.clients.left_to_walk());
        }
        prop_assert_eq!(jumping.save(), ticking.save());
    }

    /// Nor on how the lines are cut.
    #[test]
    fn the_pieces_do_not_depend_on_the_batches(
        asked in prop::collection::vec((short_pause(), 0..40_u32, 0..ASKED.len()), 1..600),
        sizes in (1..=LOOK_AHEAD, 1..=LOOK_AHEAD),
    ) {
        let (mut second, mut lines) = (START, Vec::new());
        for (secs, client, what) in asked {
            second = START.max(second + secs);
            lines.push((second, client, what));
        }
        let [one, other] = [sizes.0, sizes.1].map(|size| {
            let mut detector = detector(25, 0);
            lines.chunks(size).for_each(|batch| ask_all(&mut detector, batch));
            (detector.clients.left_to_walk(), detector.save())
        });
        prop_assert_eq!(one, other);
    }
}

/// The same as [`ask`] for lines that were prepared together.
fn ask_all(detector: &mut Detector, lines: &[(i64, u32, usize)]) {
    let (mut batch, mut prepared) = (Batch::default(), Vec::new());
    for (second, client, what) in lines {
        let (_, path, status) = ASKED[*what];
        push(&mut batch, addr(*client), path, status, Now { wall_ms: second * 1000, boot_ms: 0 });
    }
    detector.prepare_batch(&batch, &batch.lines, &[], &mut prepared);
    for ((second, client, what), prepared) in lines.iter().zip(&prepared) {
        detector.observe(&request(*second, *client, *what), *second, prepared, Standing::Normal);
    }
}

/// Fills the minute before `START + 60` with so many clients, which ask this often.
fn crowd(detector: &mut Detector, clients: u32, requests: usize) {
    for client in 0..clients {
        (0..requests).for_each(|n| drop(ask(detector, START + i64::from(client % 60), client, n % 4)));
    }
}

#[test]
fn a_client_that_loses_its_activity_is_learned_before() {
    // No more activities than this are kept of so few clients.
    const ACTIVITIES: u32 = 1_024;
    let [pieces, at_once] = [0, usize::MAX].map(|limit| {
        let mut detector = detector(4_000, limit);
        crowd(&mut detector, ACTIVITIES, 6);
        for client in 0..200 {
            (0..6).for_each(|n| drop(ask(&mut detector, START + 60, 2_000 + client, n % 4)));
        }
        assert_eq!(detector.clients.left_to_walk() > 0, limit == 0);
        learned(&mut detector, START + 60)
    });
    assert!(are_alike(&pieces, &at_once));
}

#[test]
fn one_line_and_one_second_learn_a_few_clients_only() {
    const CLIENTS: u32 = 5_000;
    let mut detector = detector(10_000, 0);
    crowd(&mut detector, CLIENTS, 1);
    let mut left = CLIENTS as usize;
    for line in 0..300 {
        // Newcomers, and clients that are learned ahead of their turn.
        ask(&mut detector, START + 60, if line % 2 == 0 { CLIENTS + line } else { line }, 0);
        let now = detector.clients.left_to_walk();
        assert!(left - now <= 2, "a line learned {} clients", left - now);
        left = now;
    }
    assert!(left < CLIENTS as usize, "no line learned any");
    for second in 61..=70 {
        detector.tick(START + second);
        let now = detector.clients.left_to_walk();
        assert!(left - now <= 1_024, "second {second} learned {} clients", left - now);
        left = now;
    }
    assert!(left == 0 && detector.ending.is_none());
}
