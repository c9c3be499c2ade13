//! `shield-agent bans [BEGINNING]`: lists the bans in force.

use anyhow::Result;
use clap::Args;

use super::args::UsageError;
use super::client::{AgentClient, ClientError};
use super::print::{self, Colour, Style, Table};
use super::reply::{Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{Ban, BanPage, BanSort};
use crate::text;
use shield_engine::verdict::Rule;

/// Bans per request with `--all`: the API's maximum.
const PAGE: u32 = 1_000;

#[derive(Debug, Clone, Args)]
pub struct BansArgs {
    /// Only clients that begin with this text; a whole address also finds the networks that contain it
    #[arg(value_name = "BEGINNING")]
    search: Option<String>,
    /// Only bans for this rule: z_score, rate_multiplier, error_surge, probing, flood, behaviour, operator, imported,
    /// network
    #[arg(long, value_name = "RULE", value_parser = args::rule)]
    rule: Option<Rule>,
    /// Only bans of clients that asked for this site, by the name of its server section in the log
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// The order
    #[arg(long, value_enum, default_value_t)]
    sort: BanSort,
    /// The maximum number of bans listed
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// The number of bans to skip
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "all")]
    offset: u64,
    /// List all bans, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &BansArgs, client: &AgentClient) -> Result<Exit> {
    if let Some(search) = args.search.as_deref().filter(|search| !may_begin_a_client(search)) {
        return Err(UsageError(format!(
            "{search:?} begins no address and no network: write for example 192.0.2. or 2001:db8:"
        ))
        .into());
    }
    let query =
        Query { search: args.search.clone(), rule: args.rule, site: args.site.clone(), sort: args.sort };
    let page = if args.all {
        all(client, &query).await?
    } else {
        query.page(client, args.offset, args.limit).await?
    };
    match args.json.format() {
        Format::Json => print::json(&page)?,
        Format::Text => {
            let shown = Shown { offset: args.offset, filter: args.filter(), columns: print::columns() };
            print::text(&render(&page, &shown, Colour::of_stdout()))?;
        }
    }
    Ok(Exit::Done)
}

impl BansArgs {
    fn filter(&self) -> Option<String> {
        let rule = self.rule.map(|rule| format!("for {}", rule.name()));
        let search = self.search.as_ref().map(|search| format!("of a client that begins with {search}"));
        let site = self.site.as_ref().map(|site| format!("of a client that asked for {site}"));
        let clauses: Vec<String> = rule.into_iter().chain(search).chain(site).collect();
        (!clauses.is_empty()).then(|| clauses.join(" "))
    }
}

/// How a page of bans is shown.
#[derive(Debug, Default)]
struct Shown {
    offset: u64,
    /// What was asked for, in words; `None` for all.
    filter: Option<String>,
    columns: Option<usize>,
}

/// Whether a client's text can begin so. Others would find nothing, which reads as if nobody was banned.
fn may_begin_a_client(text: &str) -> bool {
    text.trim().chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'))
}

/// A selection of bans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// See [`crate::api::backend::BanQuery::search`].
    pub search: Option<String>,
    /// Only bans for this rule.
    pub rule: Option<Rule>,
    /// Only bans of clients that asked for this site.
    pub site: Option<String>,
    pub sort: BanSort,
}

impl Query {
    pub(crate) async fn page(
        &self,
        client: &AgentClient,
        offset: u64,
        limit: u32,
    ) -> Result<BanPage, ClientError> {
        let mut params = vec![
            ("sort", self.sort.name().to_owned()),
            ("limit", limit.to_string()),
            ("offset", offset.to_string()),
        ];
        params.extend(self.search.clone().map(|search| ("q", search)));
        params.extend(self.site.clone().map(|site| ("site", site)));
        params.extend(self.rule.map(|rule| ("rule", rule.name().to_owned())));
        client.get(Operation::Bans, &params).await
    }
}

/// Fetches all matching bans page by page. A ban made or lifted meanwhile may be missed or included; none appears twice.
pub(crate) async fn all(client: &AgentClient, query: &Query) -> Result<BanPage, ClientError> {
    let mut whole = query.page(client, 0, PAGE).await?;
    let mut seen: std::collections::HashSet<_> = whole.bans.iter().map(|ban| ban.client).collect();
    let mut offset = u64::from(PAGE);
    while whole.next.is_some() {
        let page = query.page(client, offset, PAGE).await?;
        offset += u64::from(PAGE);
        whole.bans.extend(page.bans.into_iter().filter(|ban| seen.insert(ban.client)));
        whole.next = page.next;
    }
    Ok(whole)
}

fn render(page: &BanPage, shown: &Shown, colour: Colour) -> String {
    let dry = if page.dry_run && (page.total > 0 || !page.slowed.is_empty()) { DRY_RUN } else { "" };
    format!("{dry}{}{}", render_bans(page, shown, colour), render_slowed(page, shown, colour))
}

/// Above what a dry run would have done.
const DRY_RUN: &str = "Dry run: nobody is banned or slowed. It would be these:\n\n";

/// The slowed clients, which are not banned.
fn render_slowed(page: &BanPage, shown: &Shown, colour: Colour) -> String {
    if page.slowed.is_empty() {
        return String::new();
    }
    let is_narrow = shown.columns.is_some_and(|columns| columns < NARROW);
    let heading = ["SLOWED CLIENT", "SINCE", "LEFT", "CONNECTIONS/S", "PACKETS/S", "RULE", "CAUSE"];
    let kept: Vec<usize> = if is_narrow { vec![0, 2, 5, 6] } else { (0..heading.len()).collect() };
    let rows = page.slowed.iter().map(|slowed| {
        vec![
            slowed.client.to_string(),
            text::utc(slowed.since_ms),
            text::duration(slowed.remaining_secs),
            slowed.limits.connections.per_sec.to_string(),
            slowed.limits.packets.per_sec.to_string(),
            slowed.rule.name().to_owned(),
            slowed.words.clone(),
        ]
    });
    format!("\n{}", table(&heading, &[3, 4], &kept, rows).render_within(shown.columns, colour))
}

/// Columns of a terminal below which a table leaves out what one can do without, and those from which it has all.
const NARROW: usize = 100;
const WIDE: usize = 120;

fn table(
    heading: &[&str],
    right: &[usize],
    kept: &[usize],
    rows: impl Iterator<Item = Vec<String>>,
) -> Table {
    let names: Vec<&str> = kept.iter().map(|column| heading[*column]).collect();
    let right: Vec<usize> = (0..kept.len()).filter(|at| right.contains(&kept[*at])).collect();
    let mut table = Table::new(&names, &right);
    for mut row in rows {
        table.row(kept.iter().map(|column| std::mem::take(&mut row[*column])).collect());
    }
    table
}

fn render_bans(page: &BanPage, shown: &Shown, colour: Colour) -> String {
    if page.bans.is_empty() {
        return match &shown.filter {
            _ if page.total > 0 => "No ban at this --offset; use a smaller one.\n".to_owned(),
            Some(filter) => format!("No ban in force {filter}.\n"),
            None => "No client is banned.\n".to_owned(),
        };
    }
    let heading = ["CLIENT", "SINCE", "LEFT", "OFFENCE", "DROPPED", "WHERE", "RULE", "CAUSE"];
    let kept = match shown.columns {
        Some(columns) if columns < NARROW => vec![0, 2, 4, 6, 7],
        Some(columns) if columns < WIDE => vec![0, 2, 3, 4, 5, 6, 7],
        _ => (0..heading.len()).collect(),
    };
    let rows = page.bans.iter().map(|ban| cells(ban, page.dry_run));
    let mut text = table(&heading, &[3, 4], &kept, rows).render_within(shown.columns, colour);
    let last = shown.offset + page.bans.len() as u64;
    if last < page.total || shown.offset > 0 {
        let note = format!(
            "{} to {} of {}; use --offset {last} for more, --all for all",
            shown.offset + 1,
            last,
            page.total
        );
        text.push_str(&colour.paint(Style::Dim, &note));
        text.push('\n');
    }
    text
}

fn cells(ban: &Ban, is_dry: bool) -> Vec<String> {
    vec![
        ban.client.to_string(),
        text::utc(ban.since_ms),
        ban.remaining_secs.map_or("permanent".to_owned(), text::duration),
        ban.offence.to_string(),
        ban.dropped.map_or("-".to_owned(), |dropped| text::count(dropped.packets)),
        if is_dry { "dry run".to_owned() } else { text::held_by(ban.enforced_by.as_deref()) },
        ban.rule.name().to_owned(),
        ban.words.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::SlowedClient;
    use crate::enforce::Drops;
    use shield_engine::event::EnforcerName;
    use shield_engine::slowed::{SlowLimits, SlowRate};
    use shield_engine::verdict::Rule;

    fn ban(client: &str, remaining_secs: Option<u64>) -> Ban {
        Ban {
            client: client.parse().unwrap(),
            serial: 1,
            since_ms: 1_778_537_253_000,
            ends_ms: None,
            remaining_secs,
            offence: 2,
            rule: Rule::Probing,
            reason: None,
            words: "many different paths that do not exist".into(),
            evidence: None,
            dropped: remaining_secs.map(|_| Drops { packets: 12_345, bytes: 1 }),
            leaking: None,
            owner: None,
            enforced_by: None,
        }
    }

    #[test]
    fn a_page_of_bans() {
        let proxied = Ban { enforced_by: Some(vec![EnforcerName::Nginx]), ..ban("192.0.2.7", Some(599)) };
        let bans = vec![proxied, ban("2001:db8:1:2::/64", None)];
        let page =
            BanPage { bans, total: 9, next: Some("4".into()), slowed: Vec::new(), now_ms: 0, dry_run: false };
        assert_eq!(
            render(&page, &Shown { offset: 2, ..Shown::default() }, Colour::Off),
            "CLIENT             SINCE                 LEFT        OFFENCE  DROPPED  WHERE  RULE     CAUSE\n\
             192.0.2.7          2026-05-11T22:07:33Z  9 min 59 s        2   12,345  nginx  probing  many different paths that do not exist\n\
             2001:db8:1:2::/64  2026-05-11T22:07:33Z  permanent         2        -  -      probing  many different paths that do not exist\n\
             3 to 4 of 9; use --offset 4 for more, --all for all\n"
        );
    }

    #[test]
    fn slowed_clients_stand_below_the_bans() {
        let rate = |per_sec| SlowRate { per_sec, burst: 10 * per_sec };
        let slowed = SlowedClient {
            client: "192.0.2.9".parse().unwrap(),
            since_ms: 1_778_537_253_000,
            ends_ms: 1_778_537_853_000,
            remaining_secs: 599,
            rule: Rule::Probing,
            limits: SlowLimits { connections: rate(2), packets: rate(20) },
            words: "6.25 of the 12 points of evidence that a ban takes".into(),
        };
        let page = BanPage {
            bans: Vec::new(),
            total: 0,
            next: None,
            slowed: vec![slowed],
            now_ms: 0,
            dry_run: false,
        };
        assert_eq!(
            render(&page, &Shown::default(), Colour::Off),
            "No client is banned.\n\n\
             SLOWED CLIENT  SINCE                 LEFT        CONNECTIONS/S  PACKETS/S  RULE     CAUSE\n\
             192.0.2.9      2026-05-11T22:07:33Z  9 min 59 s              2         20  probing  6.25 of the 12 points of evidence that a ban takes\n"
        );
    }

    #[test]
    fn an_empty_list_has_its_reason() {
        let page = |total| BanPage {
            bans: Vec::new(),
            total,
            next: None,
            slowed: Vec::new(),
            now_ms: 0,
            dry_run: false,
        };
        assert_eq!(render(&page(0), &Shown::default(), Colour::Off), "No client is banned.\n");
        assert!(
            render(&page(7), &Shown { offset: 50, ..Shown::default() }, Colour::Off).contains("--offset")
        );
    }

    /// History: `bans nonsense` said "No client is banned." with 2,980 bans in force.
    #[test]
    fn a_search_that_finds_nothing_says_what_was_searched() {
        assert!(may_begin_a_client("192.0.2.") && may_begin_a_client("2001:DB8::/3"));
        assert!(!may_begin_a_client("nonsense") && !may_begin_a_client("192.0.2.0-9"));
        let page =
            BanPage { bans: Vec::new(), total: 0, next: None, slowed: Vec::new(), now_ms: 0, dry_run: false };
        let shown = Shown { filter: Some("for flood".into()), ..Shown::default() };
        assert_eq!(render(&page, &shown, Colour::Off), "No ban in force for flood.\n");
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_in_a_pipe() {
        let bans = vec![ban("192.0.2.7", Some(599)), ban("2001:db8:1111:2222::/64", None)];
        let page = BanPage { bans, total: 2, next: None, slowed: Vec::new(), now_ms: 0, dry_run: false };
        for columns in [80, 100, 140] {
            let shown = Shown { columns: Some(columns), ..Shown::default() };
            let text = render(&page, &shown, Colour::Off);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}\n{text}");
            assert!(text.contains("CAUSE") && text.contains("12,345"), "{text}");
        }
        assert!(render(&page, &Shown::default(), Colour::Off).contains("paths that do not exist\n"));
    }

    /// History: `bans` in a dry run read as if clients were banned.
    #[test]
    fn a_dry_run_says_that_nobody_is_banned() {
        let bans = vec![ban("192.0.2.7", Some(599))];
        let page = BanPage { bans, total: 1, next: None, slowed: Vec::new(), now_ms: 0, dry_run: true };
        let text = render(&page, &Shown::default(), Colour::Off);
        assert!(
            text.starts_with("Dry run: nobody is banned or slowed.") && text.contains("  dry run  "),
            "{text}"
        );
    }
}
