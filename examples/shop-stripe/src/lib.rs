//! Stripe's webhooks as payment notices for order-confirm: an example that a shop can take.
//!
//! Checks the signature without a call to Stripe, maps the event to an outcome, and invokes order-confirm. Stripe sends
//! an event again until it is answered with 2xx, so the answer is 503 until fairdrop has decided.

mod deliveries;
mod mapping;
mod order_confirm;
pub mod signature;

pub use mapping::{Event, IncompleteError, Notice, Outcome, notice};
pub use order_confirm::{Decision, OrderConfirm};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deliveries::Deliveries;
use serde::Deserialize;
use serde_json::{Value, json};
use signature::{Secret, verify};
use std::collections::HashMap;

/// Stripe's events are far smaller.
const MAX_BODY_BYTES: usize = 262_144;
/// The most secrets of the endpoint: an old and a new one, with one to spare.
const MAX_SECRETS: usize = 3;

/// A request of a function URL or of an HTTP API, payload format 2.0, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Their names are in lower case.
    headers: HashMap<String, String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// State that one process keeps between requests.
#[derive(Debug)]
pub struct App {
    secrets: Vec<Secret>,
    confirm: OrderConfirm,
    deliveries: Deliveries,
}

/// Why the function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the environment variable {0} is missing or empty")]
    Missing(&'static str),
    #[error("STRIPE_WEBHOOK_SECRETS has more than {MAX_SECRETS} secrets")]
    TooManySecrets,
}

impl App {
    /// `secrets` are those of the webhook endpoint, separated by commas.
    pub fn new(secrets: &str, confirm: OrderConfirm) -> Result<Self, StartError> {
        let secrets: Vec<Secret> = secrets.split(',').filter_map(Secret::new).collect();
        if secrets.is_empty() {
            return Err(StartError::Missing("STRIPE_WEBHOOK_SECRETS"));
        }
        if secrets.len() > MAX_SECRETS {
            return Err(StartError::TooManySecrets);
        }
        Ok(Self { secrets, confirm, deliveries: Deliveries::default() })
    }
}

/// Handles a webhook that arrives at `now_seconds` since the Unix epoch.
pub async fn handle(app: &App, request: Request, now_seconds: u64) -> Value {
    let body = if request.is_base64_encoded {
        STANDARD.decode(&request.body).unwrap_or_default()
    } else {
        request.body.into_bytes()
    };
    if body.len() > MAX_BODY_BYTES {
        return answer(413, &json!({ "refused": "the body is too large" }));
    }
    let header = request.headers.get("stripe-signature").map(String::as_str).unwrap_or_default();
    // The signature is over the bytes: nothing is parsed before.
    let delivery = match verify(header, &body, &app.secrets, now_seconds) {
        Ok(delivery) => delivery,
        Err(error) => {
            tracing::warn!(%error, "refused a webhook");
            return answer(400, &json!({ "refused": error.to_string() }));
        }
    };
    if !app.deliveries.accept(delivery, now_seconds) {
        tracing::warn!(
            bytes = body.len(),
            "refused a webhook that was delivered before with the same signature"
        );
        return answer(400, &json!({ "refused": "this delivery was accepted before" }));
    }
    let Ok(event) = serde_json::from_slice::<Event>(&body) else {
        return answer(400, &json!({ "refused": "the body is no event" }));
    };
    let notice = match notice(&event, now_seconds) {
        Ok(Some(notice)) => notice,
        Ok(None) => return answer(200, &json!({ "ignored": event.kind })),
        Err(error) => {
            tracing::error!(
                %error, event = event.id, kind = event.kind,
                "cannot report a payment to fairdrop; Stripe sends the event again, and lists it as failed"
            );
            return answer(422, &json!({ "refused": error.to_string() }));
        }
    };
    match app.confirm.send(&notice).await {
        Decision::Accepted(state) => answer(200, &state),
        Decision::Refused(problem) => {
            report_refund(&event, &notice, &problem);
            answer(200, &problem)
        }
        Decision::Undecided(reason) => {
            app.deliveries.forget(delivery);
            tracing::warn!(
                reason,
                event = event.id,
                "fairdrop has not decided; Stripe sends the event again"
            );
            answer(503, &json!({ "undecided": event.id }))
        }
    }
}

/// fairdrop sold no unit for this payment. A shop calls Stripe's refund or cancel operation here.
fn report_refund(event: &Event, notice: &Notice, problem: &Value) {
    if matches!(notice.outcome, Outcome::Paid | Outcome::Pending) {
        tracing::error!(
            event = event.id,
            payment_intent = notice.payment_reference,
            problem = problem["type"].as_str().unwrap_or_default(),
            "fairdrop sold no unit for this payment; refund it, or cancel it if it is pending"
        );
    }
}

fn answer(status: u16, body: &Value) -> Value {
    json!({
        "statusCode": status,
        "headers": { "content-type": "application/json", "cache-control": "no-store" },
        "body": body.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign as hmac};

    /// The header with which Stripe would send `body`.
    pub(crate) fn sign(secret: &str, seconds: u64, body: &str) -> String {
        let tag = hmac(&Key::new(HMAC_SHA256, secret.as_bytes()), format!("{seconds}.{body}").as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={seconds},v1={hex}")
    }

    const NOW: u64 = 1_795_500_000;

    fn app() -> App {
        App::new("whsec_old,whsec_new", OrderConfirm::at("http://127.0.0.1:1", "order-confirm")).unwrap()
    }

    async fn send(app: &App, header: &str, body: &str) -> (u64, String) {
        let headers = json!({ "stripe-signature": header });
        let request = serde_json::from_value(json!({ "headers": headers, "body": body })).unwrap();
        let answer = handle(app, request, NOW).await;
        (answer["statusCode"].as_u64().unwrap(), answer["body"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn only_what_is_signed_and_new_is_handled() {
        let app = app();
        let other = r#"{"id":"evt_1","type":"charge.refunded","data":{"object":{}}}"#;
        let header = sign("whsec_new", NOW, other);
        assert_eq!(send(&app, "", other).await.0, 400);
        assert_eq!(send(&app, &sign("whsec_none", NOW, other), other).await.0, 400);
        assert_eq!(send(&app, &sign("whsec_new", NOW - 301, other), other).await.0, 400);
        assert_eq!(send(&app, &header, other).await, (200, r#"{"ignored":"charge.refunded"}"#.into()));
        let (status, text) = send(&app, &header, other).await;
        assert!(status == 400 && text.contains("before"), "{text}");
        // Stripe signs each delivery again.
        assert_eq!(send(&app, &sign("whsec_old", NOW + 1, other), other).await.0, 200);
        assert_eq!(send(&app, &sign("whsec_new", NOW, "[]"), "[]").await.0, 400);
        let encoded = json!({ "headers": { "stripe-signature": sign("whsec_new", NOW - 2, other) },
                              "body": STANDARD.encode(other), "isBase64Encoded": true });
        let answer = handle(&app, serde_json::from_value(encoded).unwrap(), NOW).await;
        assert_eq!(answer["statusCode"], 200);
    }

    #[tokio::test]
    async fn a_payment_without_a_buyer_is_refused() {
        let paid = r#"{"id":"evt_3","type":"payment_intent.succeeded","data":{"object":{"object":"payment_intent",
            "id":"pi_1","metadata":{"item_id":"a"}}}}"#;
        let (status, text) = send(&app(), &sign("whsec_new", NOW, paid), paid).await;
        assert!(status == 422 && text.contains("user_token"), "{text}");
    }

    #[tokio::test]
    async fn an_event_that_fairdrop_has_not_decided_may_come_again() {
        let app = app();
        let paid = r#"{"id":"evt_2","type":"payment_intent.succeeded","data":{"object":{"object":"payment_intent",
            "id":"pi_1","metadata":{"item_id":"a","user_token":"alice"}}}}"#;
        let header = sign("whsec_new", NOW, paid);
        for _ in 0..2 {
            assert_eq!(send(&app, &header, paid).await, (503, r#"{"undecided":"evt_2"}"#.into()));
        }
    }

    #[test]
    fn without_a_secret_the_function_does_not_start() {
        let confirm = || OrderConfirm::at("http://127.0.0.1:1", "order-confirm");
        for secrets in ["", " , "] {
            assert!(App::new(secrets, confirm()).is_err());
        }
        assert!(App::new("a,b,c,d", confirm()).is_err());
    }
}
