//! Attacks by local users, and by whoever supplies files.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::target::{Target, VICTIM, flood};
use super::{Attack, PATIENCE};
use crate::{command, wait};

/// A user whom nobody believes.
const NOBODY: &str = "65534";

pub(super) const FORGER: Attack = Attack {
    name: "syslog-forger",
    does: "a local user sends 200 lines about 8.8.8.8 to the syslog socket, with its mode opened on purpose",
    failure: "8.8.8.8 is banned, or nothing is said of it",
    run: forger,
};

fn forger() -> Result<String> {
    // Not in the agent's own folder, which is closed to other users; and where the unit lets the agent write.
    let folder = tempfile::tempdir_in("/run")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let (socket, messages) = (folder.path().join("nginx.sock"), folder.path().join("messages"));
    let source = format!("[[source]]\nsyslog = {socket:?}\nmode = \"0666\"\n");
    let target = Target::start_with(&source, super::clients::NO_LIMITS)?;
    wait::until("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let send = |client: &str, user: &[&str]| -> Result<()> {
        std::fs::write(&messages, flood(client)?)?;
        let (socket, file) = (socket.to_string_lossy(), messages.to_string_lossy());
        let logger = [
            "logger",
            "--rfc3164",
            "--socket-errors=on",
            "--tag",
            "nginx",
            "--socket",
            &socket,
            "--file",
            &file,
        ];
        command::run(&[user, &logger].concat()).map(drop)
    };
    send(&VICTIM.to_string(), &["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])?;
    let part = format!("source:{}", socket.display());
    let said = wait::until("a word of it", PATIENCE, || {
        let status = target.status()?;
        let parts = status["parts"].as_array().context("could not find the parts in the status")?;
        let text =
            parts.iter().find(|found| found["part"] == part.as_str()).map(|found| found["text"].to_string());
        Ok(text.filter(|text| text.contains("reads nothing")))
    })?;
    // The same lines from root, of somebody else: the socket is read.
    let believed = target.fresh_client().to_string();
    send(&believed, &[])?;
    wait::until("the ban that root's lines lead to", PATIENCE, || {
        Ok(target.has_banned(&believed)?.then_some(()))
    })?;
    target.victim_is_free()?;
    Ok(format!("refused and said: {said}"))
}

pub(super) const WIDE_IMPORT: Attack = Attack {
    name: "wide-import",
    does: "a list for `import` holds 32.0.0.0/3, 2000::/3 and 0.0.0.0/0",
    failure: "one of them is banned without `--force`",
    run: wide_import,
};

fn wide_import() -> Result<String> {
    let target = Target::start("")?;
    let list = target.home.folder().join("list");
    for network in ["32.0.0.0/3", "2000::/3", "0.0.0.0/0", "::/0", "8.0.0.0/7"] {
        std::fs::write(&list, format!("{network}\n"))?;
        let output = target.home.command_output(&target.namespace, &["import", &list.to_string_lossy()])?;
        ensure!(!output.status.success(), "`import` took {network}");
    }
    let bans = target.home.json(&target.namespace, &["bans"])?;
    ensure!(bans["total"] == 0, "something is banned: {bans}");
    Ok("all refused".to_owned())
}

pub(super) const LONG_IMPORT: Attack = Attack {
    name: "long-import",
    does: "a list with a comment of 1 MB between 2,000 good entries, and with an entry that is none",
    failure: "good entries behind it are lost without a word, or the agent ends",
    run: long_import,
};

fn long_import() -> Result<String> {
    let target = Target::start("")?;
    let list = target.home.folder().join("list");
    let entries = |from: u32, to: u32| -> String {
        (from..to).map(|n| format!("{} # seen\n", std::net::Ipv4Addr::from_bits(0xCB00_0000 + n))).collect()
    };
    let long = format!("203.1.0.1 # {}\n", "x".repeat(1_000_000));
    std::fs::write(&list, format!("{}{long}not an address\n{}", entries(0, 1_000), entries(1_000, 2_000)))?;
    let file = list.to_string_lossy().into_owned();
    let whole = target.home.command_output(&target.namespace, &["import", &file])?;
    let said = String::from_utf8_lossy(&whole.stderr).into_owned() + &String::from_utf8_lossy(&whole.stdout);
    ensure!(
        !whole.status.success() && said.contains("1002"),
        "the wrong line 1002 is not named: {said:.300}"
    );
    ensure!(
        target.home.json(&target.namespace, &["bans"])?["total"] == 0,
        "half of a wrong list was imported"
    );
    target.home.command_output(&target.namespace, &["import", "--skip-wrong", &file])?;
    let bans = target.home.json(&target.namespace, &["bans"])?;
    ensure!(bans["total"] == 2_001, "{} of 2,001 good entries are banned", bans["total"]);
    target.is_well()?;
    Ok("all or nothing; with --skip-wrong all good entries".to_owned())
}

pub(super) const FAULT_HOOK: Attack = Attack {
    name: "fault-hook",
    does: "somebody sets the environment variable by which tests make parts of the agent panic or hang",
    failure: "the built agent knows it",
    run: fault_hook,
};

fn fault_hook() -> Result<String> {
    let agent = crate::agent::binary()?;
    let bytes = std::fs::read(&agent).with_context(|| format!("could not read {}", agent.display()))?;
    // In two halves, so that this program does not hold it either.
    let name = ["SHIELD_TEST", "_FAULTS"].concat();
    ensure!(
        memchr::memmem::find(&bytes, name.as_bytes()).is_none(),
        "the agent was built with the tests' faults"
    );
    Ok(format!("not in the {} MiB of the agent", Duration::from_secs(bytes.len() as u64 >> 20).as_secs()))
}
