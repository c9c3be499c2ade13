//! The past of the lab's server: half an hour of ordinary log lines, so that the agent has something to learn from before
//! the story begins. Made, not recorded; the same for the same start.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::traffic::VISIT;

/// How far back it goes: as long as the baseline remembers.
pub const SECS: i64 = 30 * 60;

/// Log lines of `clients`, each with `per_sec` requests a second on average, that end one second before `end_secs` (Unix
/// time), in order of time.
pub fn lines(clients: &[IpAddr], per_sec: f64, end_secs: i64) -> String {
    let mut random = SmallRandom(0x5EED);
    let mut text = String::new();
    for second in end_secs - SECS..end_secs {
        let time = rfc3339(second);
        for client in clients {
            for _ in 0..random.count(per_sec) {
                let path = VISIT[random.below(VISIT.len() as u64) as usize];
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

/// A splitmix64 generator: plenty for jitter, and the same everywhere.
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

    /// 0, 1, … 2·mean, uniformly: its mean is `mean` where that is a whole number.
    fn count(&mut self, mean: f64) -> u64 {
        self.below(2 * mean.round() as u64 + 1)
    }
}

/// `2026-05-11T22:07:33+00:00`, as nginx's `$time_iso8601` writes it on a machine set to UTC.
fn rfc3339(unix_secs: i64) -> String {
    let (days, secs) = (unix_secs.div_euclid(86_400), unix_secs.rem_euclid(86_400));
    // Civil date from days since 1970-01-01: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00+00:00");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56+00:00");
        assert_eq!(rfc3339(1_778_537_253), "2026-05-11T22:07:33+00:00");
    }

    #[test]
    fn it_is_half_an_hour_at_the_pace_asked_for_and_the_same_each_time() {
        let clients = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let text = lines(&clients, 4.0, 1_778_537_253);
        let per_sec = text.lines().count() as f64 / SECS as f64;
        assert!((7.5..8.5).contains(&per_sec), "{per_sec}");
        assert_eq!(text, lines(&clients, 4.0, 1_778_537_253));
        assert!(text.ends_with("}\n") && text.contains("2026-05-11T22:07:32+00:00"));
    }
}
