//! A replay's outcome as one page to be mailed around: what Shield would have spared the server, by rule, path, hour and network,
//! and the story of every client; or two configurations beside each other. Loads nothing and runs nothing; everything that comes
//! from the log is escaped.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use ipnet::IpNet;

use super::labels::Score;
use super::render::difference;
use super::{Outcome, Point, ReplayedBan, rfc3339};
use crate::text::{self, counted, duration, printable};
use shield_engine::client::Client;

/// The plot's own units; it is stretched to the page's width, or several times that.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 240.0;
/// The strip below the bars for the marks of bans.
const STRIP: f64 = 14.0;

/// How much of a plot is seen at once: all, a fourth, a sixteenth. Each has so many times on its axis within the page's width.
const ZOOMS: [u32; 3] = [1, 4, 16];
const TIMES_SEEN: u32 = 4;

/// Stories told at most; the clients beyond them are counted.
const MAX_STORIES: usize = 2_000;

/// Bans of one story at most.
const MAX_BANS: usize = 50;

/// Lines of each sum.
const MAX_LINES: usize = 12;

const STYLE: &str = "\
:root{--ink:#1d2127;--dim:#596373;--line:#d8dde4;--paper:#fff;--traffic:#4a7fb5;--error:#a86a00;--ban:#c2362b;\
--base:#2f8f5b;--fill:#e3ebf4}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#98a2b3;--line:#333b47;--paper:#14181e;--ban:#e8695f;\
--error:#d9a03c;--fill:#24364a}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:1240px;\
padding:0 1rem}\
h1{font-size:1.55rem;line-height:1.3;margin:0 0 .4rem;max-width:34em}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
h3{font-size:.95rem;margin:0 0 .4rem}p{margin:.3rem 0 1rem;color:var(--dim)}svg{width:100%;height:auto}\
table{border-collapse:collapse;width:100%;font-size:13px}th,td{text-align:left;padding:.35rem .6rem;\
border-bottom:1px solid var(--line);vertical-align:top}td{overflow-wrap:anywhere}\
.number{text-align:right;white-space:nowrap}\
.dim{color:var(--dim)}.facts{display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0}.facts b{display:block;\
font-size:1.3rem}\
.sums{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(270px,100%),1fr));gap:1.5rem 2rem;margin:1.5rem 0}\
.sums ol{list-style:none;margin:0;padding:0;font-size:13px}.sums li{position:relative;display:flex;gap:1rem;\
justify-content:space-between;padding:.15rem .5rem;margin-bottom:2px}\
.sums li i{position:absolute;inset:0 auto 0 0;background:var(--fill);z-index:-1}.sums li span:first-of-type{overflow-wrap:anywhere}\
details{border-top:1px solid var(--line);padding:.4rem 0}summary{cursor:pointer;overflow-wrap:anywhere}\
details table{margin:.4rem 0 .8rem}code{font-size:.95em}\
.plot{overflow-x:auto;margin:.4rem 0}.plot svg{display:block;width:100%;height:240px}.plot path{vector-effect:non-scaling-stroke}\
.axis{position:relative;height:1.6em;border-top:1px solid var(--line);font-size:12px;color:var(--dim)}\
.axis span{position:absolute;border-left:1px solid var(--line);padding-left:4px;white-space:nowrap}\
.z4,.z16{display:none}#z4:checked~.plot>div{width:400%}#z16:checked~.plot>div{width:1600%}\
#z4:checked~.plot .z4,#z16:checked~.plot .z4,#z16:checked~.plot .z16{display:inline}label{margin-right:1em}";

/// The page of one replay.
pub(crate) fn render(outcome: &Outcome, score: Option<&Score>, title: &str) -> String {
    text::with_commas(|| page(outcome, score, title))
}

/// The page of two configurations on the same log.
pub(crate) fn render_difference(before: &Outcome, after: &Outcome, title: &str) -> String {
    text::with_commas(|| difference_page(before, after, title))
}

fn page(outcome: &Outcome, score: Option<&Score>, title: &str) -> String {
    let mut page = begin(&headline(outcome), title);
    if outcome.clients_behind_proxy > 0 {
        let _ = write!(
            page,
            "<p>{} of the banned come by a proxy, whose own address reaches the server: nginx refuses their requests ([nginx] mode = \
             &quot;on&quot;), the kernel cannot drop them.</p>",
            text::count(outcome.clients_behind_proxy)
        );
    }
    facts(outcome, score, &mut page);
    curves(&[("", outcome)], &mut page);
    sums(outcome, &mut page);
    let made: Vec<&ReplayedBan> = outcome.bans.iter().filter(|ban| ban.not_made.is_none()).collect();
    let spared: Vec<&ReplayedBan> = outcome.bans.iter().filter(|ban| ban.not_made.is_some()).collect();
    stories("Who would have been banned, and why", &made, &mut page);
    stories("Whom a rule fired for who would not have been banned", &spared, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn difference_page(before: &Outcome, after: &Outcome, title: &str) -> String {
    let (no_longer, newly) = difference(before, after);
    let headline = format!(
        "The second configuration would have banned {} instead of {}: {} newly, {} no longer.",
        counted(after.clients_banned, "client"),
        text::count(before.clients_banned),
        text::count(newly.len() as u64),
        text::count(no_longer.len() as u64),
    );
    let mut page = begin(&headline, title);
    page.push_str(
        "<table><thead><tr><th></th><th class=\"number\">before</th><th class=\"number\">after</th></tr></thead><tbody>",
    );
    let made = |outcome: &Outcome| outcome.by_rule.values().sum::<u64>();
    let mut lines = vec![
        ("clients banned".to_owned(), before.clients_banned, after.clients_banned),
        ("bans".to_owned(), made(before), made(after)),
        ("requests spared".to_owned(), before.requests_banned, after.requests_banned),
    ];
    let rules: BTreeMap<_, ()> =
        before.by_rule.keys().chain(after.by_rule.keys()).map(|rule| (*rule, ())).collect();
    lines.extend(rules.into_keys().map(|rule| {
        let bans = |outcome: &Outcome| outcome.by_rule.get(&rule).copied().unwrap_or(0);
        (format!("bans for {}", text::rule_title(rule)), bans(before), bans(after))
    }));
    for (name, before, after) in lines {
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            escape(&name),
            text::count(before),
            text::count(after)
        );
    }
    page.push_str("</tbody></table>");
    curves(&[("Before", before), ("After", after)], &mut page);
    for (when, outcome) in
        [("Before", before), ("After", after)].into_iter().filter(|(_, outcome)| has_bans(outcome))
    {
        let _ = write!(page, "<h2>{when}: what was banned</h2>");
        sums(outcome, &mut page);
    }
    stories("Newly banned", &newly, &mut page);
    stories("No longer banned", &no_longer, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn begin(headline: &str, title: &str) -> String {
    // A number and its percent sign stay in one line.
    let (headline, title) = (escape(headline).replace(" %", "&nbsp;%"), escape(title));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\"><title>Shield on {title}</title><style>{STYLE}</style></head><body>\
         <h1>{headline}</h1><p>{title}</p>"
    )
}

/// The sentence that is read when nothing else is.
fn headline(outcome: &Outcome) -> String {
    let Some((first, last)) = outcome.span else { return "The log has no requests.".to_owned() };
    let banned = if outcome.clients_banned == 0 {
        format!("banned none of {}", counted(outcome.clients, "client"))
    } else {
        format!("banned {} of {}", text::count(outcome.clients_banned), counted(outcome.clients, "client"))
    };
    let spared = format!(
        "spared your server {} ({})",
        counted(outcome.requests_banned, "request"),
        text::percent(outcome.requests_banned, outcome.requests)
    );
    format!("On your log of {} Shield would have {banned} and {spared}.", log_length(first, last))
}

fn log_length(first: i64, last: i64) -> String {
    let secs = last.saturating_sub(first).max(0).unsigned_abs() + 1;
    match (secs / 86_400, secs / 3_600) {
        (days @ 2.., _) => counted(days, "day"),
        (_, hours @ 2..) => counted(hours, "hour"),
        _ => counted(secs.div_ceil(60), "minute"),
    }
}

fn facts(outcome: &Outcome, score: Option<&Score>, page: &mut String) {
    let made: u64 = outcome.by_rule.values().sum();
    let mut facts = vec![
        (text::count(outcome.requests), "requests".to_owned()),
        (text::count(outcome.clients), "clients".to_owned()),
        (text::count(made), "bans".to_owned()),
        (
            text::count(outcome.clients_banned),
            format!("clients banned ({})", text::percent(outcome.clients_banned, outcome.clients)),
        ),
        (
            text::count(outcome.requests_banned),
            format!("requests spared ({})", text::percent(outcome.requests_banned, outcome.requests)),
        ),
    ];
    if let Some(score) = score {
        facts.push((
            format!("{:.1} %", 100.0 * score.recall),
            format!("caught ({} of {})", score.caught, score.to_ban),
        ));
        facts.push((
            format!("{:.3} %", 100.0 * score.wrong_bans_share),
            format!("wrongly banned ({} of {})", score.wrong, score.must_stay),
        ));
    }
    page.push_str("<div class=\"facts\">");
    for (value, label) in facts {
        let _ = write!(page, "<div><b>{value}</b><span class=\"dim\">{label}</span></div>");
    }
    page.push_str("</div>");
}

/// The traffic of each outcome over time, on one scale, with buttons that zoom into all of them. Works without scripts.
fn curves(outcomes: &[(&str, &Outcome)], page: &mut String) {
    let Some(top) = outcomes.iter().filter_map(|(_, outcome)| highest(outcome)).reduce(f64::max) else {
        page.push_str("<p>No requests.</p>");
        return;
    };
    page.push_str("<div>");
    for zoom in ZOOMS {
        let (checked, name) =
            if zoom == 1 { (" checked", "all".to_owned()) } else { ("", format!("{zoom} x")) };
        let _ = write!(
            page,
            "<input type=\"radio\" name=\"zoom\" id=\"z{zoom}\"{checked}><label for=\"z{zoom}\">{name}</label>"
        );
    }
    for (title, outcome) in outcomes {
        curve(title, outcome, top, page);
    }
    page.push_str(
        "</div><p><span style=\"color:var(--traffic)\">■</span> requests <span style=\"color:var(--error)\">■</span> of \
         them errors <span style=\"color:var(--ban)\">■</span> spared, from banned clients \
         <span style=\"color:var(--base)\">―</span> what is usual <span style=\"color:var(--ban)\">❙</span> bans. Times are UTC.</p>",
    );
}

/// The most requests per second in a bar; `None` without requests.
fn highest(outcome: &Outcome) -> Option<f64> {
    let secs = outcome.point_secs.max(1) as f64;
    outcome.points.iter().map(|point| point.requests as f64 / secs).reduce(f64::max).map(|top| top.max(0.1))
}

/// Requests per second over time, errors and the spared ones in them, the whole server's baseline, and a mark for each ban.
fn curve(title: &str, outcome: &Outcome, top: f64, page: &mut String) {
    let Some((first, last)) = outcome.span else { return };
    let span = (last - first).max(outcome.point_secs) as f64;
    let secs = outcome.point_secs as f64;
    let rate = |count: u64| count as f64 / secs;
    let base = HEIGHT - STRIP;
    let x = |at: i64| (at - first) as f64 / span * WIDTH;
    let y = |value: f64| base - value / top * base;
    let width = (secs / span * WIDTH).max(0.3);
    let head = if title.is_empty() { String::new() } else { format!("<b>{title}.</b> ") };
    let _ = write!(
        page,
        "<p>{head}Up to {top:.1} requests/s; a bar is {}.</p><div class=\"plot\"><div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title} requests per second, baseline and bans\">",
        duration(outcome.point_secs.unsigned_abs())
    );
    let bars = |page: &mut String, colour: &str, of: &dyn Fn(&Point) -> u64| {
        // The outline keeps a bar visible that is narrower than a pixel.
        let _ = write!(page, "<path fill=\"var(--{colour})\" stroke=\"var(--{colour})\" d=\"");
        for point in outcome.points.iter().filter(|point| of(point) > 0) {
            let (left, up) = (x(point.at_secs.max(first)), y(rate(of(point))));
            let _ = write!(page, "M{left:.2} {base}V{up:.1}h{width:.2}V{base}z");
        }
        page.push_str("\"/>");
    };
    bars(page, "traffic", &|point| point.requests);
    bars(page, "error", &|point| point.errors);
    bars(page, "ban", &|point| point.banned);
    let _ = write!(page, "<path fill=\"none\" stroke=\"var(--base)\" stroke-width=\"1.5\" d=\"");
    for (n, point) in outcome.points.iter().enumerate() {
        let command = if n == 0 { 'M' } else { 'L' };
        let level = point.baseline_mean.min(top);
        let _ = write!(page, "{command}{:.2} {:.1}", x(point.at_secs.max(first)), y(level));
    }
    page.push_str("\"/><path stroke=\"var(--ban)\" stroke-width=\"1\" d=\"");
    for ban in outcome.bans.iter().filter(|ban| ban.not_made.is_none()) {
        let _ = write!(page, "M{:.2} {:.1}v10", x(ban.at_secs), base + 3.0);
    }
    page.push_str("\"/></svg>");
    axis(first, last.max(first + outcome.point_secs), page);
    page.push_str("</div></div>");
}

/// The times below a plot: a few for the whole of it, and those between them for whoever zooms in.
fn axis(first: i64, last: i64, page: &mut String) {
    page.push_str("<div class=\"axis\">");
    let steps = TIMES_SEEN * ZOOMS[ZOOMS.len() - 1];
    for step in 0..steps {
        let zoom = ZOOMS.into_iter().find(|zoom| step % (steps / (TIMES_SEEN * zoom)) == 0).unwrap_or(1);
        let at = first + (last - first) * i64::from(step) / i64::from(steps);
        let left = 100.0 * f64::from(step) / f64::from(steps);
        let _ = write!(
            page,
            "<span class=\"z{zoom}\" style=\"left:{left:.4}%\">{}</span>",
            short_time(at, last - first)
        );
    }
    page.push_str("</div>");
}

/// As much of the time as tells one from the next.
fn short_time(at: i64, span_secs: i64) -> String {
    const HOUR: i64 = 3_600;
    const YEAR: i64 = 365 * 24 * HOUR;
    let time = rfc3339(at);
    let part = match span_secs {
        ..HOUR => time.get(11..19),
        HOUR..YEAR => time.get(5..16),
        YEAR.. => time.get(..10),
    };
    part.unwrap_or(&time).replace('T', " ")
}

fn has_bans(outcome: &Outcome) -> bool {
    outcome.bans.iter().any(|ban| ban.not_made.is_none())
}

/// The bans by rule, path, hour and network.
fn sums(outcome: &Outcome, page: &mut String) {
    if !has_bans(outcome) {
        return;
    }
    let made = || outcome.bans.iter().filter(|ban| ban.not_made.is_none());
    page.push_str("<div class=\"sums\">");
    let by_rule = made().map(|ban| (text::rule_title(ban.rule).to_owned(), 1));
    sum("Bans by rule", largest(by_rule), page);
    let asked = made().filter_map(|ban| ban.evidence.as_ref()).flat_map(|evidence| &evidence.top_paths);
    sum(
        "What they asked for most",
        largest(asked.map(|path| (printable(&path.path), u64::from(path.count)))),
        page,
    );
    let mut networks: BTreeMap<Client, u64> = BTreeMap::new();
    let clients: std::collections::BTreeSet<Client> = made().map(|ban| ban.client).collect();
    clients.into_iter().for_each(|client| *networks.entry(around(client)).or_default() += 1);
    sum(
        "Banned clients by network",
        largest(networks.into_iter().map(|(net, n)| (net.to_string(), n))),
        page,
    );
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    made().for_each(|ban| *hours.entry(ban.at_secs.rem_euclid(86_400) / 3_600).or_default() += 1);
    let hour = |(hour, bans): (i64, u64)| (format!("{hour:02}:00"), bans);
    sum("Bans by hour of the day, UTC", hours.into_iter().map(hour).collect(), page);
    page.push_str("</div>");
}

/// The sums by name, largest first.
fn largest(entries: impl Iterator<Item = (String, u64)>) -> Vec<(String, u64)> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    entries.for_each(|(name, times)| *sums.entry(name).or_default() += times);
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    sums.truncate(MAX_LINES);
    sums
}

fn sum(title: &str, lines: Vec<(String, u64)>, page: &mut String) {
    let most = lines.iter().map(|(_, times)| *times).max().unwrap_or(1).max(1);
    let _ = write!(page, "<div><h3>{title}</h3><ol>");
    for (name, times) in lines {
        let width = 100.0 * times as f64 / most as f64;
        let _ = write!(
            page,
            "<li><i style=\"width:{width:.1}%\"></i><span>{}</span><span>{}</span></li>",
            escape(&name),
            text::count(times)
        );
    }
    page.push_str("</ol></div>");
}

/// The network that a client is counted in: its /24 or /48, or its own if that is larger.
fn around(client: Client) -> Client {
    let network = client.network();
    let len = network.prefix_len().min(if network.addr().is_ipv4() { 24 } else { 48 });
    let around = IpNet::new(network.addr(), len).expect("no longer than the client's own");
    Client::of_network(around.trunc())
}

/// One story a client, in the order of their first bans; opened, it has all of them.
fn stories(title: &str, bans: &[&ReplayedBan], page: &mut String) {
    if bans.is_empty() {
        return;
    }
    let mut order: Vec<(Client, Vec<&ReplayedBan>)> = Vec::new();
    let mut places: HashMap<Client, usize> = HashMap::new();
    for ban in bans {
        let place = *places.entry(ban.client).or_insert_with(|| {
            order.push((ban.client, Vec::new()));
            order.len() - 1
        });
        order[place].1.push(ban);
    }
    let _ = write!(page, "<h2>{title} ({})</h2>", text::count(order.len() as u64));
    for (client, bans) in order.iter().take(MAX_STORIES) {
        story(*client, bans, page);
    }
    if order.len() > MAX_STORIES {
        let _ = write!(page, "<p>… and {} more.</p>", text::count((order.len() - MAX_STORIES) as u64));
    }
}

fn story(client: Client, bans: &[&ReplayedBan], page: &mut String) {
    let Some(first) = bans.first() else { return };
    let times =
        if bans.len() > 1 { format!(", {} times", text::count(bans.len() as u64)) } else { String::new() };
    let asked = first.evidence.as_ref().and_then(|evidence| evidence.top_paths.first());
    let asked = asked.map_or(String::new(), |path| format!(" <code>{}</code>", escape(&path.path)));
    let _ = write!(
        page,
        "<details><summary><b>{client}</b> {}{times}{asked} <span class=\"dim\">{}</span></summary>\
         <table><thead><tr><th>when</th><th>rule</th><th>evidence</th><th>term</th></tr></thead><tbody>",
        text::rule_title(first.rule),
        first.timestamp
    );
    bans.iter().take(MAX_BANS).for_each(|ban| row(ban, page));
    page.push_str("</tbody></table>");
    if bans.len() > MAX_BANS {
        let _ = write!(page, "<p>… and {} more.</p>", bans.len() - MAX_BANS);
    }
    page.push_str("</details>");
}

fn row(ban: &ReplayedBan, page: &mut String) {
    let term = match (&ban.not_made, ban.term_secs) {
        (Some(because), _) => format!("not banned: {}", escape(because)),
        (None, Some(secs)) => format!("{} (offence {})", duration(secs), ban.offence),
        (None, None) => format!("permanent (offence {})", ban.offence),
    };
    let evidence = ban.evidence.as_ref().map_or(String::new(), |evidence| {
        let paths: Vec<String> = evidence
            .top_paths
            .iter()
            .map(|path| format!("{} ({}x)", escape(&path.path), path.count))
            .collect();
        let failed = counted(u64::from(evidence.errors), "error");
        let requests = counted(u64::from(evidence.requests), "request");
        format!(
            "{}<br><span class=\"dim\">{requests} in {} s, {failed}: {}</span>",
            escape(&text::fired(evidence)),
            evidence.window_secs,
            paths.join(", ")
        )
    });
    let _ = write!(
        page,
        "<tr><td>{}</td><td>{}</td><td>{evidence}</td><td>{term}</td></tr>",
        ban.timestamp,
        text::rule_title(ban.rule)
    );
}

/// For text and for attributes in double quotes; what would steer a terminal or turn the text round is written out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::verdict::{Evidence, PathCount, Rule};

    fn outcome(path: &str) -> Outcome {
        let evidence = Evidence {
            rule: Rule::Probing,
            condition: "probes_60s=15 >= threshold=13".to_owned(),
            rate: 0.1,
            mean: 0.1,
            stddev: 0.1,
            z_score: 0.0,
            threshold: 13.0,
            tightened: false,
            baseline: "warm_up".to_owned(),
            window_secs: 60,
            requests: 6,
            errors: 6,
            measures: Vec::new(),
            top_paths: vec![PathCount { path: path.to_owned(), count: 6 }],
            account: Vec::new(),
            lines: Vec::new(),
            sites: Vec::new(),
            policy: None,
            observe: None,
            at_secs: 60,
        };
        let ban = ReplayedBan {
            at_secs: 60,
            timestamp: rfc3339(60),
            ip: "192.0.2.1".parse().unwrap(),
            client: "192.0.2.1".parse().unwrap(),
            rule: Rule::Probing,
            offence: 1,
            term_secs: Some(600),
            not_made: None,
            behind_proxy: false,
            evidence: Some(Box::new(evidence)),
        };
        let point = Point { at_secs: 0, requests: 6, errors: 6, banned: 0, baseline_mean: 0.1 };
        let span = Some((0, 60));
        Outcome {
            bans: vec![ban],
            points: vec![point],
            span,
            point_secs: 60,
            requests: 64_932,
            requests_banned: 14_285,
            clients: 2_518,
            clients_banned: 81,
            by_rule: BTreeMap::from([(Rule::Probing, 1)]),
            ..Outcome::default()
        }
    }

    const HOSTILE: &str =
        "/</code></summary><script>alert('1')</script>\"><img src=x onerror=alert(1)>\u{202e}";

    /// No tag, attribute or quote of the log's becomes one of the page's.
    fn assert_inert(page: &str) {
        for tag in ["<script", "<img", "onerror=alert(1)>"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
        assert!(!page.contains('\u{202e}'), "the order of the letters is kept");
        assert_eq!(page.matches("<details>").count(), page.matches("</details>").count());
        assert_eq!(page.matches("<code>").count(), page.matches("</code>").count());
    }

    #[test]
    fn what_comes_out_of_the_log_is_escaped() {
        let mut hostile = outcome(HOSTILE);
        hostile.bans[0].not_made = Some(format!("{HOSTILE} is on the allowlist"));
        for hostile in [outcome(HOSTILE), hostile] {
            let page = render(&hostile, None, &format!("a<b>{HOSTILE}.log"));
            assert_inert(&page);
            assert!(
                page.contains(
                    "/&lt;/code&gt;&lt;/summary&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"
                )
            );
            assert!(page.contains("a&lt;b&gt;"));
        }
        assert_inert(&render_difference(&Outcome::default(), &outcome(HOSTILE), HOSTILE));
    }

    #[test]
    fn the_first_sentence_says_what_it_is_worth() {
        let check = |outcome: &Outcome, expected: &str| {
            let page = render(outcome, None, "access.log");
            assert!(page.contains(&format!("<h1>{expected}</h1>")), "{page}");
        };
        let fortnight = Outcome { span: Some((0, 14 * 86_400)), ..outcome("/") };
        check(
            &fortnight,
            "On your log of 14 days Shield would have banned 81 of 2,518 clients and spared your server 14,285 requests \
             (22.0&nbsp;%).",
        );
        let quiet =
            Outcome { clients: 1, clients_banned: 0, requests: 5, requests_banned: 0, ..outcome("/") };
        check(
            &quiet,
            "On your log of 2 minutes Shield would have banned none of 1 client and spared your server 0 requests (0.0&nbsp;%).",
        );
    }

    #[test]
    fn it_sums_up_by_rule_path_network_and_hour_and_tells_each_clients_story() {
        let page = render(&outcome("/.env"), None, "access.log");
        for part in
            ["Bans by rule", "What they asked for most", "192.0.2.0/24", "00:00", "(offence 1)", "/.env (6x)"]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(page.matches("<details>").count(), 1);
    }

    #[test]
    fn two_configurations_stand_beside_each_other() {
        let (before, after) = (Outcome::default(), outcome("/.env"));
        let page = render_difference(&before, &after, "access.log");
        assert!(page.contains("would have banned 81 clients instead of 0: 1 newly, 0 no longer."), "{page}");
        assert!(page.contains("Newly banned (1)") && !page.contains("No longer banned ("));
        let both = render_difference(&outcome("/a"), &outcome("/b"), "access.log");
        assert_eq!(both.matches("class=\"plot\"").count(), 2, "{both}");
        assert!(both.contains("<b>Before.</b>") && both.contains("After: what was banned"));
    }

    #[test]
    fn it_zooms_without_a_script_and_names_more_times_the_nearer_it_is() {
        let fortnight = Outcome { span: Some((0, 14 * 86_400)), ..outcome("/") };
        let page = render(&fortnight, None, "access.log");
        let times = |zoom: u32| page.matches(&format!("<span class=\"z{zoom}\"")).count();
        assert_eq!((times(1), times(4), times(16)), (4, 12, 48));
        for zoom in ZOOMS {
            assert!(page.contains(&format!("id=\"z{zoom}\"")), "a button for {zoom} x");
            let rule = format!("#z{zoom}:checked~.plot>div{{width:{zoom}00%}}");
            assert!(zoom == 1 || page.contains(&rule), "{rule}");
        }
        assert!(page.contains("01-08 00:00"), "the middle of the fortnight");
        let minute = render(&outcome("/"), None, "access.log");
        assert!(minute.contains("00:00:30"), "seconds where the log is short");
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = render(&outcome("/"), None, "access.log");
        for outside in ["src=", "href=", "url(", "@import", "http://", "https://"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn an_empty_log_is_a_page_too() {
        let page = render(&Outcome::default(), None, "empty");
        assert!(page.contains("The log has no requests.") && page.contains("No requests."));
    }
}
