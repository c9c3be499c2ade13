//! What the answer to a posted password says. Which paths take passwords is told by their names (`shape.rs`).
//!
//! A right password is answered in many ways: a redirect, 201, 204, or 200 with a token, which single-page applications get.
//! A wrong one too: 401, or the form again, as 200 or by a redirect back to it. So some answers prove a failure, some
//! prove nothing, and the rest count only against a client that does little but log in.

/// What one posted password came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// It was refused.
    Failed,
    /// Right or wrong: that shows in what the client does next.
    Unproven,
    /// It was accepted, or nothing was tried: the server is down, or sends everybody to https.
    NotFailed,
}

/// Returns what a password posted to `path`, a login by its name, came to.
pub(super) fn outcome(path: &[u8], status: u16) -> Login {
    if !is_login_path(path) {
        return if matches!(status, 419 | 422) { Login::Failed } else { Login::NotFailed };
    }
    match status {
        // WordPress sends a right password on, and shows the form again to a wrong one.
        200 if path.ends_with(b"/wp-login.php") => Login::Failed,
        302 | 303 | 307 if path.ends_with(b"/wp-login.php") => Login::NotFailed,
        200 | 302 | 303 | 307 => Login::Unproven,
        // An idle connection, a client that left, a client that was banned already.
        408 | 444 | 499 => Login::NotFailed,
        // 429 too: the login limits whoever fails.
        400..=499 => Login::Failed,
        _ => Login::NotFailed,
    }
}

/// Whether the path's name is a login's: not that of a session only.
fn is_login_path(path: &[u8]) -> bool {
    let name = memchr::memrchr(b'/', path).map_or(path, |at| &path[at + 1..]);
    !is_session_name(name.split(|byte| *byte == b'.').next().unwrap_or(name))
}

/// Names of what a login makes. Programs refresh these by themselves, and are refused (400, 401, 403) when it is over; only an
/// answer that the data was not accepted (422, 419) speaks of a password.
pub(super) fn is_session_name(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"session") || name.eq_ignore_ascii_case(b"sessions")
}

/// Returns whether a segment (lower case, without its extension) names a page that takes passwords. Not `token`, `session`
/// or `auth`: programs refresh those by themselves.
pub(super) fn is_login_name(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 5] = [b"login", b"logon", b"signin", b"sign_in", b"sign-in"];
    let has_word = |word: &&[u8]| name.starts_with(word) || name.ends_with(word);
    (WORDS.iter().any(has_word) && !is_about_logins(name))
        || matches!(name, b"authenticate" | b"j_security_check" | b"j_spring_security_check")
}

/// Names that hold the word and take no password: `login_status`, `loginprofile`.
fn is_about_logins(name: &[u8]) -> bool {
    [&b"status"[..], b"profile", b"info", b"out", b"state", b"config", b"options", b"methods", b"providers"]
        .iter()
        .any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says() {
        let check = |path: &str, statuses: &[u16], expected: Login| {
            for status in statuses {
                assert_eq!(outcome(path.as_bytes(), *status), expected, "{path} {status}");
            }
        };
        check("/wp-login.php", &[200, 403, 429], Login::Failed);
        check("/wp-login.php", &[301, 302, 308, 502, 503, 499], Login::NotFailed);
        check("/login", &[400, 401, 403, 404, 419, 422, 429], Login::Failed);
        check("/login", &[200, 302, 303], Login::Unproven);
        check("/login", &[201, 204, 301, 308, 408, 500], Login::NotFailed);
    }

    #[test]
    fn names_of_logins() {
        for name in
            ["login", "wp-login", "userlogin", "login_check", "signin", "do-sign-in", "j_security_check"]
        {
            assert!(is_login_name(name.as_bytes()), "{name}");
        }
        for name in
            ["", "poll", "token", "session", "auth", "loginprofile", "login-status", "logging", "blog"]
        {
            assert!(!is_login_name(name.as_bytes()), "{name}");
        }
    }
}
