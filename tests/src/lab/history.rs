//! The history of the lab's server: half an hour of ordinary log lines, so that the agent has a baseline before the first
//! step. Generated, and the same for the same arguments.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::traffic::VISITED_PATHS;

/// The span of the history: the baseline's window.
pub const SECS: i64 = 30 * 60;

/// Log lines of `clients` in order of time, each with `per_sec` requests per second on average. The last line is one second
/// before `end_secs` (Unix time).
pub fn lines(clients: &[IpAddr], per_sec: f64, end_secs: i64) -> String {
    let mut random = SmallRandom(0x5EED);
    let mut text = String::new();
    for second in end_secs - SECS..end_secs {
        let time = iso8601(second);
        for client in clients {
            for _ in 0..random.count(per_sec) {
                let path = VISITED_PATHS[random.below(VISITED_PATHS.len() as u64) as usize];
                writeln!(
                    text,
                    r#"{{"source_ip":"{client}","timestamp":"{time}","method":"GET","path":"{path}","status":200,"response_size":1400}}"#
                )
                .expect("writing to a String cannot fail");
            }
        }
    }
    text
}

/// A splitmix64 generator: good enough for jitter, and the same on every machine.
struct SmallRandom(u64);

impl SmallRandom {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Uniform over 0, 1, … 2·mean, so that the mean is `mean` if that is a whole number.
    fn count(&mut self, mean: f64) -> u64 {
        self.below(2 * mean.round() as u64 + 1)
    }
}

/// `2026-05-11T22:07:33+00:00`, as nginx's `$time_iso8601` writes it on a machine set to UTC.
fn iso8601(unix_secs: i64) -> String {
    let time = jiff::Timestamp::from_second(unix_secs).expect("a moment of this century");
    time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_span_half_an_hour_at_the_given_rate_and_are_reproducible() {
        let clients = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let text = lines(&clients, 4.0, 1_778_537_253);
        let per_sec = text.lines().count() as f64 / SECS as f64;
        assert!((7.5..8.5).contains(&per_sec), "{per_sec}");
        assert_eq!(text, lines(&clients, 4.0, 1_778_537_253));
        assert!(text.ends_with("}\n") && text.contains("2026-05-11T22:07:32+00:00"));
    }
}
