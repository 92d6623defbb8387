//! Stands for an EventBridge bus: `PutEvents` with its limits, and with every answer that its documents allow, drawn at
//! random (`docs/AWS_FACTS.md`).

use crate::aws::api_destination::ApiDestination;
use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

const MAX_ENTRIES: usize = 10;
/// The entries of a call together are smaller than this, in bytes.
const MAX_SIZE: usize = 256 * 1024;
/// Longer than a client waits.
const HANGS_FOR: Duration = Duration::from_secs(10);

/// How often a call or an entry meets a fault, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct BusFaults {
    /// The call is throttled, or fails within EventBridge.
    pub refused: f64,
    /// One entry of a call is throttled, or fails within EventBridge; the others are accepted.
    pub entry_fails: f64,
    /// The entries are accepted, and the connection ends without an answer.
    pub answer_lost: f64,
    /// The entries are accepted, and the answer comes after the client's time limit.
    pub answer_late: f64,
}

/// An accepted event.
#[derive(Clone, Debug, PartialEq)]
pub struct BusEvent {
    pub detail_type: String,
    pub detail: Value,
    /// By this machine's clock, in microseconds since the Unix epoch.
    pub accepted_at: u64,
}

/// A running bus. Dropping it stops it.
#[derive(Debug)]
pub struct EventBus {
    port: u16,
    state: Arc<Mutex<BusState>>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct BusState {
    name: String,
    faults: BusFaults,
    random: StdRng,
    /// Details with these types are refused as malformed.
    malformed: Vec<String>,
    /// A deleted bus accepts events and drops them.
    is_deleted: bool,
    /// The control plane throttles, while events are accepted.
    describe_throttled: bool,
    dropped: u64,
    accepted: Vec<BusEvent>,
    calls: u64,
    /// The target of the bus's rule.
    destination: Option<Arc<ApiDestination>>,
}

impl EventBus {
    /// Starts the bus `name`, whose faults are drawn from `seed`.
    pub async fn start(name: &str, seed: u64) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(BusState {
            name: name.to_owned(),
            faults: BusFaults::default(),
            random: StdRng::seed_from_u64(seed),
            malformed: Vec::new(),
            is_deleted: false,
            describe_throttled: false,
            dropped: 0,
            accepted: Vec::new(),
            calls: 0,
            destination: None,
        }));
        let app = Router::new().fallback(answer).with_state(state.clone());
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { port, state, server })
    }

    /// The address, for `AWS_ENDPOINT_URL_EVENTBRIDGE`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Meets these faults from now on.
    pub fn set_faults(&self, faults: BusFaults) {
        locked(&self.state).faults = faults;
    }

    /// Delivers each event that is accepted from now on.
    pub fn deliver_to(&self, destination: Arc<ApiDestination>) {
        locked(&self.state).destination = Some(destination);
    }

    /// Refuses events of this type as malformed from now on, or none.
    pub fn refuse_type(&self, detail_type: Option<&str>) {
        locked(&self.state).malformed = detail_type.into_iter().map(str::to_owned).collect();
    }

    /// Deletes the bus, or creates it again.
    pub fn set_deleted(&self, is_deleted: bool) {
        locked(&self.state).is_deleted = is_deleted;
    }

    /// Throttles `DescribeEventBus`, or answers it again.
    pub fn throttle_describe(&self, is_throttled: bool) {
        locked(&self.state).describe_throttled = is_throttled;
    }

    /// The number of events that were accepted and dropped, since the bus was deleted.
    pub fn dropped(&self) -> u64 {
        locked(&self.state).dropped
    }

    /// All accepted events, in the order of their acceptance, with repetitions.
    pub fn accepted(&self) -> Vec<BusEvent> {
        locked(&self.state).accepted.clone()
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        locked(&self.state).calls
    }
}

impl Drop for EventBus {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn locked(state: &Mutex<BusState>) -> MutexGuard<'_, BusState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What follows the acceptance of a call's entries.
enum Then {
    Answer(Value),
    Lose,
    Delay(Value),
}

async fn answer(State(state): State<Arc<Mutex<BusState>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let header =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = header("x-amz-target").strip_prefix("AWSEvents.").unwrap_or_default();
    if !["PutEvents", "DescribeEventBus"].contains(&operation) {
        return refusal(400, "UnknownOperationException", "only PutEvents and DescribeEventBus are known");
    }
    let signature = header("authorization");
    if !signature.starts_with("AWS4-HMAC-SHA256 ") || !signature.contains("/events/aws4_request") {
        return refusal(403, "MissingAuthenticationTokenException", "the request is not signed");
    }
    let Ok(body) = axum::body::to_bytes(body, 2 * MAX_SIZE).await else {
        return refusal(413, "RequestEntityTooLarge", "the request is too long");
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if operation == "DescribeEventBus" {
        return describe(&locked(&state), &body);
    }
    let then = match put(&mut locked(&state), &body) {
        Ok(then) => then,
        Err((status, code, why)) => return refusal(status, code, &why),
    };
    match then {
        Then::Answer(value) => answered(200, &value),
        // The connection ends without an answer.
        Then::Lose => std::panic::resume_unwind(Box::new("the answer is lost")),
        Then::Delay(value) => {
            tokio::time::sleep(HANGS_FOR).await;
            answered(200, &value)
        }
    }
}

fn describe(state: &BusState, body: &Value) -> Response<Body> {
    let name = body["Name"].as_str().unwrap_or("default");
    if state.describe_throttled {
        return refusal(400, "ThrottlingException", "Rate exceeded");
    }
    if state.is_deleted || name != state.name {
        let why = format!("Event bus {name} does not exist.");
        return refusal(400, "ResourceNotFoundException", &why);
    }
    let arn = format!("arn:aws:events:us-east-1:123456789012:event-bus/{name}");
    answered(200, &json!({ "Name": name, "Arn": arn }))
}

/// Accepts the entries of a call, or refuses the call.
fn put(state: &mut BusState, body: &Value) -> Result<Then, (u16, &'static str, String)> {
    state.calls += 1;
    let entries = body["Entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let size: usize = entries
        .iter()
        .map(|entry| {
            ["Source", "DetailType", "Detail"].map(|name| text(entry, name).len()).iter().sum::<usize>()
        })
        .sum();
    if entries.is_empty() || entries.len() > MAX_ENTRIES || size >= MAX_SIZE {
        return Err((400, "ValidationException", format!("{} entries of {size} bytes", entries.len())));
    }
    if let Some(other) = entries.iter().find(|entry| entry["EventBusName"] != state.name.as_str()) {
        return Err((400, "AccessDeniedException", format!("no right for bus {}", other["EventBusName"])));
    }
    let faults = state.faults;
    if state.random.random_bool(faults.refused) {
        return Err(if state.random.random_bool(0.5) {
            (400, "ThrottlingException", "Rate exceeded".into())
        } else {
            (500, "InternalException", "This exception occurs due to unexpected causes.".into())
        });
    }
    let failing =
        state.random.random_bool(faults.entry_fails).then(|| state.random.random_range(0..entries.len()));
    let mut answers = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let detail = serde_json::from_str::<Value>(&text(entry, "Detail")).ok().filter(Value::is_object);
        let detail_type = text(entry, "DetailType");
        let refused = |code: &str| json!({ "ErrorCode": code, "ErrorMessage": "refused by the stand-in" });
        answers.push(match detail {
            None => refused("MalformedDetail"),
            Some(_) if state.malformed.contains(&detail_type) => refused("MalformedDetail"),
            Some(_) if detail_type.is_empty() || text(entry, "Source").is_empty() => {
                refused("InvalidArgument")
            }
            Some(_) if failing == Some(number) => {
                refused(if state.random.random_bool(0.5) { "ThrottlingException" } else { "InternalFailure" })
            }
            Some(_) if state.is_deleted => {
                state.dropped += 1;
                json!({ "EventId": format!("00000000-0000-4000-8001-{:012}", state.dropped) })
            }
            Some(detail) => {
                let accepted_at =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
                let id = format!("00000000-0000-4000-8000-{:012}", state.accepted.len() + 1);
                let event = BusEvent { detail_type, detail, accepted_at };
                if let Some(destination) = &state.destination {
                    destination.deliver(&event, &id);
                }
                state.accepted.push(event);
                json!({ "EventId": id })
            }
        });
    }
    let failed = answers.iter().filter(|answer| answer.get("ErrorCode").is_some()).count();
    let value = json!({ "FailedEntryCount": failed, "Entries": answers });
    Ok(if state.random.random_bool(faults.answer_lost) {
        Then::Lose
    } else if state.random.random_bool(faults.answer_late) {
        Then::Delay(value)
    } else {
        Then::Answer(value)
    })
}

fn answered(status: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert("content-type", axum::http::HeaderValue::from_static("application/x-amz-json-1.1"));
    response
}

fn refusal(status: u16, code: &str, why: &str) -> Response<Body> {
    answered(status, &json!({ "__type": code, "message": why }))
}
