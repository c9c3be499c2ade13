//! Checks requests and answers against `docs/openapi.json`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn load() -> Document {
        let text = include_str!("../../../docs/openapi.json");
        let mut document: Value = serde_json::from_str(text).expect("the document is JSON");
        refuse_unknown_fields(&mut document["components"]["schemas"]);
        Document(document)
    }

    /// Every (path, method) of the document.
    pub(crate) fn operations(&self) -> BTreeSet<(&str, &str)> {
        let paths = self.0["paths"].as_object().unwrap();
        let methods = |path| self.0["paths"][path].as_object().unwrap().keys().map(String::as_str);
        paths.keys().flat_map(|path| methods(path).map(move |method| (path.as_str(), method))).collect()
    }

    /// `value` against a named schema.
    pub(crate) fn check(&self, schema: &str, value: &Value) {
        self.check_against(&json!({"$ref": format!("#/components/schemas/{schema}")}), value, schema);
    }

    /// A body against what the operation takes.
    pub(crate) fn check_request(&self, path: &str, method: &str, body: Option<&Value>) {
        let schema = self.0["paths"][path][method].pointer("/requestBody/content/application~1json/schema");
        match (schema, body) {
            (Some(schema), Some(body)) => {
                self.check_against(schema, body, &format!("body of {method} {path}"));
            }
            (None, None) => {}
            (schema, body) => panic!("{method} {path}: schema {schema:?}, body {body:?}"),
        }
    }

    /// An answer against what the operation gives with this status.
    pub(crate) fn check_answer(&self, path: &str, method: &str, status: u16, answer: &Value) {
        let pointer = format!("/responses/{status}/content/application~1json/schema");
        let schema = self.0["paths"][path][method].pointer(&pointer);
        let schema = schema.unwrap_or_else(|| panic!("{method} {path} does not describe status {status}"));
        self.check_against(schema, answer, &format!("{status} of {method} {path}"));
    }

    fn check_against(&self, schema: &Value, value: &Value, what: &str) {
        let mut whole = schema.clone();
        whole["components"] = self.0["components"].clone();
        let validator = jsonschema::draft202012::new(&whole).expect("the schema is sound");
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{value:#}");
    }
}

/// The document lets clients expect new fields in answers; in a test a field that it does not describe is a fault.
fn refuse_unknown_fields(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object) && fields.contains_key("type") {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            fields.values_mut().for_each(refuse_unknown_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_unknown_fields),
        _ => {}
    }
}
