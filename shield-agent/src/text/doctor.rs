//! What `shield-agent doctor` says: for each cause why it matters, what was seen, and the steps that mend it.

use std::path::Path;

use serde::Serialize;

use super::{bytes, counted, duration, utc};

/// One step of a remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// A command, to be run as root.
    Run(String),
    /// Anything else.
    Do(String),
}

/// One diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// The trouble and its effect.
    pub what: String,
    pub seen: String,
    pub mend: Vec<Step>,
}

fn said(what: impl Into<String>, seen: impl Into<String>, mend: Vec<Step>) -> Said {
    Said { what: what.into(), seen: seen.into(), mend }
}

fn run(command: impl Into<String>) -> Step {
    Step::Run(command.into())
}

fn act(what: impl Into<String>) -> Step {
    Step::Do(what.into())
}

fn reload() -> Step {
    run("shield-agent reload")
}

fn restart() -> Step {
    run("systemctl restart shield")
}

/// The step that changes a key of the configuration.
fn edit(config: &Path, what: &str) -> Step {
    act(format!("in {}: {what}", config.display()))
}

pub(crate) fn not_running(why: &str, unit: Option<(&str, &str)>) -> Said {
    let (seen, mend) = match unit {
        Some((active @ "failed", result)) => (
            format!("the service shield is {active} ({result})"),
            vec![run("journalctl -u shield -n 20 --no-pager"), run("systemctl restart shield")],
        ),
        Some((active, _)) => {
            (format!("{why}; the service shield is {active}"), vec![run("systemctl enable --now shield")])
        }
        None => (why.to_owned(), vec![run("shield-agent run")]),
    };
    said("No agent runs, so nobody is banned.", seen, mend)
}

pub(crate) fn hangs(seen: &str) -> Said {
    said(
        "An agent runs and does not answer: it may be stopped or stuck, or it may have another control socket.",
        seen,
        vec![restart(), act("if it is another agent, name its socket: shield-agent --socket PATH doctor")],
    )
}

pub(crate) fn not_allowed(seen: &str) -> Said {
    said(
        "The agent could not be asked, so most causes were not looked at.",
        seen,
        vec![run("sudo shield-agent doctor")],
    )
}

pub(crate) fn config_refused(config: &Path, why: &str, is_running: bool) -> Said {
    let what = if is_running {
        "The configuration is wrong: the agent goes on with the one it has, and could not start again with this one."
    } else {
        "The configuration is wrong, so the agent cannot start."
    };
    let check = run(format!("shield-agent check --config {}", config.display()));
    let last = if is_running { reload() } else { run("systemctl start shield") };
    said(what, why, vec![edit(config, "mend what is named above"), check, last])
}

pub(crate) fn dry_run() -> Said {
    said(
        "The agent is in dry run: it decides who would be banned, and drops nothing.",
        "the agent was started with --dry-run",
        vec![act("end it, or remove --dry-run from its command line (`systemctl cat shield`)"), restart()],
    )
}

pub(crate) fn nothing_enforces(config: &Path) -> Said {
    said(
        "Every way to keep clients out is switched off, so a ban has no effect.",
        "[iptables], [xdp] and [nginx] have mode = \"off\", and there is no [cloudflare]",
        vec![edit(config, "remove `mode = \"off\"` below [iptables] and [xdp]"), restart()],
    )
}

pub(crate) fn banning_stopped(why: &str) -> Said {
    said(
        "Automatic bans are stopped, because too many clients in good standing were about to be banned.",
        why,
        vec![
            run("shield-agent top"),
            act("if the site is broken, mend it: bans resume by themselves"),
            act("if these are attackers, ban them all: shield-agent resume"),
            act("or ban one, or its network, by hand: shield-agent ban CLIENT --for 1h"),
        ],
    )
}

pub(crate) fn banning_paused(until_ms: i64) -> Said {
    said(
        "Automatic bans are paused, because an operator said so.",
        super::posture::paused(until_ms),
        vec![run(super::posture::RESUME)],
    )
}

pub(crate) fn other_agent(holder: &str, ours: &Path) -> Said {
    said(
        "Another agent holds this machine's network: a second one does not start beside it.",
        format!("{holder}; the configured one is {}", ours.display()),
        vec![act(
            "stop the one that is not wanted, or name its configuration: shield-agent doctor --config FILE",
        )],
    )
}

pub(crate) fn log_missing(log: &str, nginx_writes: &[String]) -> Said {
    let known = match nginx_writes {
        [] => String::new(),
        logs => format!("; nginx writes {}", logs.join(", ")),
    };
    said(
        format!("The log {log} does not exist, so no request is seen."),
        format!("nothing matches {log}{known}"),
        vec![
            run("shield-agent init nginx"),
            act("set `path` in [[source]] to the log that nginx writes"),
            reload(),
        ],
    )
}

pub(crate) fn log_unreadable(log: &str, why: &str, is_agents: bool) -> Said {
    let what = if is_agents {
        format!("The agent cannot read the log {log}, so none of its requests is seen.")
    } else {
        format!("The log {log} cannot be read.")
    };
    said(
        what,
        why,
        vec![run(format!("namei -l {log}")), act("give the agent's user the right that is named above")],
    )
}

pub(crate) fn log_moved(log: &Path, written: &Path) -> Said {
    said(
        format!("nginx does not write to {} any more, so no request is seen.", log.display()),
        format!("nginx has {} open instead: the log was rotated and nginx was not told", written.display()),
        vec![run("nginx -s reopen"), act("let logrotate do the same after each rotation (postrotate)")],
    )
}

pub(crate) fn log_not_read(logs: &[String], are_all: bool) -> Said {
    let what = if are_all {
        "Shield reads none of the logs that nginx writes, so no request is seen."
    } else {
        "Shield does not read every log that nginx writes: requests in the others are not seen."
    };
    let sources = logs.iter().map(|log| format!("[[source]] path = \"{log}\"")).collect::<Vec<_>>();
    said(
        what,
        format!("by `nginx -T` nginx writes {}, which no [[source]] names", logs.join(", ")),
        vec![act(format!("add {}", sources.join(" and "))), reload()],
    )
}

pub(crate) fn layout_unread(log: &str, why: &str) -> Said {
    said(
        format!("Lines of {log} cannot be used, so their requests are not judged."),
        why,
        vec![run("shield-agent check"), run("shield-agent init nginx")],
    )
}

pub(crate) fn one_client(log: &str, why: &str) -> Said {
    said(
        format!(
            "Every request in {log} has the same address: that of a proxy, which is never banned or is everybody."
        ),
        why,
        vec![run("shield-agent init nginx"), run("nginx -t && nginx -s reload")],
    )
}

pub(crate) fn proxy_protocol(place: &str, problem: &str) -> Said {
    said(
        "nginx logs the balancer's address for every visitor.",
        format!("{place}: {problem}"),
        vec![act("add the lines that are named above"), run("nginx -t && nginx -s reload")],
    )
}

pub(crate) fn clients_are_spared(log: &str, spared: u64, of: u64) -> Said {
    said(
        format!(
            "Nearly all clients in {log} are ones that rules never ban: the addresses of a CDN, of a proxy, or of the allowlist."
        ),
        format!("{spared} of {} are in such networks", counted(of, "client")),
        vec![
            act("behind a CDN, let nginx log its visitors' addresses (set_real_ip_from, real_ip_header)"),
            run("shield-agent allow --list"),
        ],
    )
}

pub(crate) fn proxied_kernel_only(place: &str, problem: &str, config: &Path) -> Said {
    said(
        "Visitors come through a proxy, and only the kernel drops: a ban does not stop them.",
        format!("{place}: {problem}"),
        vec![run("shield-agent init nginx-deny"), edit(config, "[nginx] mode = \"on\""), restart()],
    )
}

pub(crate) fn nginx_lets_in(places: &[String]) -> Said {
    said(
        "Some of nginx's server sections do not refuse banned clients.",
        format!("no `include snippets/shield-deny.conf;` in {}", places.join(", ")),
        vec![run("shield-agent init nginx-deny"), run("nginx -t && nginx -s reload")],
    )
}

pub(crate) fn nginx_workers_stay() -> Said {
    said(
        "Old workers of nginx can stay for ever, and then bans wait.",
        "[nginx] backend = \"map\" reloads nginx, but its configuration has no worker_shutdown_timeout"
            .to_owned(),
        vec![
            act("add `worker_shutdown_timeout 30s;` at the top of nginx.conf, outside of http"),
            run("nginx -t && nginx -s reload"),
        ],
    )
}

pub(crate) fn log_silent(log: &str, for_secs: u64) -> Said {
    said(
        format!("Nothing was written to {log} for {}, though nginx runs.", duration(for_secs)),
        format!("its last line is {} old", duration(for_secs)),
        vec![
            run("curl -s -o /dev/null http://127.0.0.1/"),
            act("if that adds no line, nginx writes elsewhere: shield-agent init nginx"),
            run("nginx -s reopen"),
        ],
    )
}

pub(crate) fn log_silent_by_agent(log: &str, why: &str) -> Said {
    said(
        format!("The log {log} has become silent."),
        why,
        vec![run("curl -s -o /dev/null http://127.0.0.1/"), run("nginx -s reopen")],
    )
}

pub(crate) fn twice(place: &str, logs: &[String; 2]) -> Said {
    let [one, two] = logs;
    let seen = if one == two { format!("twice in {one}") } else { format!("in {one} and in {two}") };
    said(
        "Every request is counted twice, so every limit is half of what is configured and good clients can be banned.",
        format!("{place}: each request is written {seen}, and Shield reads both"),
        vec![act("remove one of the two access_log lines"), run("nginx -t && nginx -s reload")],
    )
}

pub(crate) fn late(log: &str, why: &str) -> Said {
    said(
        format!("Lines of {log} are read late, and so bans come late."),
        why,
        vec![act(
            "remove buffer=, gzip and flush= from nginx's access_log; if the machine is overloaded, see `shield-agent status`",
        )],
    )
}

pub(crate) fn forgeable(place: &str, problem: &str) -> Said {
    said(
        "A client can get others banned, or make itself unseen.",
        format!("{place}: {problem}"),
        vec![act("change the line that is named above"), run("nginx -t && nginx -s reload")],
    )
}

pub(crate) fn hidden(place: &str, problem: &str) -> Said {
    said(
        "The service does not see a log that nginx writes.",
        format!("{place}: {problem}"),
        vec![run("systemctl edit shield"), restart()],
    )
}

pub(crate) fn programs_missing(programs: &[String], is_xdp_active: bool) -> Said {
    let what = if is_xdp_active {
        "iptables is not there, so bans are in force in XDP alone."
    } else {
        "iptables is not there, so bans are not in force."
    };
    said(
        what,
        format!("not installed: {}", programs.join(", ")),
        vec![run("apt install iptables ipset"), restart()],
    )
}

pub(crate) fn locked(holder: &str) -> Said {
    said(
        "Another program keeps iptables locked, so no rule can be changed.",
        format!("/run/xtables.lock was held all the while by {holder}"),
        vec![act(format!("end {holder}, or find out what it waits for"))],
    )
}

pub(crate) fn no_jump(program: &str, has_chain: bool) -> Said {
    let seen = if has_chain {
        format!("`{program} -S INPUT` has no jump to SHIELD")
    } else {
        format!("`{program} -S` has no chain SHIELD")
    };
    said(
        "Something has removed Shield's rules. The agent puts them back within 30 s; banned clients get in until then.",
        seen,
        vec![
            run("shield-agent events --kind repaired"),
            act(
                "if it comes again, let that program reload its rules before the agent starts, or keep SHIELD",
            ),
        ],
    )
}

pub(crate) fn not_first(program: &str, before: usize) -> Said {
    said(
        "Other rules come before Shield's: what they accept is not dropped.",
        format!("`{program} -S INPUT` has {} before the jump to SHIELD", counted(before as u64, "rule")),
        vec![
            act("within 30 s the agent moves its jump to the front; if it stays so, restart the agent"),
            restart(),
        ],
    )
}

pub(crate) fn containers(config: &Path) -> Said {
    said(
        "Packets to published container ports pass by Shield's rules.",
        "the nat table redirects ports to other addresses, no chain but INPUT jumps to SHIELD, and XDP is not active",
        vec![
            edit(config, "remove `hooks` below [iptables], or name the chain: hooks = [\"DOCKER-USER\"]"),
            restart(),
        ],
    )
}

pub(crate) fn no_xdp(why: &str) -> Said {
    said(
        "XDP does not drop anywhere. With iptables active bans are in force all the same, at a higher cost for each packet.",
        why,
        vec![
            run("shield-agent status"),
            act("what is missing is named above; without XDP write [xdp] mode = \"off\""),
        ],
    )
}

pub(crate) fn iptables_not_whole(why: &str) -> Said {
    said(
        "iptables is not in force as it should be.",
        why,
        vec![
            run("journalctl -u shield -n 20 --no-pager"),
            act("what is missing is named above; the agent tries again by itself"),
        ],
    )
}

pub(crate) fn xdp_elsewhere(named: &[String], routes: &[String], config: &Path) -> Said {
    said(
        "XDP guards interfaces that the default route does not use: visitors most likely arrive at another one.",
        format!(
            "[xdp] interfaces names {}, and the default route uses {}",
            named.join(", "),
            routes.join(", ")
        ),
        vec![edit(config, "remove `interfaces` below [xdp], or add the default route's"), restart()],
    )
}

pub(crate) fn xdp_generic(why: &str) -> Said {
    said(
        "XDP works in the network stack, not in the driver: each dropped packet costs more.",
        why,
        vec![act("nothing has to be done; the reason is named above")],
    )
}

pub(crate) fn allows_much(networks: &[String]) -> Said {
    said(
        "The allowlist covers a large part of the internet: nobody there is ever banned.",
        format!("never banned: {}", networks.join(", ")),
        vec![
            run("shield-agent allow --list"),
            act(
                "take out what is too wide: shield-agent allow NETWORK --remove, or [allow] networks in the configuration",
            ),
        ],
    )
}

pub(crate) fn disk_full(dir: &Path, free: u64, has_no_inodes: bool) -> Said {
    let seen = if has_no_inodes {
        format!("no inode is free under {}", dir.display())
    } else {
        format!("{} are free under {}", bytes(free), dir.display())
    };
    said(
        "The disk is full: bans are in force, and are lost with the next restart or reboot.",
        seen,
        vec![run(format!("df -h {0}; df -i {0}", dir.display()))],
    )
}

pub(crate) fn disk_read_only(dir: &Path) -> Said {
    said(
        "The state directory cannot be written: bans are lost with the next restart or reboot.",
        format!("{} is on a file system that is mounted read-only", dir.display()),
        vec![
            run("dmesg | tail"),
            act("a file system becomes read-only after errors of its disk: look for them there"),
        ],
    )
}

pub(crate) fn store(why: &str, dir: &Path) -> Said {
    said(
        "The database cannot be used as it should be.",
        why,
        vec![run(format!("ls -la {0}; df -h {0}", dir.display()))],
    )
}

pub(crate) fn alerts(section: &str, why: &str) -> Said {
    said(
        format!("Nobody is told what happens: the messages of [{section}] are not sent."),
        why,
        vec![act(format!("put the URL where [{section}] names it")), reload()],
    )
}

pub(crate) fn old_kernel((major, minor): (u32, u32)) -> Said {
    said(
        "The kernel is too old for XDP as Shield uses it: bans are in force in iptables alone.",
        format!("Linux {major}.{minor}; XDP needs 5.10 or newer"),
        vec![act("take a newer kernel, or write [xdp] mode = \"off\"")],
    )
}

pub(crate) fn clock_ahead(log: &str, line_ms: i64, now_ms: i64) -> Said {
    said(
        format!(
            "The times in {log} are in the future: the clock of this machine, or of what writes the log, is wrong."
        ),
        format!("its newest line is of {}, and it is {}", utc(line_ms), utc(now_ms)),
        vec![run("timedatectl")],
    )
}

pub(crate) fn clock_behind(log: &str, line_ms: i64, written_ms: i64) -> Said {
    said(
        format!(
            "The times in {log} are far behind its writing: lines are taken for old ones, and no rule judges them."
        ),
        format!("its newest line is of {}, and it was written at {}", utc(line_ms), utc(written_ms)),
        vec![run("timedatectl"), act("log $time_iso8601, which has the time zone with it")],
    )
}

pub(crate) fn not_at_boot(file: &str) -> Said {
    said(
        "The agent does not start at the next boot.",
        format!("the service shield is {file}"),
        vec![run("systemctl enable shield")],
    )
}

pub(crate) fn old_version(runs: &str, installed: &str) -> Said {
    said(
        "An older agent runs than the one that is installed.",
        format!("version {runs} runs, version {installed} is installed"),
        vec![restart()],
    )
}

pub(crate) fn part(name: &str, why: &str) -> Said {
    said(format!("A part does not work as it should: {name}."), why, vec![run("shield-agent status")])
}

pub(crate) fn warm_up(text: &str) -> Said {
    said(
        "The agent still learns, so rules that compare with what is usual do not ban yet.",
        text,
        vec![act(
            "wait, or teach it from past logs before a start: shield-agent learn /var/log/nginx/access.log*",
        )],
    )
}

pub(crate) fn observing(rules: &[&str], are_all: bool, config: &Path) -> Said {
    let what = if are_all {
        "No rule bans: all of them only observe."
    } else {
        "Some rules only observe: they report, and do not ban."
    };
    said(
        what,
        format!("[detect] observe names {}", rules.join(", ")),
        vec![edit(config, "take out of `observe` what should ban"), reload()],
    )
}

/// The heading.
pub(crate) fn headline(problems: usize, notes: usize) -> String {
    let notes = match notes {
        0 => String::new(),
        notes => format!(", {}", counted(notes as u64, "note")),
    };
    match problems {
        0 => format!("Nothing was found that keeps Shield from protecting{notes}."),
        problems => format!("{}, the worst first{notes}.", counted(problems as u64, "problem")),
    }
}

/// What was not looked at.
pub(crate) fn unseen(what: &str) -> String {
    format!("Not looked at: {what}")
}

pub(crate) fn firewall_unread(program: &str, why: &str) -> String {
    format!("{program}'s rules: {why}")
}

pub(crate) fn nginx_unread(why: &str) -> String {
    format!("nginx's configuration: {why}")
}

pub(crate) fn config_unread() -> String {
    "logs, firewall and disk: without a valid configuration it is not known which".to_owned()
}

pub(crate) fn no_answer(socket: &Path, within_secs: u64) -> String {
    format!("{} accepts connections and gave no answer within {within_secs} s", socket.display())
}

pub(crate) fn holds(socket: &Path, cause: &str, holder: &str) -> String {
    format!("nobody answers on {} ({cause}), and {holder} runs", socket.display())
}

pub(crate) fn nobody(socket: &Path, cause: &str) -> String {
    format!("nobody answers on {} ({cause})", socket.display())
}

pub(crate) fn process(pid: i32, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{name} (process {pid})"),
        None => format!("process {pid}"),
    }
}
