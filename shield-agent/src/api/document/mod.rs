//! `docs/openapi.json` and the page's `types.ts`, made from the operations and from the Rust types with their doc
//! comments. Only for tests: `shield-agent/tests/api_document.rs` holds the files in the tree against this.

mod typescript;

use axum::http::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::operation::{BASE, Operation};
use super::routes::{BansParams, ClientsParams, ExplainParams, ExportParams, HistoryParams, RecentParams};
use super::types::{
    AllowList, AllowRequest, BanPage, BanRequest, CanaryReport, CanaryRequest, ChangeRecord, ClientList,
    ConfigView, DisallowRequest, ErrorBody, ErrorCode, EventList, EventView, Explanation, FleetView, Gap,
    HistoryView, ImportRequest, LabList, Labels, OriginRequest, PauseReport, PauseRequest, Promotion,
    PromotionRequest, ReloadReport, ResumeReport, ResumeRequest, SiteList, Snapshot, Status, UnbanRequest,
    Whoami,
};
use crate::edge::format::Item;
use shield_engine::action::Reply;

pub use typescript::typescript;

const DESCRIPTION: &str = "Served on the Unix control socket, to root and to members of the group shield (checked by peer \
    credentials), and on TCP for the page (127.0.0.1:8080 unless configured otherwise). On TCP, changes need the bearer \
    token; reads need it only if the agent listens beyond loopback. Times are milliseconds since the Unix epoch unless \
    the name says otherwise, rates are per second. Within v1 fields are only ever added: ignore those you do not know. \
    Every refusal is an Error.";

const EVENTS: &str = "Server-sent events of three kinds. `event: notice`, with an `id:`, carries an Event. `event: \
    snapshot`, without an id, carries a Snapshot: one at once, then one a second. `event: gap` carries a Gap: the stream \
    was too slow or resumed too late, so fetch /events/recent. Send `Last-Event-ID` to resume. EventSource cannot send a \
    token: where reads need one, read the stream with fetch.";

const EXPORT: &str = "The whole list, for programs that poll it: `plain` has an address or network a line, `haproxy-map` the same \
    with ` 1` behind each, `cloudflare` is JSON. In the first two `#` begins a comment. Banned networks with an exempt address \
    inside are left out, and so is in `cloudflare` what its lists cannot hold. Send the `ETag` as `If-None-Match`: 304 while \
    nothing changed, which costs next to nothing.";

/// What the table of operations does not say.
struct Details {
    summary: &'static str,
    description: Option<&'static str>,
    parameters: Vec<Value>,
    body: Option<Schema>,
    answer: Value,
    refusals: &'static [ErrorCode],
}

const READ: &[ErrorCode] = &[
    ErrorCode::BadRequest,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::Timeout,
    ErrorCode::WrongHost,
    ErrorCode::Internal,
    ErrorCode::Overloaded,
];
const CHANGE: &[ErrorCode] = &[
    ErrorCode::BadRequest,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::Timeout,
    ErrorCode::TooLarge,
    ErrorCode::WrongHost,
    ErrorCode::Internal,
    ErrorCode::Overloaded,
];
const STREAM: &[ErrorCode] =
    &[ErrorCode::Unauthorized, ErrorCode::Forbidden, ErrorCode::WrongHost, ErrorCode::TooManyStreams];

/// The OpenAPI 3.1 document of `/api/v1`.
pub fn openapi() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for operation in Operation::ALL {
        let entry = describe(operation, &mut schemas);
        let path = paths.entry(operation.path()).or_insert_with(|| json!({}));
        path[operation.method().as_str().to_lowercase()] = entry;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Shield agent API", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": BASE}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Made at the first start, in `api-token` in the state directory (mode 0600).",
            }},
            "schemas": schemas.into_definitions(),
        },
    })
}

/// Answers are described as they are written and requests as they are read: a field with a default is always there in
/// an answer, and may be left out of a request.
struct Schemas {
    written: SchemaGenerator,
    read: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings
        };
        Schemas {
            written: settings().for_serialize().into_generator(),
            read: settings().for_deserialize().into_generator(),
        }
    }

    fn answer<T: JsonSchema>(&mut self) -> Value {
        json!({"application/json": {"schema": self.written.subschema_for::<T>()}})
    }

    fn body<T: JsonSchema>(&mut self) -> Option<Schema> {
        Some(self.read.subschema_for::<T>())
    }

    fn parameters<T: JsonSchema>(&mut self) -> Vec<Value> {
        let schema = T::json_schema(&mut self.read);
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let parameter = |(name, schema): (&String, &Value)| {
            let mut schema = without_null(schema);
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            json!({"name": name, "in": "query", "required": required.contains(&name.as_str()),
                "description": description, "schema": schema})
        };
        properties.map(parameter).collect()
    }

    fn into_definitions(mut self) -> Map<String, Value> {
        let mut all = self.written.take_definitions(true);
        for (name, read) in self.read.take_definitions(true) {
            let written = all.entry(name).or_insert_with(|| read.clone());
            assert_eq!(*written, read, "a type that is read and written has one description");
        }
        all
    }
}

/// An optional query parameter is left out, never null.
fn without_null(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(types) = schema["type"].as_array() {
        let types: Vec<&Value> = types.iter().filter(|name| *name != "null").collect();
        schema["type"] = json!(types[0]);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut chosen = choices.iter().find(|choice| choice["type"] != "null").cloned().unwrap_or_default();
        chosen["description"] = schema["description"].take();
        return chosen;
    }
    schema
}

fn describe(operation: Operation, schemas: &mut Schemas) -> Value {
    let details = details(operation, schemas);
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "Success.", "content": details.answer}));
    for code in details.refusals {
        let refusal = json!({"description": description(*code), "content": schemas.answer::<ErrorBody>()});
        responses.insert(code.status().as_str().to_owned(), refusal);
    }
    if operation == Operation::Export {
        responses
            .insert("304".into(), json!({"description": "Nothing changed since the tag that was sent."}));
    }
    let mut entry = json!({
        "operationId": format!("{operation:?}"),
        "summary": details.summary,
        "responses": responses,
    });
    if let Some(description) = details.description {
        entry["description"] = json!(description);
    }
    if !details.parameters.is_empty() {
        entry["parameters"] = json!(details.parameters);
    }
    if operation.method() == Method::POST {
        entry["security"] = json!([{"token": []}]);
    }
    if let Some(schema) = details.body {
        entry["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    entry
}

fn details(operation: Operation, schemas: &mut Schemas) -> Details {
    let read = |summary, answer| Details {
        summary,
        description: None,
        parameters: Vec::new(),
        body: None,
        answer,
        refusals: READ,
    };
    let change = |summary, body, answer| Details {
        summary,
        description: Some("200 even if single clients were refused: look at each `ok`."),
        parameters: Vec::new(),
        body,
        answer,
        refusals: CHANGE,
    };
    match operation {
        Operation::Whoami => read("The caller's permissions.", schemas.answer::<Whoami>()),
        Operation::Status => read("The state of the agent.", schemas.answer::<Status>()),
        Operation::Bans => Details {
            parameters: schemas.parameters::<BansParams>(),
            ..read("Bans in force: filtered, sorted, in pages.", schemas.answer::<BanPage>())
        },
        Operation::Export => Details {
            description: Some(EXPORT),
            parameters: schemas.parameters::<ExportParams>(),
            ..read("Bans in force, as a list for other programs.", list_for_others(schemas))
        },
        Operation::Ban => {
            change("Ban clients or networks.", schemas.body::<BanRequest>(), schemas.answer::<Reply>())
        }
        Operation::Unban => change("Lift bans.", schemas.body::<UnbanRequest>(), schemas.answer::<Reply>()),
        Operation::Import => change(
            "Ban a list, each for its own term.",
            schemas.body::<ImportRequest>(),
            schemas.answer::<Reply>(),
        ),
        Operation::Allowlist => {
            read("The allowlist, with the reason for each entry.", schemas.answer::<AllowList>())
        }
        Operation::Allow => change(
            "Put networks on the allowlist; lifts the bans inside them.",
            schemas.body::<AllowRequest>(),
            schemas.answer::<Reply>(),
        ),
        Operation::Disallow => change(
            "Take an operator's entries off the allowlist.",
            schemas.body::<DisallowRequest>(),
            schemas.answer::<Reply>(),
        ),
        Operation::Pause => change(
            "Pause automatic bans: rules ban and slow nobody. Bans in force stay.",
            schemas.body::<PauseRequest>(),
            schemas.answer::<PauseReport>(),
        ),
        Operation::Resume => change(
            "End a pause of automatic bans, or a stop by the blast-radius limit; who was let through is banned.",
            schemas.body::<ResumeRequest>(),
            schemas.answer::<ResumeReport>(),
        ),
        Operation::Reload => Details {
            description: Some(
                "Only over the control socket. 200 also if the file is refused: look at `outcome`. No body is needed.",
            ),
            ..change("Load the configuration again.", None, schemas.answer::<ReloadReport>())
        },
        Operation::Canary => read("What the canary found.", schemas.answer::<CanaryReport>()),
        Operation::CanaryStart => Details {
            description: Some(CANARY),
            ..change(
                "Start a canary: a second engine with another configuration, without effects.",
                schemas.body::<CanaryRequest>(),
                schemas.answer::<CanaryReport>(),
            )
        },
        Operation::CanaryAbort => Details {
            description: Some(CANARY),
            ..change("End the canary.", None, schemas.answer::<CanaryReport>())
        },
        Operation::CanaryPromote => Details {
            description: Some(CANARY),
            ..change(
                "Ask whether the canary's configuration may be put in force. Changes nothing.",
                schemas.body::<PromotionRequest>(),
                schemas.answer::<Promotion>(),
            )
        },
        Operation::Record => Details {
            description: Some("Over the control socket only. It becomes an event of the kind `change`."),
            ..change(
                "Put a change of this host on record: an upgrade, a promotion.",
                schemas.body::<ChangeRecord>(),
                schemas.answer::<ChangeRecord>(),
            )
        },
        Operation::Labels => {
            read("Display names of rules, baseline sources and parts.", schemas.answer::<Labels>())
        }
        Operation::Clients => Details {
            parameters: schemas.parameters::<ClientsParams>(),
            ..read("The busiest clients over the window.", schemas.answer::<ClientList>())
        },
        Operation::Sites => read("Requests, bans and attackers by site.", schemas.answer::<SiteList>()),
        Operation::Labs => read("The environments for rehearsals on this host.", schemas.answer::<LabList>()),
        Operation::Explain => Details {
            parameters: schemas.parameters::<ExplainParams>(),
            ..read("The reason why a client is banned, or why it is not.", schemas.answer::<Explanation>())
        },
        Operation::Events => Details {
            description: Some(EVENTS),
            parameters: vec![json!({"name": "Last-Event-ID", "in": "header", "required": false,
                "description": "The id of the last event seen.", "schema": {"type": "string"}})],
            refusals: STREAM,
            ..read("The live event stream.", event_stream(schemas))
        },
        Operation::RecentEvents => Details {
            parameters: schemas.parameters::<RecentParams>(),
            ..read("Recent events, newest first.", schemas.answer::<EventList>())
        },
        Operation::History => Details {
            parameters: schemas.parameters::<HistoryParams>(),
            ..read("Time series for the plots.", schemas.answer::<HistoryView>())
        },
        Operation::Fleet => {
            read("The fleet, and its other hosts as this one sees them.", schemas.answer::<FleetView>())
        }
        Operation::ForgetOrigin => change(
            "Lift all that another host wanted, and believe it no more.",
            schemas.body::<OriginRequest>(),
            schemas.answer::<Reply>(),
        ),
        Operation::TrustOrigin => {
            change("Believe another host again.", schemas.body::<OriginRequest>(), schemas.answer::<Reply>())
        }
        Operation::Config => {
            read("The configuration in force, without secrets.", schemas.answer::<ConfigView>())
        }
    }
}

const CANARY: &str = "Only over the control socket.";

fn list_for_others(schemas: &mut Schemas) -> Value {
    let mut answer = schemas.answer::<Vec<Item>>();
    answer["text/plain"] = json!({"schema": {"type": "string"}});
    answer
}

/// OpenAPI cannot describe the messages of a stream: `x-messages` does, for the page's types and for readers.
fn event_stream(schemas: &mut Schemas) -> Value {
    json!({"text/event-stream": {
        "schema": {"type": "string"},
        "x-messages": {
            "notice": schemas.written.subschema_for::<EventView>(),
            "snapshot": schemas.written.subschema_for::<Snapshot>(),
            "gap": schemas.written.subschema_for::<Gap>(),
        },
    }})
}

/// The doc comment of a code, which its schema carries.
fn description(code: ErrorCode) -> String {
    let schema = schemars::schema_for!(ErrorCode);
    let choices = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let own = choices.into_iter().find(|choice| choice["const"] == code.name());
    own.and_then(|choice| choice["description"].as_str()).expect("every code has a doc comment").to_owned()
}
