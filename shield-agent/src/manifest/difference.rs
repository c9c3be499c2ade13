//! The lines in which two texts differ.

use std::fmt::Write as _;

/// Above so many pairs of lines the common ones in the middle are not looked for: somebody put another file there.
const MOST_PAIRS: usize = 4_000_000;

/// Every line of `from` that is not in `to` with `-`, every one of `to` that is not in `from` with `+`, in order.
pub(super) fn of(from: &str, to: &str) -> String {
    let (from, to): (Vec<&str>, Vec<&str>) = (from.lines().collect(), to.lines().collect());
    let start = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[start..], &to[start..]);
    let end = from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[..from.len() - end], &to[..to.len() - end]);
    let mut out = String::new();
    let mut write = |sign: char, line: &str| {
        let _ = writeln!(out, "{sign}{line}");
    };
    let common = if from.len() * to.len() > MOST_PAIRS { Vec::new() } else { common(from, to) };
    let (mut at, mut other) = (0, 0);
    for (a, b) in common.into_iter().chain([(from.len(), to.len())]) {
        from[at..a].iter().for_each(|line| write('-', line));
        to[other..b].iter().for_each(|line| write('+', line));
        (at, other) = (a + 1, b + 1);
    }
    out
}

/// The pairs of the longest common subsequence.
fn common(from: &[&str], to: &[&str]) -> Vec<(usize, usize)> {
    let width = to.len() + 1;
    let mut longest = vec![0_u32; (from.len() + 1) * width];
    for (a, line) in from.iter().enumerate().rev() {
        for (b, other) in to.iter().enumerate().rev() {
            let next = (a + 1) * width + b;
            longest[a * width + b] = match line == other {
                true => longest[next + 1] + 1,
                false => longest[next].max(longest[a * width + b + 1]),
            };
        }
    }
    let (mut pairs, mut a, mut b) = (Vec::new(), 0, 0);
    while a < from.len() && b < to.len() {
        if from[a] == to[b] {
            pairs.push((a, b));
            (a, b) = (a + 1, b + 1);
        } else if longest[(a + 1) * width + b] >= longest[a * width + b + 1] {
            a += 1;
        } else {
            b += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        let check = |from: &str, to: &str, expected: &str| {
            assert_eq!(
                of(&from.replace(' ', "\n"), &to.replace(' ', "\n")).replace('\n', " ").trim(),
                expected
            );
        };
        check("a b c", "a b c", "");
        check("a b c", "a x c", "-b +x");
        check("a b c d e", "a x c d f e g", "-b +x +f +g");
        check("", "a", "+a");
        check("a b", "", "-a -b");
    }
}
