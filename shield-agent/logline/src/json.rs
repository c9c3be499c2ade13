//! The strict reader of JSON lines, by serde_json. It defines the meaning of a JSON line for the other readers.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::fields::{RawFields, Value};
use super::names::{Gather, Names};
use super::walk::ITEM;

/// Reads the fields of a line; `None` unless it is one valid JSON object whose fields can be trusted, see
/// [`Gather::into_trusted`].
pub(crate) fn read<'a>(line: &'a [u8], names: &Names) -> Option<RawFields<'a>> {
    let mut gather = Gather::new(names);
    walk(line, &mut |path, value| gather.take(path, value))?;
    gather.into_trusted()
}

/// Returns everything in a line by its path; `None` when it is not one valid JSON object.
pub(crate) fn values(line: &[u8]) -> Option<Vec<(Vec<u8>, Value<'_>)>> {
    let mut all = Vec::new();
    walk(line, &mut |path, value| all.push((path.to_vec(), value)))?;
    Some(all)
}

/// Calls `take` with the path and value of each text, number and word of a line.
fn walk<'a>(line: &'a [u8], take: &mut dyn FnMut(&[u8], Value<'a>)) -> Option<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let mut path = Vec::new();
    deserializer.deserialize_map(ObjectVisitor { path: &mut path, take }).ok()?;
    deserializer.end().ok()
}

/// Visits one object, whose own path is `path`.
struct ObjectVisitor<'w, 'a> {
    path: &'w mut Vec<u8>,
    take: &'w mut dyn FnMut(&[u8], Value<'a>),
}

impl<'de> Visitor<'de> for ObjectVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log line as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let outer = self.path.len();
        while map.next_key_seed(NameSeed(self.path))?.is_some() {
            map.next_value_seed(ValueSeed { path: self.path, take: self.take })?;
            self.path.truncate(outer);
        }
        Ok(())
    }
}

/// Appends a name to the path.
struct NameSeed<'w>(&'w mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        if !self.0.is_empty() {
            self.0.push(b'.');
        }
        self.0.extend_from_slice(name.as_bytes());
        Ok(())
    }
}

/// Visits any value, whose path is `path`.
struct ValueSeed<'w, 'a> {
    path: &'w mut Vec<u8>,
    take: &'w mut dyn FnMut(&[u8], Value<'a>),
}

impl<'a> ValueSeed<'_, 'a> {
    fn found<E>(self, value: Value<'a>) -> Result<(), E> {
        (self.take)(self.path, value);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.found(Value::Text(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.found(Value::Text(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.found(Value::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.found(Value::Decimal(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.found(Value::Decimal(number))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.found(Value::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.found(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let outer = self.path.len();
        self.path.push(b'.');
        self.path.extend_from_slice(ITEM);
        while items.next_element_seed(ValueSeed { path: self.path, take: self.take })?.is_some() {}
        self.path.truncate(outer);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        ObjectVisitor { path: self.path, take: self.take }.visit_map(map)
    }
}
