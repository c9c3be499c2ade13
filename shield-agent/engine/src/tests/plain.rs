//! The short way for plain requests changes what the long way would, and so it does with paths that were read ahead.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::detect::policy::Policy;

/// Requests as a site has them: mostly plain ones, for few pages, by few clients.
#[derive(Debug, Clone)]
struct Asked {
    /// Seconds since the request before, or before it.
    secs: i64,
    client: u8,
    path: &'static str,
    number: Option<u8>,
    status: u16,
    size: u64,
    method: &'static str,
}

fn asked() -> impl Strategy<Value = Asked> {
    let secs =
        prop_oneof![12 => Just(0_i64), 4 => Just(1), 2 => 2_i64..30, 1 => 30_i64..200, 1 => -20_i64..0];
    let path = prop::sample::select(vec![
        "/",
        "/about",
        "/a.css",
        "/b.jpg",
        "/news/",
        "/x.php",
        "/.env",
        "/a?b=c",
        "/a//b",
        "/wp-login.php",
        "/data.zip",
    ]);
    let number = prop_oneof![3 => Just(None), 1 => (0_u8..90).prop_map(Some)];
    let status =
        prop_oneof![12 => Just(200_u16), 1 => Just(404), 1 => Just(304), 1 => Just(302), 1 => Just(500)];
    let size = prop_oneof![3 => 0_u64..50, 1 => Just(777)];
    let method = prop_oneof![12 => Just("GET"), 1 => Just("POST"), 1 => Just("HEAD")];
    (secs, 0_u8..5, path, number, status, size, method).prop_map(
        |(secs, client, path, number, status, size, method)| Asked {
            secs,
            client,
            path,
            number,
            status,
            size,
            method,
        },
    )
}

fn batch(asked: &[Asked], second: &mut i64, live: bool) -> Batch {
    let mut batch = Batch { live, ..Batch::default() };
    for one in asked {
        *second += one.secs;
        let addr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, one.client));
        let path = format!("{}{}", one.path, one.number.map_or(String::new(), |number| format!("/{number}")));
        let at = batch.bytes.len() as u32;
        batch.bytes.extend(one.method.as_bytes());
        batch.bytes.extend(path.as_bytes());
        batch.lines.push(Line {
            addr,
            time: *second,
            method_at: at,
            method_len: one.method.len() as u16,
            path_at: at + one.method.len() as u32,
            path_len: path.len() as u32,
            server_at: 0,
            server_len: 0,
            peer_at: 0,
            peer_len: 0,
            status: one.status,
            size: one.size,
            behind_proxy: false,
            salvaged: false,
        });
    }
    batch
}

/// All that an engine shows of its clients, and what it would store.
fn seen(engine: &mut Engine, second: i64, now: Now) -> String {
    let detector = engine.detector();
    let clients: Vec<_> =
        detector.top(9, second).into_iter().map(|top| detector.explain(top.client, second)).collect();
    let (status, lessons) = (detector.status(), detector.lessons());
    format!("{clients:?} {status:?} {lessons:?} {:?} {:?}", engine.totals(), engine.save(now))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_short_way_ends_where_the_long_way_does(
        requests in prop::collection::vec(asked(), 1..600),
        piece in prop_oneof![1_usize..40, 64_usize..200],
        is_sensitive in any::<bool>(),
    ) {
        let mut policy = Policy::default();
        if is_sensitive {
            policy.flood.page_requests = 9;
            policy.flood.unserved_kinds = 4;
        }
        let [mut short, mut long, mut ahead] = [(), (), ()].map(|()| {
            Engine::new(Settings::default(), policy.clone(), Allowlist::new([]), 1, 7)
        });
        long.detector.takes_long_way = true;
        let mut paths = ahead.path_reader();
        let mut second = T0.wall_secs();
        for (number, asked) in requests.chunks(piece).enumerate() {
            let batch = batch(asked, &mut second, false);
            let mut read = batch.clone();
            paths.read(&mut read);
            let now = Now { wall_ms: second * 1000, boot_ms: T0.boot_ms + number as u64 * 100 };
            let expected = format!("{:?}", long.handle(Event::Lines(&batch), now));
            prop_assert_eq!(&expected, &format!("{:?}", short.handle(Event::Lines(&batch), now)));
            prop_assert_eq!(&expected, &format!("{:?}", ahead.handle(Event::Lines(&read), now)));
            let [expected, short, ahead] = [&mut long, &mut short, &mut ahead].map(|engine| {
                let ticked = format!("{:?}", engine.handle(Event::Tick, now));
                ticked + &seen(engine, second, now)
            });
            prop_assert_eq!(&expected, &short);
            prop_assert_eq!(&expected, &ahead);
        }
        prop_assert_eq!(long.detector.plain, 0);
        if requests.len() > 300 {
            prop_assert!(short.detector.plain > 0, "nothing took the short way");
        }
    }
}

/// Two clients, of which the second asks each second after the first: its requests never begin a second.
#[test]
fn old_seconds_that_leave_a_window_send_nobody_the_long_way() {
    let mut engine = Engine::new(Settings::default(), Policy::default(), Allowlist::new([]), 1, 7);
    let mut second = T0.wall_secs() / 60 * 60;
    let mut plain_in = |secs: u8| {
        let before = engine.detector.plain;
        for at in 0..secs {
            let page = |client, secs| Asked {
                secs,
                client,
                path: "/about",
                number: Some(at % 9),
                status: 200,
                size: 9,
                method: "GET",
            };
            let batch = batch(&[page(1, 1), page(2, 0)], &mut second, false);
            let now = Now { wall_ms: second * 1000, boot_ms: T0.boot_ms };
            engine.handle(Event::Lines(&batch), now);
        }
        engine.detector.plain - before
    };
    plain_in(70);
    // Windows lose twenty seconds at the 81st second and at the 101st, and the minute is learned at its end.
    assert_eq!(plain_in(45), 45, "of the second client");
}
