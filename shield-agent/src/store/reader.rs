//! Queries of the API, the page and the command line, on a connection of their own, which neither waits for the writer nor
//! holds it up. Every result is a page of bounded size.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;

use anyhow::{Context, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params_from_iter};
use serde::{Deserialize, Serialize};

use super::audit_head::AuditHead;
use super::boots::Boots;
use super::{Settings, Store, rows};
use shield_engine::action::{BanRecord, LiftReason};
use shield_engine::ban::Ban;
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::{Evidence, Rule};

/// Rows of one page.
pub(crate) const MAX_PAGE: u32 = 1_000;

/// Up to so many matches are collected by the filter's index and sorted. More of them are dense in the sorted order, so
/// walking that index finds a page sooner.
const FEW_MATCHES: u64 = 20_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BanSort {
    /// Last made or extended first.
    #[default]
    Newest,
    /// By end; permanent bans last.
    EndsFirst,
    /// By the client's text.
    Client,
}

/// A filtered and sorted list of bans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanQuery {
    /// Only clients whose text begins with this; an address also finds the networks that hold it.
    pub search: Option<String>,
    /// Only bans for this rule.
    pub rule: Option<Rule>,
    /// Only bans of clients that asked for this site.
    #[serde(default)]
    pub site: Option<String>,
    /// Leaves out bans of lists, imported ones and those that are read by themselves.
    #[serde(default)]
    pub no_imported: bool,
    #[serde(default)]
    pub sort: BanSort,
    /// Matches to skip.
    #[serde(default)]
    pub offset: u64,
    /// Rows to return, at most [`MAX_PAGE`].
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BanPage {
    /// Without their evidence.
    pub bans: Vec<BanRecord>,
    /// The number of all matches.
    pub total: u64,
}

/// A ban that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedBan {
    /// Grows with every lift. Pass it as `before` to get the next page.
    pub id: i64,
    /// Who.
    pub client: Client,
    /// The ban's serial number.
    pub serial: u64,
    /// Since when, wall clock, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// When it ended, wall clock, in milliseconds.
    pub lifted_ms: i64,
    /// Why it ended.
    pub lift_reason: LiftReason,
    /// The client's offences then.
    pub offence: u32,
    /// What it was banned for.
    pub rule: Rule,
    /// The operator's or list's words.
    pub reason: Option<String>,
    /// The detector's evidence.
    pub evidence: Option<Evidence>,
}

/// What tells one ban from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    pub client: Client,
    pub serial: u64,
    /// Wall clock, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

impl Made {
    /// Reads it from a row of an id, the client, the serial number and the start.
    fn of(row: &Row<'_>) -> Result<Made> {
        let serial = row.get::<_, i64>(2)? as u64;
        Ok(Made { client: rows::client(row, 1)?, serial, since_ms: row.get(3)? })
    }
}

impl EndedBan {
    /// The ban as it was made, ending when it ended: of the end that it once had nothing is kept.
    fn into_record(self) -> BanRecord {
        BanRecord {
            ban: Ban {
                client: self.client,
                serial: self.serial,
                since_ms: self.since_ms,
                ends: Ends::At { boot_ms: 0, wall_ms: self.lifted_ms },
                offence: NonZeroU32::new(self.offence),
                rule: self.rule,
                place: shield_engine::ban::Place::Everywhere,
            },
            reason: self.reason,
            evidence: self.evidence.map(Box::new),
        }
    }
}

/// How many offences a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffenceCount {
    /// How many.
    pub count: u32,
    /// The time of the last one, or of the end of its ban, in Unix seconds.
    pub last_secs: i64,
}

/// A read-only connection. It can be moved to another thread, not shared between two.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    boots: Boots,
}

impl Reader {
    pub fn beside(store: &Store) -> Result<Reader> {
        Reader::open(store.settings(), store.boots().clone())
    }

    fn open(settings: &Settings, boots: Boots) -> Result<Reader> {
        let path = settings.file();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)
            .with_context(|| format!("could not open {} for reading", path.display()))?;
        connection.busy_timeout(std::time::Duration::from_secs(1))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "cache_size", -i64::from(settings.cache_kib))?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Reader { connection, boots })
    }

    /// The learned baseline as it was last saved, in the detector's encoding.
    pub(crate) fn baseline(&self) -> Result<Option<Vec<u8>>> {
        super::load::baseline(&self.connection)
    }

    /// One page of the bans in force.
    pub fn bans(&self, query: &BanQuery, now: Now) -> Result<BanPage> {
        let filter = Filter::new(query);
        let total = self.count(&filter)?;
        let order = match query.sort {
            BanSort::Newest => "serial DESC",
            BanSort::EndsFirst => "end_sort_ms, serial",
            BanSort::Client => "client",
        };
        let conditions = filter.sql(total > FEW_MATCHES);
        let sql = format!(
            "SELECT {} FROM bans {conditions} ORDER BY {order} LIMIT {} OFFSET {}",
            rows::BAN_COLUMNS,
            query.limit.min(MAX_PAGE),
            i64::try_from(query.offset).unwrap_or(i64::MAX),
        );
        let mut statement = self.connection.prepare(&sql)?;
        let mut found = statement.query(params_from_iter(&filter.values))?;
        let mut bans = Vec::new();
        while let Some(row) = found.next().context("could not list the bans")? {
            bans.extend(readable(rows::record(row, &self.boots, now), "ban"));
        }
        Ok(BanPage { bans, total })
    }

    /// Bans in force by the site that their clients asked for, most first, at most `limit` sites.
    pub(crate) fn bans_by_site(&self, limit: u32) -> Result<BTreeMap<String, u64>> {
        let sql = "SELECT site, count(*) FROM ban_sites JOIN bans USING (serial)
                   GROUP BY site ORDER BY 2 DESC, site LIMIT ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map([limit], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        found.collect::<rusqlite::Result<_>>().context("could not count the bans by site")
    }

    /// The clients whose bans in the database are of this site.
    pub(crate) fn clients_of_site(&self, site: &str) -> Result<HashSet<Client>> {
        let sql = "SELECT client FROM bans WHERE serial IN (SELECT serial FROM ban_sites WHERE site = ?1)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query([site])?;
        let mut clients = HashSet::new();
        while let Some(row) = found.next().context("could not list the clients of a site")? {
            clients.extend(readable(rows::client(row, 0), "client"));
        }
        Ok(clients)
    }

    /// The offences of each client with a ban in force.
    pub(crate) fn offences_in_force(&self) -> Result<HashMap<Client, u32>> {
        let mut statement =
            self.connection.prepare_cached("SELECT client, offence FROM bans WHERE offence > 0")?;
        let mut found = statement.query([])?;
        let mut offences = HashMap::new();
        while let Some(row) = found.next().context("could not list the offences of the banned")? {
            let (client, count): (String, i64) = (row.get(0)?, row.get(1)?);
            if let Ok(client) = client.parse() {
                offences.insert(client, u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
        Ok(offences)
    }

    /// One client's ban with its evidence, `None` when it has none.
    pub fn ban(&self, client: Client, now: Now) -> Result<Option<BanRecord>> {
        let sql = format!(
            "SELECT {}, (SELECT json FROM evidence WHERE evidence.serial = bans.serial) FROM bans WHERE client = ?1",
            rows::BAN_COLUMNS
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut found = statement.query([client.to_string()])?;
        let Some(row) = found.next().with_context(|| format!("could not look up the ban of {client}"))?
        else {
            return Ok(None);
        };
        let ban = rows::record(row, &self.boots, now)?;
        let evidence = readable(rows::json(row, rows::AFTER_BAN), "ban's evidence").flatten();
        Ok(Some(BanRecord { evidence: evidence.map(Box::new), ..ban }))
    }

    /// The operator's words about entries of the allowlist.
    pub(crate) fn allow_notes(&self) -> Result<BTreeMap<String, String>> {
        let mut statement =
            self.connection.prepare_cached("SELECT network, note FROM allowed WHERE note IS NOT NULL")?;
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        found.collect::<rusqlite::Result<_>>().context("could not read the notes of the allowlist")
    }

    /// Those of the bans made last, in force or ended, that `is_wanted`, with their evidence. It is asked of the newest `limit` in
    /// force, and of as many ended ones as make twice `limit` with these.
    pub(crate) fn newest_bans(
        &self,
        limit: u32,
        now: Now,
        is_wanted: impl Fn(&Made) -> bool,
    ) -> Result<Vec<BanRecord>> {
        // Most are not wanted: first what tells that, and the rest of a row for those that are.
        let asked = |columns: &str, limit: u64| -> Result<(u64, Vec<i64>)> {
            let mut statement = self.connection.prepare(&format!("SELECT {columns} DESC LIMIT {limit}"))?;
            let mut found = statement.query([])?;
            let (mut asked, mut wanted) = (0, Vec::new());
            while let Some(row) = found.next().context("could not list the newest bans")? {
                let Some(made) = readable(Made::of(row), "ban") else { continue };
                asked += 1;
                wanted.extend(is_wanted(&made).then_some(row.get::<_, i64>(0)?));
            }
            Ok((asked, wanted))
        };
        let limit = u64::from(limit);
        let (count, in_force) = asked("serial, client, serial, since_ms FROM bans ORDER BY serial", limit)?;
        let (_, ended) = asked("id, client, serial, since_ms FROM history ORDER BY id", 2 * limit - count)?;
        let sql = format!(
            "SELECT {}, (SELECT json FROM evidence WHERE evidence.serial = bans.serial)
             FROM bans WHERE serial = ?1",
            rows::BAN_COLUMNS
        );
        let mut statement = self.connection.prepare(&sql)?;
        let mut bans = Vec::new();
        for serial in in_force {
            let mut found = statement.query([serial])?;
            let Some(row) = found.next().context("could not read one of the newest bans")? else { continue };
            let Some(ban) = readable(rows::record(row, &self.boots, now), "ban") else { continue };
            let evidence = readable(rows::json(row, rows::AFTER_BAN), "ban's evidence").flatten();
            bans.push(BanRecord { evidence: evidence.map(Box::new), ..ban });
        }
        for id in ended {
            bans.extend(self.ended("id = ?1", [Value::from(id)], 1)?.into_iter().map(EndedBan::into_record));
        }
        Ok(bans)
    }

    /// How many offences a client has, `None` when it has none.
    pub fn offences(&self, client: Client) -> Result<Option<OffenceCount>> {
        self.connection
            .prepare_cached("SELECT count, last_secs FROM offences WHERE client = ?1")?
            .query_row([client.to_string()], |row| {
                Ok(OffenceCount { count: row.get(0)?, last_secs: row.get(1)? })
            })
            .optional()
            .with_context(|| format!("could not look up the offences of {client}"))
    }

    /// Bans that ended, the last first, older than `before` (an [`EndedBan::id`]) when it is given.
    #[cfg(any(test, feature = "test-support"))]
    pub fn history(&self, before: Option<i64>, limit: u32) -> Result<Vec<EndedBan>> {
        self.ended("id < ?1", [Value::from(before.unwrap_or(i64::MAX))], limit)
    }

    /// One client's bans that ended, the last first.
    pub fn history_of(&self, client: Client, limit: u32) -> Result<Vec<EndedBan>> {
        self.ended("client = ?1", [Value::from(client.to_string())], limit)
    }

    fn ended(&self, condition: &str, value: [Value; 1], limit: u32) -> Result<Vec<EndedBan>> {
        let sql = format!(
            "SELECT id, client, serial, since_ms, lifted_ms, lift_reason, offence, rule, reason, evidence
             FROM history WHERE {condition} ORDER BY id DESC LIMIT {}",
            limit.min(MAX_PAGE)
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut found = statement.query(value)?;
        let mut ended = Vec::new();
        while let Some(row) = found.next().context("could not read the history")? {
            ended.extend(readable(ended_ban(row), "ended ban"));
        }
        Ok(ended)
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM bans {}", filter.sql(false));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows: i64 = statement.query_row(params_from_iter(&filter.values), |row| row.get(0))?;
        Ok(rows as u64)
    }
}

fn ended_ban(row: &Row<'_>) -> Result<EndedBan> {
    Ok(EndedBan {
        id: row.get(0)?,
        client: rows::client(row, 1)?,
        serial: row.get::<_, i64>(2)? as u64,
        since_ms: row.get(3)?,
        lifted_ms: row.get(4)?,
        lift_reason: rows::name(row, 5)?,
        offence: row.get(6)?,
        rule: rows::name(row, 7)?,
        reason: row.get(8)?,
        evidence: rows::json(row, 9)?,
    })
}

/// One row that cannot be read must not hide all others. The next start keeps a ban of that kind aside.
fn readable<T>(read: Result<T>, what: &str) -> Option<T> {
    read.inspect_err(|error| tracing::warn!("left out an unreadable {what}: {error:#}")).ok()
}

/// The audit log's head as the database in this folder remembers it, for a command beside the agent or without one.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub(crate) fn audit_head(settings: &Settings) -> Result<Option<AuditHead>> {
    let path = settings.file();
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(1))?;
        super::load::audit_head(&connection)
    };
    open().with_context(|| format!("could not read {}", path.display()))
}

/// The conditions of a query: SQL with placeholders for `values`. In SQLite a `+` before a column keeps its index unused.
struct Filter {
    search: Option<String>,
    rule: Option<&'static str>,
    site: Option<&'static str>,
    no_imported: bool,
    values: Vec<Value>,
}

/// Which bans [`Reader::bans`] would find, for bans that are not in the database.
pub(crate) struct Matcher {
    search: Option<(String, Vec<String>)>,
    rule: Option<Rule>,
    no_imported: bool,
}

impl Matcher {
    pub(crate) fn new(query: &BanQuery) -> Matcher {
        let search = query.search.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let search = search.map(str::to_ascii_lowercase).map(|text| {
            let holders = networks_over(&text);
            (text, holders)
        });
        Matcher { search, rule: query.rule, no_imported: query.no_imported }
    }

    pub(crate) fn matches(&self, client: Client, rule: Rule) -> bool {
        self.rule.is_none_or(|wanted| wanted == rule)
            && !(self.no_imported && rule.is_of_a_list())
            && self.search.as_ref().is_none_or(|(text, holders)| {
                let client = client.to_string();
                client.starts_with(text.as_str()) || holders.contains(&client)
            })
    }
}

impl Filter {
    fn new(query: &BanQuery) -> Filter {
        let mut values = Vec::new();
        let search = query.search.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(|text| {
            let text = text.to_ascii_lowercase();
            values.push(Value::from(text.clone()));
            values.push(Value::from(format!("{text}\u{7f}")));
            let holders = networks_over(&text);
            let places = vec!["?"; holders.len()].join(", ");
            values.extend(holders.into_iter().map(Value::from));
            let range = "COLUMN >= ? AND COLUMN < ?";
            if places.is_empty() { range.to_owned() } else { format!("({range} OR COLUMN IN ({places}))") }
        });
        let rule = query.rule.map(|rule| {
            values.push(Value::from(rule.name().to_owned()));
            "COLUMN = ?"
        });
        let site = query.site.as_ref().map(|site| {
            values.push(Value::from(site.clone()));
            "COLUMN IN (SELECT serial FROM ban_sites WHERE site = ?)"
        });
        Filter { search, rule, site, no_imported: query.no_imported, values }
    }

    /// The `WHERE` clause. With many matches it leaves the conditions' indices unused, so that SQLite uses the order's.
    fn sql(&self, many_matches: bool) -> String {
        let plus = if many_matches { "+" } else { "" };
        let search = self.search.as_ref().map(|text| text.replace("COLUMN", &format!("{plus}client")));
        let rule = self.rule.map(|text| text.replace("COLUMN", &format!("{plus}rule")));
        let site = self.site.map(|text| text.replace("COLUMN", &format!("{plus}serial")));
        let own = self.no_imported.then(|| {
            // Ranges of an index, which `<>` would not use.
            let mut lists: Vec<_> =
                Rule::ALL.into_iter().filter(|rule| rule.is_of_a_list()).map(Rule::name).collect();
            lists.sort_unstable();
            let first = lists.first().map(|name| format!("{plus}rule < '{name}'"));
            let last = lists.last().map(|name| format!("{plus}rule > '{name}'"));
            let between = lists.windows(2).map(|two| {
                let [after, before] = two else { unreachable!("windows of two") };
                format!("({plus}rule > '{after}' AND {plus}rule < '{before}')")
            });
            let ranges: Vec<String> = first.into_iter().chain(between).chain(last).collect();
            format!("({})", ranges.join(" OR "))
        });
        let all: Vec<String> = search.into_iter().chain(rule).chain(site).chain(own).collect();
        if all.is_empty() { String::new() } else { format!("WHERE {}", all.join(" AND ")) }
    }
}

/// Every network that contains the address, as clients are written; empty when `text` is not an address.
fn networks_over(text: &str) -> Vec<String> {
    let Ok(addr) = text.parse::<std::net::IpAddr>() else { return Vec::new() };
    let addr = addr.to_canonical();
    let longest = if addr.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|prefix| ipnet::IpNet::new(addr, prefix).ok())
        .map(|net| Client::of_network(net).to_string())
        .collect()
}
