//! Rows that cannot be read. One of them once ended every start: now it is left out, named, and kept aside in the table
//! `unreadable` as the SQL statement that would put it back, so that neither the rest of the bans nor the row is lost.

use anyhow::{Context, Result};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params_from_iter};

use crate::text::plural;
use shield_engine::time::Now;

/// Rows that one start names and keeps aside. Further ones stay where they are, left out, until the next start.
const AT_ONCE: usize = 1_000;

/// Rows that are described in a sentence.
const SHOWN: usize = 3;

/// A table whose rows may be kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Bans,
    Offences,
    Allowed,
    Checkpoints,
    Singles,
    Remote,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Bans => "bans",
            Table::Offences => "offences",
            Table::Allowed => "allowed",
            Table::Checkpoints => "checkpoints",
            Table::Singles => "singles",
            Table::Remote => "remote",
        }
    }

    /// What a row is to an operator.
    fn row(self) -> &'static str {
        match self {
            Table::Bans => "ban",
            Table::Offences => "client's offences",
            Table::Allowed => "entry of the allowlist",
            Table::Checkpoints => "position in a log",
            Table::Singles => "stored value",
            Table::Remote => "ban of another host",
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Table::Bans => &[
                "serial",
                "client",
                "since_ms",
                "boot",
                "end_boot_ms",
                "end_sort_ms",
                "offence",
                "rule",
                "reason",
            ],
            Table::Offences => &["client", "count", "last_secs"],
            Table::Allowed => &["network", "reason", "note", "until_ms"],
            Table::Checkpoints => &["source", "position"],
            Table::Singles => &["name", "value"],
            Table::Remote => &["origin", "client", "entry"],
        }
    }

    fn key(self) -> &'static [&'static str] {
        match self {
            Table::Bans => &["serial"],
            Table::Offences => &["client"],
            Table::Allowed => &["network", "reason"],
            Table::Checkpoints => &["source"],
            Table::Singles => &["name"],
            Table::Remote => &["origin", "client"],
        }
    }
}

#[derive(Debug)]
struct Row {
    table: Table,
    key: Vec<Value>,
    why: String,
}

/// The rows that a start could not read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    rows: Vec<Row>,
    /// Those beyond [`AT_ONCE`] too.
    count: u64,
}

impl Unreadable {
    pub(super) fn add(&mut self, table: Table, key: Vec<Value>, error: &anyhow::Error) {
        self.count += 1;
        if self.rows.len() < AT_ONCE {
            self.rows.push(Row { table, key, why: shown_once(error) });
        }
    }

    /// Moves the rows to the table `unreadable` and returns a sentence about them, `None` when there are none.
    ///
    /// They are left out whether or not that succeeds: on a full disk they stay where they are.
    pub(super) fn keep_aside(self, connection: &mut Connection, now: Now) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let kept = match self.move_all(connection, now) {
            Ok(()) => "kept in its table `unreadable`".to_owned(),
            Err(error) => format!("left where they are ({error:#})"),
        };
        let described = |row: &Row| {
            let key = row.key.iter().map(shown).collect::<Vec<_>>().join(", ");
            format!("{} {key}: {}", row.table.row(), row.why)
        };
        let named: Vec<String> = self.rows.iter().take(SHOWN).map(described).collect();
        let more = self.count - named.len() as u64;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Some(format!(
            "{} of the database could not be read, {kept}: {}{more}; the rest is restored",
            plural(self.count, "row", "rows"),
            named.join("; ")
        ))
    }

    fn move_all(&self, connection: &mut Connection, now: Now) -> Result<()> {
        let tx = connection.transaction()?;
        for row in &self.rows {
            move_row(&tx, row, now)?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn move_row(tx: &Connection, row: &Row, now: Now) -> Result<()> {
    let (table, columns) = (row.table.name(), row.table.columns());
    let condition = condition(row);
    let values: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
    // The key's parameters come first, so that both statements number them alike.
    let (at, why) = (row.key.len() + 1, row.key.len() + 2);
    let copy = format!(
        "INSERT INTO unreadable (at_ms, why, statement)
         SELECT ?{at}, ?{why}, 'INSERT INTO {table} ({}) VALUES (' || {} || ')' FROM {table} WHERE {condition}",
        columns.join(", "),
        values.join(" || ', ' || "),
    );
    let more = [Value::from(now.wall_ms), Value::from(row.why.clone())];
    let context = || format!("could not keep a row of {table} aside");
    tx.execute(&copy, params_from_iter(row.key.iter().chain(&more))).with_context(context)?;
    let delete = format!("DELETE FROM {table} WHERE {condition}");
    tx.execute(&delete, params_from_iter(&row.key)).with_context(context)?;
    Ok(())
}

/// Finds the row by its key. A key that is no text, or text that is no UTF-8, is compared byte by byte, without the index.
fn condition(row: &Row) -> String {
    let columns = row.table.key().iter().zip(&row.key).enumerate();
    let each = columns.map(|(at, (column, value))| match value {
        Value::Blob(_) => format!("CAST({column} AS BLOB) IS ?{}", at + 1),
        _ => format!("{column} IS ?{}", at + 1),
    });
    each.collect::<Vec<_>>().join(" AND ")
}

/// A column of a row's key.
pub(super) fn key(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(bytes.to_owned()),
        },
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
    })
}

fn shown_once(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => crate::text::printable(text),
        Value::Blob(bytes) => plural(bytes.len() as u64, "byte", "bytes"),
    }
}
