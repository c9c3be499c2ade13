//! The page's `types.ts` from the OpenAPI document. The few forms of schema that the document has are translated; any
//! other is refused, so that no type becomes wider than it is.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const HEAD: &str = "\
// The types of `/api/v1`, generated from the agent's Rust types: do not edit. `cargo xtask api-types` renews this file.
";

/// Writing to a `String` does not fail.
macro_rules! put {
    ($text:expr, $($arguments:tt)*) => {
        write!($text, $($arguments)*).expect("writing to a String does not fail")
    };
}
/// The TypeScript types of every schema and operation of the document.
pub fn typescript(document: &Value) -> String {
    let mut text = HEAD.to_owned();
    put!(text, "\nexport const BASE = {};\n", document["servers"][0]["url"]);
    for (name, schema) in object(&document["components"]["schemas"]) {
        text.push('\n');
        text.push_str(&comment("", schema));
        match schema["properties"].as_object() {
            Some(properties) => put!(text, "export interface {name} {}\n", interface(schema, properties)),
            None => put!(text, "export type {name} = {};\n", type_of(schema)),
        }
    }
    operations(&mut text, document);
    text
}

/// The operations by method, so that the page's client can only ask for what there is.
fn operations(text: &mut String, document: &Value) {
    let mut reads = String::new();
    let mut changes = String::new();
    let mut streams = String::new();
    for (path, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            let content = &operation["responses"]["200"]["content"];
            let answer = || type_of(&content["application/json"]["schema"]);
            match method.as_str() {
                "post" => {
                    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                    let body =
                        if schema.is_null() { "Record<string, never>".to_owned() } else { type_of(schema) };
                    put!(changes, "  \"{path}\": {{ body: {body}; answer: {} }};\n", answer());
                }
                _ if content["text/event-stream"].is_object() => {
                    let messages = &content["text/event-stream"]["x-messages"];
                    let messages =
                        object(messages).map(|(name, schema)| format!("{name}: {}", type_of(schema)));
                    put!(streams, "  \"{path}\": {{ {} }};\n", messages.collect::<Vec<_>>().join("; "));
                }
                _ => put!(reads, "  \"{path}\": {{ query: {}; answer: {} }};\n", query(operation), answer()),
            }
        }
    }
    put!(text, "\n/** Reads: path to query and answer. */\nexport interface Reads {{\n{reads}}}\n");
    put!(text, "\n/** Changes: path to body and answer. */\nexport interface Changes {{\n{changes}}}\n");
    put!(
        text,
        "\n/** Streams: path to the data of each kind of message. */\nexport interface Streams {{\n{streams}}}\n"
    );
}

fn query(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let fields: Vec<String> = parameters
        .map(|parameter| {
            let mark = if parameter["required"] == true { "" } else { "?" };
            format!("{}{mark}: {}", string(&parameter["name"]), type_of(&parameter["schema"]))
        })
        .collect();
    if fields.is_empty() {
        "Record<string, never>".to_owned()
    } else {
        format!("{{ {} }}", fields.join("; "))
    }
}

fn interface(schema: &Value, properties: &Map<String, Value>) -> String {
    let mut text = "{\n".to_owned();
    for (name, property) in properties {
        text.push_str(&comment("  ", property));
        put!(text, "  {name}{}: {};\n", optional(schema, name), type_of(property));
    }
    text.push('}');
    text
}

fn optional(schema: &Value, name: &str) -> &'static str {
    let mut required = schema["required"].as_array().into_iter().flatten();
    if required.any(|required| required == name) { "" } else { "?" }
}

fn type_of(schema: &Value) -> String {
    if *schema == Value::Bool(true) {
        return "unknown".to_owned();
    }
    let all = |choices: &Value| {
        let choices = choices.as_array().into_iter().flatten();
        choices.map(type_of).collect::<Vec<_>>().join(" | ")
    };
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    for union in ["anyOf", "oneOf"] {
        if schema[union].is_array() {
            return all(&schema[union]);
        }
    }
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    match &schema["type"] {
        Value::String(name) => named(name, schema),
        Value::Array(names) => {
            names.iter().map(|name| named(string(name), schema)).collect::<Vec<_>>().join(" | ")
        }
        _ => panic!("no translation for {schema}"),
    }
}

fn named(name: &str, schema: &Value) -> String {
    match name {
        "string" | "boolean" | "null" => name.to_owned(),
        "number" | "integer" => "number".to_owned(),
        "array" => {
            let items = type_of(&schema["items"]);
            if items.contains(' ') { format!("({items})[]") } else { format!("{items}[]") }
        }
        "object" => match schema["properties"].as_object() {
            Some(properties) => {
                let field = |(name, property): (&String, &Value)| {
                    format!("{name}{}: {}", optional(schema, name), type_of(property))
                };
                format!("{{ {} }}", properties.iter().map(field).collect::<Vec<_>>().join("; "))
            }
            None => format!("Record<string, {}>", type_of(&schema["additionalProperties"])),
        },
        _ => panic!("no translation for {schema}"),
    }
}

fn comment(indent: &str, schema: &Value) -> String {
    let Some(text) = schema["description"].as_str() else { return String::new() };
    assert!(!text.contains("*/"), "{text}");
    format!("{indent}/** {} */\n", text.replace('\n', " "))
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().unwrap_or_else(|| panic!("{value} is not an object")).iter()
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_schema_has_its_type() {
        let check = |schema: Value, expected: &str| assert_eq!(type_of(&schema), expected, "{schema}");
        check(json!({"type": "integer", "minimum": 0}), "number");
        check(json!({"type": ["string", "null"]}), "string | null");
        check(json!({"$ref": "#/components/schemas/Ban"}), "Ban");
        check(json!({"anyOf": [{"$ref": "#/x/Ban"}, {"type": "null"}]}), "Ban | null");
        check(json!({"type": "array", "items": {"type": ["number", "null"]}}), "(number | null)[]");
        check(
            json!({"oneOf": [{"const": "a", "type": "string"}, {"enum": ["b", "c"]}]}),
            "\"a\" | \"b\" | \"c\"",
        );
        check(
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            "Record<string, number>",
        );
        check(json!({"type": "object", "additionalProperties": true}), "Record<string, unknown>");
        check(
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": true}, "required": ["a"]}),
            "{ a: string; b?: unknown }",
        );
    }

    #[test]
    #[should_panic(expected = "no translation")]
    fn an_unknown_form_is_refused() {
        type_of(&json!({"not": {"type": "string"}}));
    }
}
