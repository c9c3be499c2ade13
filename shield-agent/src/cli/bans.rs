//! `shield-agent bans [BEGINNING]`: lists the bans in force.

use anyhow::Result;
use clap::Args;

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

/// Maximum characters of the cause column.
const CAUSE_CHARS: usize = 80;

#[derive(Debug, Clone, Args)]
pub struct BansArgs {
    /// Only clients that begin with this text; a whole address also finds the networks that contain it
    #[arg(value_name = "BEGINNING")]
    search: Option<String>,
    /// Only bans for this rule: z_score, rate_multiplier, error_surge, probing, flood, behaviour, operator, imported,
    /// network
    #[arg(long, value_name = "RULE", value_parser = args::rule)]
    rule: Option<Rule>,
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
    let query = Query { search: args.search.clone(), rule: args.rule, sort: args.sort };
    let page = if args.all {
        all(client, &query).await?
    } else {
        query.page(client, args.offset, args.limit).await?
    };
    match args.json.format() {
        Format::Json => print::json(&page)?,
        Format::Text => print::text(&render(&page, args.offset, Colour::of_stdout()))?,
    }
    Ok(Exit::Done)
}

/// A selection of bans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// See [`crate::api::backend::BanQuery::search`].
    pub search: Option<String>,
    /// Only bans for this rule.
    pub rule: Option<Rule>,
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

fn render(page: &BanPage, offset: u64, colour: Colour) -> String {
    format!("{}{}", render_bans(page, offset, colour), render_slowed(page, colour))
}

/// The slowed clients, which are not banned.
fn render_slowed(page: &BanPage, colour: Colour) -> String {
    if page.slowed.is_empty() {
        return String::new();
    }
    let heading = ["SLOWED CLIENT", "SINCE", "LEFT", "CONNECTIONS/S", "PACKETS/S", "RULE", "CAUSE"];
    let mut table = Table::new(&heading, &[3, 4]);
    for slowed in &page.slowed {
        table.row(vec![
            slowed.client.to_string(),
            text::utc(slowed.since_ms),
            text::duration(slowed.remaining_secs),
            slowed.limits.connections.per_sec.to_string(),
            slowed.limits.packets.per_sec.to_string(),
            slowed.rule.name().to_owned(),
            shortened(&slowed.words),
        ]);
    }
    format!("\n{}", table.render(colour))
}

fn render_bans(page: &BanPage, offset: u64, colour: Colour) -> String {
    if page.bans.is_empty() {
        return if page.total == 0 {
            "No client is banned.\n"
        } else {
            "No ban at this --offset; use a smaller one.\n"
        }
        .to_owned();
    }
    let heading = ["CLIENT", "SINCE", "LEFT", "OFFENCE", "DROPPED", "WHERE", "RULE", "CAUSE"];
    let mut table = Table::new(&heading, &[3, 4]);
    for ban in &page.bans {
        table.row(cells(ban));
    }
    let mut text = table.render(colour);
    let last = offset + page.bans.len() as u64;
    if last < page.total || offset > 0 {
        let note = format!(
            "{} to {} of {}; use --offset {last} for more, --all for all",
            offset + 1,
            last,
            page.total
        );
        text.push_str(&colour.paint(Style::Dim, &note));
        text.push('\n');
    }
    text
}

fn cells(ban: &Ban) -> Vec<String> {
    vec![
        ban.client.to_string(),
        text::utc(ban.since_ms),
        ban.remaining_secs.map_or("permanent".to_owned(), text::duration),
        ban.offence.to_string(),
        ban.dropped.map_or("-".to_owned(), |dropped| text::count(dropped.packets)),
        text::held_by(ban.enforced_by.as_deref()),
        ban.rule.name().to_owned(),
        shortened(&ban.words),
    ]
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CAUSE_CHARS {
        return text.to_owned();
    }
    let head: String = text.chars().take(CAUSE_CHARS - 1).collect();
    format!("{}…", head.trim_end())
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
            enforced_by: None,
        }
    }

    #[test]
    fn a_page_of_bans() {
        let proxied = Ban { enforced_by: Some(vec![EnforcerName::Nginx]), ..ban("192.0.2.7", Some(599)) };
        let bans = vec![proxied, ban("2001:db8:1:2::/64", None)];
        let page = BanPage { bans, total: 9, next: Some("4".into()), slowed: Vec::new(), now_ms: 0 };
        assert_eq!(
            render(&page, 2, Colour::Off),
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
        let page = BanPage { bans: Vec::new(), total: 0, next: None, slowed: vec![slowed], now_ms: 0 };
        assert_eq!(
            render(&page, 0, Colour::Off),
            "No client is banned.\n\n\
             SLOWED CLIENT  SINCE                 LEFT        CONNECTIONS/S  PACKETS/S  RULE     CAUSE\n\
             192.0.2.9      2026-05-11T22:07:33Z  9 min 59 s              2         20  probing  6.25 of the 12 points of evidence that a ban takes\n"
        );
    }

    #[test]
    fn an_empty_list_has_its_reason() {
        let page = |total| BanPage { bans: Vec::new(), total, next: None, slowed: Vec::new(), now_ms: 0 };
        assert_eq!(render(&page(0), 0, Colour::Off), "No client is banned.\n");
        assert!(render(&page(7), 50, Colour::Off).contains("--offset"));
    }

    #[test]
    fn a_long_cause_is_cut_at_a_character() {
        let cut = shortened(&"ü".repeat(200));
        assert_eq!(cut.chars().count(), CAUSE_CHARS);
        assert!(cut.ends_with('…'));
    }
}
