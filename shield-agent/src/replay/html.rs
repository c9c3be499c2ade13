//! A replay's outcome as one self-contained page: the traffic, the baseline and the bans as inline SVG, the bans as a
//! table. Loads nothing; everything that comes from the log is escaped.

use std::fmt::Write as _;

use super::labels::Score;
use super::{Outcome, Point, ReplayedBan, rfc3339};
use crate::text::{self, duration, printable};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;

/// Maximum rows of the table; further bans are counted.
const MAX_ROWS: usize = 5000;

const STYLE: &str = "\
:root{--ink:#1d2127;--dim:#667080;--line:#d8dde4;--paper:#fff;--traffic:#4a7fb5;--error:#c98a1b;--ban:#c2362b;\
--base:#2f8f5b}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#98a2b3;--line:#333b47;--paper:#14181e}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:1240px;\
padding:0 1rem}\
h1{font-size:1.4rem;margin:0 0 .2rem}p{margin:.3rem 0 1rem;color:var(--dim)}svg{width:100%;height:auto}\
table{border-collapse:collapse;width:100%;font-size:13px}th,td{text-align:left;padding:.35rem .6rem;\
border-bottom:1px solid var(--line);vertical-align:top}td{overflow-wrap:anywhere}\
.dim{color:var(--dim)}.facts{display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0}.facts b{display:block;\
font-size:1.3rem}";

/// The page.
pub(crate) fn render(outcome: &Outcome, score: Option<&Score>, title: &str) -> String {
    let mut page = String::new();
    let title = escape(title);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\"><title>Shield replay: {title}</title><style>{STYLE}</style></head><body>\
         <h1>Shield replay</h1><p>{title}</p>"
    );
    facts(outcome, score, &mut page);
    curve(outcome, &mut page);
    table(outcome, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn facts(outcome: &Outcome, score: Option<&Score>, page: &mut String) {
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 };
    let mut facts = vec![
        (text::count(outcome.requests), "requests".to_owned()),
        (text::count(outcome.clients), "clients".to_owned()),
        (
            text::count(outcome.clients_banned),
            format!("clients banned ({:.2} %)", share(outcome.clients_banned, outcome.clients)),
        ),
        (
            text::count(outcome.requests_banned),
            format!("requests dropped ({:.2} %)", share(outcome.requests_banned, outcome.requests)),
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

/// Requests per second over time, errors in them, the whole server's baseline, and a tick for each ban.
fn curve(outcome: &Outcome, page: &mut String) {
    let (Some((first, last)), false) = (outcome.span, outcome.points.is_empty()) else {
        page.push_str("<p>No requests.</p>");
        return;
    };
    let span = (last - first).max(outcome.point_secs) as f64;
    let secs = outcome.point_secs as f64;
    let rate = |count: u64| count as f64 / secs;
    let top = outcome.points.iter().map(|p| rate(p.requests)).fold(0.1, f64::max);
    let x = |at: i64| MARGIN + (at - first) as f64 / span * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
    let width = (secs / span * (WIDTH - 2.0 * MARGIN)).max(1.0);
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Requests per second, baseline and bans\">"
    );
    let bars = |page: &mut String, colour: &str, of: &dyn Fn(&Point) -> u64| {
        let _ = write!(page, "<path fill=\"var(--{colour})\" d=\"");
        for point in &outcome.points {
            let (left, up) = (x(point.at_secs.max(first)), y(rate(of(point))));
            let _ = write!(page, "M{left:.1} {:.1}V{up:.1}h{width:.1}V{:.1}z", y(0.0), y(0.0));
        }
        page.push_str("\"/>");
    };
    bars(page, "traffic", &|point| point.requests);
    bars(page, "error", &|point| point.errors);
    let _ = write!(page, "<path fill=\"none\" stroke=\"var(--base)\" stroke-width=\"1.5\" d=\"");
    for (n, point) in outcome.points.iter().enumerate() {
        let command = if n == 0 { 'M' } else { 'L' };
        let level = point.baseline_mean.min(top);
        let _ = write!(page, "{command}{:.1} {:.1}", x(point.at_secs.max(first)), y(level));
    }
    page.push_str("\"/><path stroke=\"var(--ban)\" stroke-width=\"1\" d=\"");
    for ban in outcome.bans.iter().filter(|ban| ban.not_made.is_none()) {
        let _ = write!(page, "M{:.1} {:.1}v10", x(ban.at_secs), HEIGHT - MARGIN + 2.0);
    }
    page.push_str("\"/>");
    let base = HEIGHT - MARGIN;
    let _ = write!(
        page,
        "<path stroke=\"var(--line)\" d=\"M{MARGIN} {base}H{:.1}\"/><g fill=\"var(--dim)\" font-size=\"12\">\
         <text x=\"{MARGIN}\" y=\"{:.1}\">{}</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{MARGIN}\" y=\"{:.1}\">{top:.1} requests/s (a bar is {})</text></g></svg>",
        WIDTH - MARGIN,
        HEIGHT - 14.0,
        rfc3339(first),
        WIDTH - MARGIN,
        HEIGHT - 14.0,
        rfc3339(last),
        MARGIN - 10.0,
        duration(outcome.point_secs.unsigned_abs()),
    );
    page.push_str(
        "<p><span style=\"color:var(--traffic)\">■</span> requests <span style=\"color:var(--error)\">■</span> of \
         them errors <span style=\"color:var(--base)\">―</span> baseline of the whole server \
         <span style=\"color:var(--ban)\">❙</span> bans</p>",
    );
}

fn table(outcome: &Outcome, page: &mut String) {
    page.push_str(
        "<table><thead><tr><th>when</th><th>client</th><th>rule</th><th>evidence</th><th>term</th></tr></thead><tbody>",
    );
    for ban in outcome.bans.iter().take(MAX_ROWS) {
        row(ban, page);
    }
    page.push_str("</tbody></table>");
    if outcome.bans.len() > MAX_ROWS {
        let _ = write!(page, "<p>… and {} more.</p>", outcome.bans.len() - MAX_ROWS);
    }
}

fn row(ban: &ReplayedBan, page: &mut String) {
    let term = match (&ban.not_made, ban.term_secs) {
        (Some(because), _) => format!("not banned: {}", escape(because)),
        (None, Some(secs)) => duration(secs),
        (None, None) => "permanent".to_owned(),
    };
    let evidence = ban.evidence.as_ref().map_or(String::new(), |evidence| {
        let paths: Vec<String> = evidence
            .top_paths
            .iter()
            .map(|path| format!("{} ({}x)", escape(&printable(&path.path)), path.count))
            .collect();
        format!("{}<br><span class=\"dim\">{}</span>", escape(&text::fired(evidence)), paths.join(", "))
    });
    let _ = write!(
        page,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{evidence}</td><td>{term}</td></tr>",
        ban.timestamp,
        ban.client,
        text::rule_title(ban.rule)
    );
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
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
        Outcome { bans: vec![ban], points: vec![point], span, point_secs: 60, ..Outcome::default() }
    }

    #[test]
    fn what_comes_out_of_the_log_is_escaped() {
        let page = render(&outcome("/<script>alert('1')</script>\""), None, "a<b>.log");
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("/&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; (6x)"));
        assert!(page.contains("a&lt;b&gt;.log"));
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
        assert!(render(&Outcome::default(), None, "empty").contains("No requests."));
    }
}
