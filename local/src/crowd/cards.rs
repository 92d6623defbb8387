//! A pretend card provider: another company, whose books say what was charged and returned.
//!
//! A payment has a reference, of which each attempt has a number. Both are idempotent: the money of a payment is taken at
//! most once, whatever the shop repeats. Each outcome is also sent as a signed webhook, at least once.

use crate::system::clock::seconds_now;
use crate::system::process::scaled;
use anyhow::Result;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// An answer takes at least this long, and at most three times as long.
const LATENCY: Duration = Duration::from_millis(20);
/// The slowest card.
const SLOWEST_MS: u64 = 70_000;
/// How long a webhook's endpoint may take; pause before it is sent again; how often.
const WEBHOOK_LIMIT: Duration = Duration::from_secs(5);
const WEBHOOK_PAUSE: Duration = Duration::from_millis(500);
const MAX_WEBHOOKS: u32 = 240;

/// How long refunds may take after the end of a drop.
const REFUND_LIMIT: Duration = Duration::from_secs(10);

/// What the provider knows about a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardPayment {
    /// The status of each attempt, by its number.
    pub attempts: BTreeMap<u64, &'static str>,
    /// How often the money was taken, and returned.
    pub charges: u32,
    pub refunds: u32,
}

/// How often something happens, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct CardFaults {
    /// The money is taken, and the connection ends without an answer.
    pub answer_lost: f64,
    /// A webhook is sent twice.
    pub webhook_twice: f64,
}

/// A running provider. Dropping it stops it.
#[derive(Debug)]
pub struct CardProvider {
    port: u16,
    desk: Arc<Desk>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Desk {
    secret: String,
    webhook: String,
    client: reqwest::Client,
    state: Mutex<DeskState>,
}

#[derive(Debug)]
struct DeskState {
    payments: BTreeMap<String, CardPayment>,
    faults: CardFaults,
    random: StdRng,
}

impl CardProvider {
    /// Starts a provider whose client, a shop, has `secret` and takes webhooks at `webhook`.
    pub async fn start(secret: String, webhook: String, seed: u64) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = DeskState {
            payments: BTreeMap::new(),
            faults: CardFaults::default(),
            random: StdRng::seed_from_u64(seed),
        };
        let client = reqwest::Client::new();
        let desk = Arc::new(Desk { secret, webhook, client, state: Mutex::new(state) });
        let router = Router::new()
            .route("/payments/{reference}/attempts/{attempt}", post(charge))
            .route("/payments/{reference}/refund", post(refund))
            .with_state(desk.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, desk, serving })
    }

    /// The address for shops.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Meets these faults from now on.
    pub fn set_faults(&self, faults: CardFaults) {
        self.desk.lock().faults = faults;
    }

    /// Payments whose money neither bought one of the `sold` units nor came back. Money that came late is refunded a moment
    /// after the end.
    pub async fn unreturned(&self, sold: u64) -> u64 {
        let started = Instant::now();
        loop {
            let payments = self.payments();
            let kept = payments.values().map(|one| u64::from(one.charges.abs_diff(one.refunds))).sum::<u64>();
            if kept == sold || started.elapsed() > scaled(REFUND_LIMIT) {
                return kept.abs_diff(sold);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All payments, by their reference.
    pub fn payments(&self) -> BTreeMap<String, CardPayment> {
        self.desk.lock().payments.clone()
    }
}

impl Drop for CardProvider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_client(&self, headers: &HeaderMap) -> bool {
        headers.get(AUTHORIZATION).is_some_and(|value| *value == *format!("Bearer {}", self.secret))
    }

    /// Notes the outcome of an attempt. A payment that has succeeded stays so.
    fn decide(self: &Arc<Self>, reference: &str, attempt: u64, outcome: &'static str) -> &'static str {
        let mut state = self.lock();
        let payment = state.payments.entry(reference.to_owned()).or_default();
        let outcome = if payment.charges > 0 { "succeeded" } else { outcome };
        payment.charges += u32::from(outcome == "succeeded" && payment.charges == 0);
        payment.attempts.insert(attempt, outcome);
        drop(state);
        let webhooks = 1 + u32::from(self.draw(|faults| faults.webhook_twice));
        for _ in 0..webhooks {
            tokio::spawn(self.clone().send_webhook(reference.to_owned(), attempt, outcome));
        }
        outcome
    }

    async fn send_webhook(self: Arc<Self>, reference: String, attempt: u64, status: &'static str) {
        let body = json!({ "reference": reference, "attempt": attempt, "status": status }).to_string();
        for _ in 0..MAX_WEBHOOKS {
            let request = self.client.post(&self.webhook).header("card-signature", self.sign(&body));
            let answer = request.body(body.clone()).timeout(WEBHOOK_LIMIT).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(WEBHOOK_PAUSE).await;
        }
    }

    fn sign(&self, body: &str) -> String {
        let time = seconds_now();
        let key = hmac::Key::new(HMAC_SHA256, self.secret.as_bytes());
        let tag = hmac::sign(&key, format!("{time}.{body}").as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={time},v1={hex}")
    }

    /// The status of an attempt, which begins if it is new.
    async fn attempt(self: Arc<Self>, reference: String, attempt: u64, card: String) -> &'static str {
        let (latency, known) = {
            let mut state = self.lock();
            let latency = LATENCY.mul_f64(state.random.random_range(1.0..=3.0));
            let payment = state.payments.entry(reference.clone()).or_default();
            let known = payment.attempts.get(&attempt).copied();
            payment.attempts.entry(attempt).or_insert("processing");
            (latency, if payment.charges > 0 { Some("succeeded") } else { known })
        };
        tokio::time::sleep(latency).await;
        let answer = known.map_or_else(|| self.begin(&reference, attempt, &card), Answer::Now);
        match answer {
            Answer::Now(status) => status,
            Answer::Later(deciding) => deciding.await.unwrap_or("processing"),
        }
    }

    fn draw(&self, share: fn(&CardFaults) -> f64) -> bool {
        let mut state = self.lock();
        let share = share(&state.faults);
        state.random.random_bool(share)
    }

    /// What becomes of a new attempt with `card`: the status of now, and what follows after a while.
    fn begin(self: &Arc<Self>, reference: &str, attempt: u64, card: &str) -> Answer {
        let after = |prefix: &str| {
            let ms: u64 = card.strip_prefix(prefix)?.parse().ok()?;
            Some(Duration::from_millis(ms.min(SLOWEST_MS)))
        };
        if let Some(time) = after("card_slow_") {
            return Answer::Later(self.decide_after(reference, attempt, time));
        }
        if let Some(time) = after("card_later_") {
            self.decide_after(reference, attempt, time);
            return Answer::Now(self.decide(reference, attempt, "processing"));
        }
        match card {
            "card_ok" => Answer::Now(self.decide(reference, attempt, "succeeded")),
            "card_twice" => {
                for time in [500, 900] {
                    self.decide_after(reference, attempt, Duration::from_millis(time));
                }
                Answer::Now(self.decide(reference, attempt, "declined"))
            }
            _ => Answer::Now(self.decide(reference, attempt, "declined")),
        }
    }

    /// Succeeds after `time`, also if the client has gone away.
    fn decide_after(
        self: &Arc<Self>,
        reference: &str,
        attempt: u64,
        time: Duration,
    ) -> JoinHandle<&'static str> {
        let (desk, reference) = (self.clone(), reference.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            desk.decide(&reference, attempt, "succeeded")
        })
    }
}

enum Answer {
    Now(&'static str),
    Later(JoinHandle<&'static str>),
}

async fn charge(
    State(desk): State<Arc<Desk>>,
    Path((reference, attempt)): Path<(String, u64)>,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    if !desk.is_client(&headers) {
        return answered(StatusCode::UNAUTHORIZED, &json!({ "message": "who are you?" }));
    }
    let order: Value = serde_json::from_str(&body).unwrap_or_default();
    let card = order["card"].as_str().unwrap_or_default().to_owned();
    // What has begun goes on, also if the client goes away.
    let answering = tokio::spawn(desk.clone().attempt(reference.clone(), attempt, card));
    let status = answering.await.unwrap_or("processing");
    let is_lost = desk.draw(|faults| faults.answer_lost);
    if is_lost {
        std::panic::resume_unwind(Box::new("the answer is lost"));
    }
    answered(StatusCode::OK, &json!({ "reference": reference, "attempt": attempt, "status": status }))
}

async fn refund(
    State(desk): State<Arc<Desk>>,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    if !desk.is_client(&headers) {
        return answered(StatusCode::UNAUTHORIZED, &json!({ "message": "who are you?" }));
    }
    let mut state = desk.lock();
    match state.payments.get_mut(&reference).filter(|payment| payment.charges > 0) {
        Some(payment) => {
            payment.refunds += u32::from(payment.refunds == 0);
            answered(StatusCode::OK, &json!({ "reference": reference, "status": "refunded" }))
        }
        None => answered(StatusCode::NOT_FOUND, &json!({ "message": "no money was taken" })),
    }
}

fn answered(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response
}
