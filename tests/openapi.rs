//! The HTTP API as an OpenAPI document, made from the code's own types and problems. It is held by
//! `docs/openapi.json`: after a change on purpose, `FAIRDROP_UPDATE=1` writes that anew.

use order_confirm::{Confirmed, PaymentBody};
use order_intake::Accepted;
use order_status::{ItemPage, OrderPage};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};
use shared::problem::{Problem, TYPE_PREFIX};
use shared::stamp::Stamp;
use shared::token::TokenError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tests::template;

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
    /// Status, what it means, and the schema of the body, where there is one.
    answers: Vec<(u16, &'static str, Option<Value>)>,
    problems: Vec<Problem>,
}

fn moment(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

fn of_buyers() -> Vec<Problem> {
    vec![Problem::BadItemId, Problem::NoToken, Problem::BadToken(TokenError::Expired), Problem::NoSuchItem]
}

fn operations(schemas: &mut SchemaGenerator) -> Vec<Operation> {
    let not_open = Problem::NotOpenYet { opens_at: moment(1), placed_at: moment(0) };
    let mut place = of_buyers();
    place.extend([
        Problem::BadBody,
        Problem::BodyTooLarge { limit_bytes: 4_096 },
        Problem::AlreadyReserved,
        Problem::AlreadySold,
        not_open,
        Problem::Closed,
        Problem::SoldOut,
        Problem::MainUnreachable,
        Problem::OutcomeUnknown,
        Problem::TooLate,
        Problem::ClockAhead,
        Problem::ClockOff,
        Problem::Internal,
    ]);
    let mut read = of_buyers();
    read.extend([Problem::StatusUnavailable, Problem::Internal]);
    let mut leave = read.clone();
    leave.extend([Problem::NoOrder, Problem::AlreadyReserved, Problem::AlreadySold, Problem::OutcomeUnknown]);
    vec![
        Operation {
            method: "get",
            path: "/items/{item_id}",
            name: "getItem",
            summary: "What is on sale",
            caller: Caller::Anybody,
            body: None,
            answers: vec![
                (200, "The item, at most two seconds old", Some(schema::<ItemPage<'_>>(schemas))),
                (304, "You have it already (If-None-Match)", None),
            ],
            problems: vec![
                Problem::BadItemId,
                Problem::NoSuchItem,
                Problem::StatusUnavailable,
                Problem::Internal,
            ],
        },
        Operation {
            method: "post",
            path: "/items/{item_id}/orders",
            name: "placeOrder",
            summary: "Order one unit; your place in line is the moment at which this reached your region",
            caller: Caller::Buyer,
            body: None,
            answers: vec![
                (202, "Queued by this request", Some(schema::<Accepted>(schemas))),
                (200, "Queued by an earlier request, whose stamp counts", Some(schema::<Accepted>(schemas))),
            ],
            problems: place,
        },
        Operation {
            method: "get",
            path: "/items/{item_id}/orders/me",
            name: "getMyOrder",
            summary: "What has become of your order",
            caller: Caller::Buyer,
            body: None,
            answers: vec![(200, "How it stands", Some(schema::<OrderPage<'_>>(schemas)))],
            problems: read,
        },
        Operation {
            method: "delete",
            path: "/items/{item_id}/orders/me",
            name: "leaveQueue",
            summary: "Leave the queue, or give a reservation back",
            caller: Caller::Buyer,
            body: None,
            answers: vec![
                (200, "You have left the queue", Some(schema::<OrderPage<'_>>(schemas))),
                (202, "The unit is being given back", Some(schema::<OrderPage<'_>>(schemas))),
            ],
            problems: leave,
        },
        Operation {
            method: "post",
            path: "/items/{item_id}/payments",
            name: "confirmPayment",
            summary: "Say what became of a buyer's payment",
            caller: Caller::Shop,
            body: Some(schema::<PaymentBody>(schemas)),
            answers: vec![(200, "How the reservation stands now", Some(schema::<Confirmed>(schemas)))],
            problems: vec![
                Problem::BadItemId,
                Problem::BadPayment,
                Problem::NoSuchItem,
                Problem::NoReservation,
                Problem::ReservationEnded,
                Problem::PaidOtherwise,
                Problem::PaymentUsed,
                Problem::AlreadyExtended,
                Problem::NotRecordedYet,
                Problem::LedgerAway,
                Problem::StatusUnavailable,
                Problem::Internal,
            ],
        },
    ]
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
    for problem in &operation.problems {
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
            "description": "A refusal (RFC 9457). Its type is stable; title and detail are for people.",
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
    local::process::workspace().join("docs")
}

#[test]
fn the_document_is_the_code_s() {
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    let path = docs().join("openapi.json");
    if std::env::var_os("FAIRDROP_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        held == text,
        "docs/openapi.json is not what the code says; look at it, then run with FAIRDROP_UPDATE=1"
    );
}

/// Problems that are met on a socket alone: docs/LIVE.md is their document.
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
    let sockets = std::fs::read_to_string(docs().join("LIVE.md")).unwrap();
    for slug in OF_SOCKETS {
        assert!(sockets.contains(&format!("`{slug}`")), "{slug} is not in docs/LIVE.md");
    }
    let page = std::fs::read_to_string(docs().join("PROBLEMS.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for slug in rows {
        // A method that a path has not is no operation of it.
        let is_there = text.contains(&format!("\"{TYPE_PREFIX}{slug}\""));
        let is_elsewhere = slug == "method-not-allowed" || OF_SOCKETS.contains(&slug);
        assert!(is_there || is_elsewhere, "{slug} is the problem of no operation");
    }
}

/// Each operation has the route that lets it in, and the callers whom the document says.
#[test]
fn the_template_s_routes_are_the_document_s() {
    let document = document();
    let template = template::read().unwrap();
    let resources = template::resources(&template);
    let mut routes = BTreeMap::new();
    let is_route = |text: &&String| {
        text.contains("Type: AWS::ApiGatewayV2::Route\n") && text.contains("!Ref OrdersApi\n")
    };
    for text in resources.values().filter(is_route) {
        let key = text.split("RouteKey: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let caller = text.split("AuthorizationType: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        routes.insert(key.to_owned(), caller.to_owned());
    }
    let mut used = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let exact = format!("{} {path}", method.to_uppercase());
            let key = if routes.contains_key(&exact) { exact } else { format!("ANY {path}") };
            let expected = match operation["security"].to_string().as_str() {
                "[]" => "NONE",
                security if security.contains("awsSignature") => "AWS_IAM",
                _ => "!If [HasJwt, JWT, NONE]",
            };
            assert_eq!(routes.get(&key).map(String::as_str), Some(expected), "{method} {path}");
            used.insert(key);
        }
    }
    let unused: Vec<&String> =
        routes.keys().filter(|key| !used.contains(*key) && !key.starts_with("ANY ")).collect();
    assert_eq!(unused, Vec::<&String>::new(), "routes that are not in the document");
}
