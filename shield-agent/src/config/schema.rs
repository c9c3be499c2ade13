//! The JSON schema of the configuration file, made from the types that read it.
//!
//! The types' comments are the descriptions. `[detect]` has no struct of its own: its keys, kinds and defaults are those of the
//! policy. What a schema cannot say (two keys that exclude each other) `check` says.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

use super::detect;
use super::raw::{Deferred, Listen, Network, RawConfig};
use super::span::{Span, TermSpan};
use shield_engine::policy::Policy;

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(RawConfig).to_value();
    schema["title"] = json!("Shield's configuration, /etc/shield/shield.toml");
    schema
}

/// `[detect]`, from the policy by default.
pub(super) fn detect_section(_: &mut SchemaGenerator) -> Schema {
    let written = detect::written("default", &Policy::default()).expect("the built-in policy is a table");
    let defaults = serde_json::to_value(written).expect("a table is JSON");
    Schema::try_from(of_value("", &defaults)).expect("an object is a schema")
}

/// The keys that take one of a few words.
const WORDS: [(&str, &[&str]); 4] = [
    ("profile", &["default", "classic"]),
    ("reference", &["adaptive", "classic"]),
    ("switch", &["on", "off"]),
    ("mode", &["enforce", "observe"]),
];

/// What may stand in the place of a default: a value of the same kind.
fn of_value(name: &str, default: &Value) -> Value {
    let words = WORDS.iter().find(|(key, _)| *key == name);
    match default {
        Value::Object(keys) => {
            let properties: Map<String, Value> =
                keys.iter().map(|(key, value)| (key.clone(), of_value(key, value))).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Value::Array(_) if name == "not_errors" => {
            json!({ "type": "array", "items": { "type": "integer" }, "default": default })
        }
        Value::Array(_) => json!({ "type": "array", "items": { "type": "string" }, "default": default }),
        Value::String(_) => match words {
            Some((_, words)) => json!({ "enum": words, "default": default }),
            None => json!({ "type": "string", "default": default }),
        },
        Value::Number(number) if number.is_f64() => json!({ "type": "number", "default": default }),
        Value::Number(_) => json!({ "type": "integer", "minimum": 0, "default": default }),
        _ => json!({ "default": default }),
    }
}

macro_rules! written_as {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

written_as!(
    Span,
    "Span",
    json_schema!({
        "description": "A span of time such as \"90s\", \"10m\" or \"1d 12h\", or a number of seconds.",
        "type": ["string", "integer"],
        "minimum": 0
    })
);
written_as!(
    TermSpan,
    "Term",
    json_schema!({
        "description": "A span of time such as \"10m\", a number of seconds, or \"permanent\".",
        "type": ["string", "integer"],
        "minimum": 0
    })
);
written_as!(
    Network,
    "Network",
    json_schema!({ "description": "An address, or a network such as 192.0.2.0/24.", "type": "string" })
);
written_as!(
    Listen,
    "Listen",
    json_schema!({ "description": "An address and a port, such as 127.0.0.1:8080 or [::1]:8080.", "type": "string" })
);

impl<T: JsonSchema> JsonSchema for Deferred<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}
