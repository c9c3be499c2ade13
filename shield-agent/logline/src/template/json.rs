//! Formats whose lines are JSON objects: which variable stands under which name.

use serde_json::Value;

use super::conf::{self, Notation, Part};
use super::variable::{Class, REALIP, Take, Variable};
use super::{Escape, Missing, Unusable};
use crate::FieldNames;

/// Returns the names of the fields that Shield reads.
pub(crate) fn names(notation: &Notation) -> Result<FieldNames, Unusable> {
    let text = &notation.text;
    let object: Value = serde_json::from_str(&quoted(text)?).map_err(|_| Unusable::Json)?;
    if notation.escape == Escape::None
        && let Some(variable) = clients_text(text)?
    {
        return Err(Unusable::UnescapedJson { variable });
    }
    let mut leaves = Vec::new();
    collect(&object, "", &mut leaves);
    let named = |take: Take| {
        let role = |variable: &str| Variable::named(variable).role.filter(|(role, _)| *role == take);
        let ranked =
            leaves.iter().filter_map(|(name, variable)| role(variable).map(|(_, rank)| (rank, name)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, name)| name.clone())
    };
    let peer = leaves.iter().find(|(_, variable)| variable == REALIP).map(|(name, _)| name.clone());
    let (addr, forwarded) = (named(Take::Addr), named(Take::Forwarded));
    let lacks = |missing| Unusable::Lacks(missing);
    Ok(FieldNames {
        forwarded_for: forwarded.clone().filter(|_| addr.is_some()),
        peer: peer.filter(|name| Some(name) != addr.as_ref()),
        source_ip: Some(addr.or(forwarded).ok_or(lacks(Missing::Address))?),
        timestamp: Some(named(Take::Time).ok_or(lacks(Missing::Time))?),
        status: Some(named(Take::Status).ok_or(lacks(Missing::Status))?),
        method: named(Take::Method),
        path: path(&leaves),
        response_size: named(Take::Size),
        server_name: named(Take::Server),
    })
}

/// Returns the first variable whose text a client chooses.
fn clients_text(text: &str) -> Result<Option<String>, Unusable> {
    let variable = |part| match part {
        Part::Variable(name) => Some(name),
        Part::Literal(_) => None,
    };
    let is_clients = |name: &String| matches!(Variable::named(name).class, Class::Text | Class::Host);
    Ok(conf::parts(text)?.into_iter().filter_map(variable).find(is_clients))
}

/// `$request_uri`, else the whole request line, else what nginx made of it.
fn path(leaves: &[(String, String)]) -> Option<String> {
    let order = ["request_uri", "request", "uri", "document_uri"];
    order.iter().find_map(|wanted| {
        leaves.iter().find(|(_, variable)| variable == wanted).map(|(name, _)| name.clone())
    })
}

/// Puts variables that stand outside of quotes into quotes, so that the format itself is JSON.
fn quoted(text: &str) -> Result<String, Unusable> {
    let mut json = String::new();
    let mut is_inside = false;
    for part in conf::parts(text)? {
        match part {
            Part::Literal(text) => {
                is_inside ^= text.matches('"').count() % 2 == 1;
                json.push_str(&text);
            }
            Part::Variable(name) if is_inside => json.extend(["$", &name]),
            Part::Variable(name) => json.extend(["\"$", &name, "\""]),
        }
    }
    Ok(json)
}

/// Collects the names and variables of all values that are one variable, or a path with its arguments.
fn collect(value: &Value, name: &str, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                collect(value, &name, leaves);
            }
        }
        Value::String(text) => {
            let bare = text.strip_suffix("$is_args$args").or_else(|| text.strip_suffix("?$args"));
            let variable = bare.unwrap_or(text).strip_prefix('$');
            let is_name = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            leaves.extend(variable.filter(is_name).map(|variable| (name.to_owned(), variable.to_owned())));
        }
        _ => {}
    }
}
