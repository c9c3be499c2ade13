//! systemd-logind's sessions, as it keeps them in `/run/systemd/sessions` for `sd_session_get_remote_host(3)`.
//!
//! The folder and its files belong to root. A session is there because a service called PAM's `open_session` after somebody
//! had logged in; only root can register one. The same files are read by libsystemd, so that they stay readable across
//! versions.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Answer, Login, Places, address, is_owned};
use crate::text::ssh as text;

/// PAM services whose remote sessions are shells: sshd and dropbear; `login -h` and `remote` as Tailscale SSH starts them. Not
/// FTP or mail, whose customers do not administer the machine.
const SERVICES: [&str; 5] = ["sshd", "ssh", "dropbear", "login", "remote"];

/// More than any session file has.
const MAX_BYTES: u64 = 64 * 1024;

pub(super) fn ask(places: &Places) -> Answer {
    let folder = &places.sessions;
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Answer::Absent(text::no_place(folder));
        }
        Err(error) => return Answer::Absent(text::unreadable(folder, &error)),
    };
    if !is_owned(folder, places.owner, false) {
        return Answer::Absent(text::not_of_root(folder));
    }
    let (mut logins, mut problems) = (Vec::new(), Vec::new());
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_session = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // Beside a session there are its pipe (`3.ref`) and files that are being written (`.#3…`).
        if !is_session || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        if !is_owned(&path, places.owner, false) {
            problems.push(text::not_of_root(&path));
            continue;
        }
        match read(&path) {
            Ok(content) => match login(&content) {
                Ok(found) => logins.extend(found),
                Err(host) => problems.push(text::named_host(&name, &host)),
            },
            // It ended while the folder was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            Err(error) => problems.push(text::unreadable(&path, &error)),
        }
    }
    logins.sort();
    logins.dedup();
    Answer::Asked { logins, problems }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The login that a session's file describes, if it is one from elsewhere that is not ending. The error is the far end's name
/// where there should be an address.
fn login(content: &str) -> Result<Option<Login>, String> {
    let mut fields = BTreeMap::new();
    for line in content.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        // logind writes every field once: a second one would be text of somebody else's.
        if fields.insert(key, value).is_some() {
            return Ok(None);
        }
    }
    let field = |key: &str| fields.get(key).copied().unwrap_or_default();
    let is_shell = field("CLASS").starts_with("user") && SERVICES.contains(&field("SERVICE"));
    let host = field("REMOTE_HOST");
    if field("REMOTE") != "1" || !is_shell || field("STATE") == "closing" || host.is_empty() {
        return Ok(None);
    }
    let user = if field("USER").is_empty() { field("UID") } else { field("USER") };
    match address(host) {
        Some(addr) => Ok(Some(Login { addr, user: user.to_owned() })),
        None => Err(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as logind 252 writes it.
    const SESSION: &str = "# This is private data. Do not parse.\nUID=1000\nUSER=anna\nACTIVE=1\nIS_DISPLAY=0\nSTATE=active\n\
        REMOTE=1\nTYPE=tty\nORIGINAL_TYPE=tty\nCLASS=user\nSCOPE=session-3.scope\nFIFO=/run/systemd/sessions/3.ref\n\
        TTY=pts/0\nREMOTE_HOST=203.0.113.5\nSERVICE=sshd\nLEADER=1234\nAUDIT=3\nREALTIME=1767000000000000\n";

    #[test]
    fn which_sessions_are_logins_from_elsewhere() {
        let check = |from: &str, to: &str, expected: Result<Option<&str>, &str>| {
            let text = SESSION.replace(from, to);
            let found = login(&text).map(|login| login.map(|login| login.addr.to_string()));
            assert_eq!(
                found,
                expected.map(|a| a.map(str::to_owned)).map_err(str::to_owned),
                "{from} -> {to}"
            );
        };
        check("", "", Ok(Some("203.0.113.5")));
        check("203.0.113.5", "2001:db8::5", Ok(Some("2001:db8::5")));
        check("203.0.113.5", "\"2001:db8::5\"", Ok(Some("2001:db8::5")));
        check("203.0.113.5", "::ffff:203.0.113.5", Ok(Some("203.0.113.5")));
        check("203.0.113.5", "fe80::1%eth0", Ok(Some("fe80::1")));
        check("SERVICE=sshd", "SERVICE=remote", Ok(Some("203.0.113.5")));
        check("CLASS=user", "CLASS=user-early", Ok(Some("203.0.113.5")));
        check("STATE=active", "STATE=online", Ok(Some("203.0.113.5")));
        check("STATE=active", "STATE=closing", Ok(None));
        check("REMOTE=1", "REMOTE=0", Ok(None));
        check("SERVICE=sshd", "SERVICE=vsftpd", Ok(None));
        check("CLASS=user", "CLASS=greeter", Ok(None));
        check("REMOTE_HOST=203.0.113.5\n", "", Ok(None));
        check("TTY=pts/0", "TTY=pts/0\nREMOTE_HOST=192.0.2.1", Ok(None));
        check("203.0.113.5", "dial-5.example.net", Err("dial-5.example.net"));
    }

    #[test]
    fn nothing_is_believed_that_others_than_root_can_write() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let sessions = folder.path().join("sessions");
        std::fs::create_dir(&sessions).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let places = |owner| Places { sessions: sessions.clone(), owner, ..Places::system() };
        let count = |answer| match answer {
            Answer::Asked { logins, problems } => (logins.len(), problems.len()),
            Answer::Absent(why) => panic!("{why}"),
        };
        let file = sessions.join("3");
        std::fs::write(&file, SESSION).unwrap();
        std::fs::write(sessions.join(".#4abc"), SESSION).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(count(ask(&places(own))), (1, 0));
        assert!(matches!(ask(&places(own + 1)), Answer::Absent(_)), "the folder is another's");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(count(ask(&places(own))), (0, 1), "everybody could have written it");
        std::fs::remove_file(&file).unwrap();
        std::fs::write(folder.path().join("elsewhere"), SESSION).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &file).unwrap();
        assert_eq!(count(ask(&places(own))), (0, 0), "a link is not followed");
    }
}
