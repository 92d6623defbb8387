//! The HTTP API as an OpenAPI document, generated from the code's types and problems. `docs/openapi.json` holds it:
//! after an intended change, `FAIRDROP_UPDATE=1` writes that file and the routes of `template.yaml` again.

mod routes;

use order_confirm::{Confirmed, MAX_PAGE, PaymentBody, SalesPage, ShopReservation};
use order_intake::AcceptedOrder;
use order_status::{ItemResponse, OrderResponse};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};
use shared::problem::{Problem, TYPE_PREFIX};
use shared::stamp::Stamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tests::code::{self, SourceFunction};

/// Who may call a route.
#[derive(Clone, Copy)]
enum Caller {
    Anybody,
    Buyer,
    Shop,
}

/// One operation.
struct Operation {
    method: &'static str,
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    caller: Caller,
    body: Option<Value>,
    /// The query's parameters: name, whether it is required, and schema.
    query: Vec<(&'static str, bool, Value)>,
    /// Status, what it means, and the schema of the body, where there is one.
    answers: Vec<(u16, &'static str, Option<Value>)>,
    /// The function that carries it out, and where in its code that begins.
    function: &'static str,
    begins: &'static [&'static str],
}

fn operations(schemas: &mut SchemaGenerator) -> Vec<Operation> {
    vec![
        Operation {
            method: "get",
            path: "/items/{item_id}",
            name: "getItem",
            summary: "Get an item on sale",
            caller: Caller::Anybody,
            body: None,
            query: Vec::new(),
            answers: vec![
                (200, "The item, at most two seconds old", Some(schema::<ItemResponse<'_>>(schemas))),
                (304, "Not modified since the ETag in If-None-Match", None),
            ],
            function: "order-status",
            begins: &["show_item"],
        },
        Operation {
            method: "post",
            path: "/items/{item_id}/orders",
            name: "placeOrder",
            summary: "Order one unit; the time at which the request reaches your region is your place in the queue",
            caller: Caller::Buyer,
            body: None,
            query: Vec::new(),
            answers: vec![
                (202, "Queued by this request", Some(schema::<AcceptedOrder>(schemas))),
                (
                    200,
                    "Queued by an earlier request, whose stamp counts",
                    Some(schema::<AcceptedOrder>(schemas)),
                ),
            ],
            function: "order-intake",
            begins: &["handle"],
        },
        Operation {
            method: "get",
            path: "/items/{item_id}/orders/me",
            name: "getMyOrder",
            summary: "Get the status of your order",
            caller: Caller::Buyer,
            body: None,
            query: Vec::new(),
            answers: vec![(200, "The status of the order", Some(schema::<OrderResponse<'_>>(schemas)))],
            function: "order-status",
            begins: &["show_order"],
        },
        Operation {
            method: "delete",
            path: "/items/{item_id}/orders/me",
            name: "leaveQueue",
            summary: "Leave the queue, or cancel a reservation",
            caller: Caller::Buyer,
            body: None,
            query: Vec::new(),
            answers: vec![
                (200, "You have left the queue", Some(schema::<OrderResponse<'_>>(schemas))),
                (202, "The reservation is being cancelled", Some(schema::<OrderResponse<'_>>(schemas))),
            ],
            function: "order-status",
            begins: &["leave"],
        },
        Operation {
            method: "post",
            path: "/items/{item_id}/payments",
            name: "confirmPayment",
            summary: "Send a payment notice for a buyer",
            caller: Caller::Shop,
            body: Some(schema::<PaymentBody>(schemas)),
            query: Vec::new(),
            answers: vec![(
                200,
                "The state of the reservation after the notice",
                Some(schema::<Confirmed>(schemas)),
            )],
            function: "order-confirm",
            begins: &["from_http", "apply"],
        },
        Operation {
            method: "get",
            path: "/items/{item_id}/reservations",
            name: "getReservation",
            summary: "Read one buyer's reservation from the ledger",
            caller: Caller::Shop,
            body: None,
            query: vec![(
                "user_token",
                true,
                json!({ "description": "The buyer", "type": "string", "minLength": 1, "maxLength": 255 }),
            )],
            answers: vec![(200, "The reservation, or its absence", Some(schema::<ShopReservation>(schemas)))],
            function: "order-confirm",
            begins: &["answer_read"],
        },
        Operation {
            method: "get",
            path: "/items/{item_id}/sales",
            name: "listSales",
            summary: "Read an item's sales from the ledger, in the order of their reservations",
            caller: Caller::Shop,
            body: None,
            query: vec![
                (
                    "limit",
                    false,
                    json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": MAX_PAGE }),
                ),
                ("after", false, json!({ "description": "The `next` of the page before", "type": "string" })),
            ],
            answers: vec![(200, "A page of sales", Some(schema::<SalesPage>(schemas)))],
            function: "order-confirm",
            begins: &["answer_read"],
        },
    ]
}

/// The problems that `operation` may answer with: those that the code constructs between its first function and
/// its answer.
fn problems(operation: &Operation) -> Vec<Problem> {
    let workspace = local::system::process::workspace();
    let folders = [
        (operation.function, workspace.join("functions").join(operation.function)),
        ("shared", workspace.join("shared")),
    ];
    let functions: Vec<SourceFunction> = folders
        .iter()
        .flat_map(|(package, folder)| code::functions(package, &folder.join("src")).unwrap())
        .collect();
    for name in operation.begins {
        let is_there = functions.iter().any(|one| one.package == operation.function && one.name == *name);
        assert!(is_there, "{} has no function {name}", operation.function);
    }
    let begins = |one: &SourceFunction| {
        one.package == operation.function && operation.begins.contains(&one.name.as_str())
    };
    let refuses = |from: &SourceFunction, to: &SourceFunction| {
        (to.package == from.package || to.package == "shared") && to.returns.contains("Problem")
    };
    let made: BTreeSet<&str> = code::reached(&functions, begins, refuses)
        .into_iter()
        .flat_map(|function| &function.makes)
        .filter_map(|made| made.strip_prefix("Problem::"))
        // A method that a path does not have belongs to no operation.
        .filter(|name| *name != "MethodNotAllowed")
        .collect();
    let known = Problem::one_of_each();
    let name = |problem: &Problem| {
        format!("{problem:?}").chars().take_while(char::is_ascii_alphanumeric).collect::<String>()
    };
    let named: Vec<Problem> =
        known.into_iter().filter(|problem| made.contains(name(problem).as_str())).collect();
    assert_eq!(named.len(), made.len(), "{made:?}: one of them is not in Problem::one_of_each");
    named
}

fn schema<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    serde_json::to_value(schemas.subschema_for::<T>()).unwrap()
}

fn described(operation: &Operation) -> Value {
    let mut answers = serde_json::Map::new();
    for (status, what, body) in &operation.answers {
        let mut answer = json!({ "description": what });
        if let Some(body) = body {
            answer["content"] = json!({ "application/json": { "schema": body } });
        }
        answers.insert(status.to_string(), answer);
    }
    let mut by_status: BTreeMap<u16, Vec<&Problem>> = BTreeMap::new();
    let problems = problems(operation);
    for problem in &problems {
        by_status.entry(problem.status().as_u16()).or_default().push(problem);
    }
    for (status, problems) in by_status {
        let types: Vec<String> =
            problems.iter().map(|problem| format!("{TYPE_PREFIX}{}", problem.slug())).collect();
        let titles: Vec<String> =
            problems.iter().map(|problem| problem.document()["title"].as_str().unwrap().to_owned()).collect();
        let waits = problems.iter().any(|problem| problem.retry_after_seconds().is_some());
        let mut answer = json!({
            "description": titles.join("; "),
            "content": { "application/problem+json": { "schema": { "allOf": [
                { "$ref": "#/components/schemas/Problem" },
                { "properties": { "type": { "enum": types } } },
            ] } } },
        });
        if waits {
            let seconds = json!({ "description": "Seconds to wait", "schema": { "type": "integer" } });
            answer["headers"] = json!({ "Retry-After": seconds });
        }
        answers.insert(status.to_string(), answer);
    }
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "security": match operation.caller {
            Caller::Anybody => json!([]),
            Caller::Buyer => json!([{ "accessToken": [] }]),
            Caller::Shop => json!([{ "awsSignature": [] }]),
        },
        "responses": answers,
    });
    if !operation.query.is_empty() {
        let parameter = |(name, required, schema): &(&str, bool, Value)| json!({ "name": name, "in": "query", "required": required, "schema": schema });
        described["parameters"] = operation.query.iter().map(parameter).collect();
    }
    if let Some(body) = &operation.body {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": body } } });
    }
    described
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let operations = operations(&mut schemas);
    let mut paths = serde_json::Map::new();
    let item_id = json!({
        "name": "item_id", "in": "path", "required": true,
        "schema": schema::<shared::item::ItemId>(&mut schemas),
    });
    for operation in &operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({ "parameters": [item_id] }));
        path[operation.method] = described(operation);
    }
    let mut definitions = schemas.take_definitions(true);
    definitions.insert(
        "Problem".into(),
        json!({
            "description": "A problem (RFC 9457). The type is stable; title and detail are for humans and may change.",
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "outcome": { "type": "string", "enum": ["not_queued", "unknown"] },
                "opens_at": schema::<Stamp>(&mut schemas),
            },
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fairdrop",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "First come, first served by the clock of the buyer's own region.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "accessToken": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "awsSignature": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "AWS Signature Version 4, with execute-api:Invoke on the route",
                },
            },
        },
    })
}

fn docs() -> PathBuf {
    local::system::process::workspace().join("docs")
}

#[test]
fn the_document_is_generated_from_the_code() {
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    let path = docs().join("openapi.json");
    if std::env::var_os("FAIRDROP_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        held == text,
        "docs/openapi.json differs from the code; if the change is intended, run with FAIRDROP_UPDATE=1"
    );
}

/// Problems that occur only on a socket: docs/LIVE.md documents them.
const OF_SOCKETS: [&str; 6] = [
    "bad-message",
    "bad-subprotocol",
    "not-connected",
    "too-many-connections",
    "too-many-messages",
    "too-many-subscriptions",
];

#[test]
fn every_problem_is_in_the_document() {
    let text = document().to_string();
    assert_eq!(
        Problem::one_of_each().len(),
        Problem::one_of_each().iter().map(Problem::slug).collect::<BTreeSet<_>>().len()
    );
    let sockets = std::fs::read_to_string(docs().join("LIVE.md")).unwrap();
    for slug in OF_SOCKETS {
        assert!(sockets.contains(&format!("`{slug}`")), "{slug} is not in docs/LIVE.md");
    }
    let page = std::fs::read_to_string(docs().join("PROBLEMS.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for slug in rows {
        // A method that a path does not have belongs to no operation, and the template configures no other event format.
        let of_no_operation = matches!(slug, "method-not-allowed" | "unsupported-event");
        let is_there = text.contains(&format!("\"{TYPE_PREFIX}{slug}\""));
        let is_elsewhere = of_no_operation || OF_SOCKETS.contains(&slug);
        assert!(is_there || is_elsewhere, "no operation answers with {slug}");
        assert!(
            Problem::one_of_each().iter().any(|problem| problem.slug() == slug),
            "{slug} is not in Problem::one_of_each"
        );
    }
}
