//! Applies payment notices to reservations.
//!
//! The shop's backend, or its payment provider's webhook, sends the result of a payment:
//! `paid` sells the unit, `pending` extends the hold once, `declined` changes nothing, `failed` and
//! `cancelled` release the unit. The payment's reference is the idempotency key. A refusal after which the shop refunds the
//! payment is final. The ledger decides, and order-confirm updates Redis after the commit. If
//! that update fails, the checkout worker repeats it when the hold ends.

mod apply;
mod notice;

pub use apply::Confirmed;
pub use notice::PaymentBody;

use lease::Lease;
use ledger::Ledger;
use notice::{PaymentNotice, PaymentOutcome};
use serde_json::{Value, json};
use shared::config::{ConfigError, RedisConfig, Source};
use shared::problem::Problem;
use shared::queue::{self, Link, Queue};

/// State that one process of the function keeps between invocations.
#[derive(Debug)]
pub struct App {
    queue: Queue,
    ledger: Ledger,
    lease: Lease,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            queue: Queue::new(Link::with_scripts(RedisConfig::main(source)?, queue::CHECKOUT_SCRIPTS)),
            ledger: Ledger::from_config(source)?,
            lease: Lease::from_config(source).await?,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.queue.open();
    }
}

/// Handles an event from API Gateway or a direct invocation.
///
/// A direct invocation gets the same bodies. A final refusal is a result with `type` and
/// `status`. A temporary refusal is an error, so that Lambda retries an asynchronous
/// invocation.
pub async fn answer(app: &App, event: Value) -> Result<Value, lambda_runtime::Error> {
    if notice::is_http(&event) {
        let (status, media, body, problem) = match receive(app, notice::from_http(event)).await {
            Ok(confirmed) => (200, "application/json", serde_json::to_value(confirmed)?, None),
            Err(problem) => {
                (problem.status().as_u16(), "application/problem+json", problem.document(), Some(problem))
            }
        };
        let mut headers = json!({ "content-type": media, "cache-control": "no-store" });
        if let Some(seconds) = problem.as_ref().and_then(Problem::retry_after_seconds) {
            headers["retry-after"] = json!(seconds.to_string());
        }
        if let Some(Problem::MethodNotAllowed { allow }) = problem {
            headers["allow"] = json!(allow);
        }
        return Ok(json!({ "statusCode": status, "headers": headers, "body": body.to_string() }));
    }
    match receive(app, notice::from_invocation(event)).await {
        Ok(confirmed) => Ok(serde_json::to_value(confirmed)?),
        Err(problem) if problem.retry_after_seconds().is_some() => Err(problem.document().to_string().into()),
        Err(problem) => Ok(problem.document()),
    }
}

async fn receive(app: &App, notice: Result<PaymentNotice, Problem>) -> Result<Confirmed, Problem> {
    let outcome = notice.as_ref().ok().map(|notice| notice.outcome);
    let applied = match notice {
        Ok(notice) => apply::apply(app, &notice).await,
        Err(problem) => Err(problem),
    };
    match &applied {
        Ok(confirmed) => metrics::counter!("payments", "Status" => confirmed.metric_status()).increment(1),
        Err(problem) => count_refusal(problem, outcome),
    }
    applied
}

/// The alarm on `payments_refused` is about money for which no unit was sold. A notice of a payment that did not
/// succeed has no money behind it.
fn count_refusal(problem: &Problem, outcome: Option<PaymentOutcome>) {
    if outcome.is_some_and(|outcome| !outcome.may_have_money()) {
        metrics::counter!("failed_payments_refused", "Reason" => problem.slug()).increment(1);
    } else {
        metrics::counter!("payments_refused", "Reason" => problem.slug()).increment(1);
    }
    let is_unavailable = matches!(problem, Problem::StatusUnavailable | Problem::LedgerUnavailable);
    metrics::counter!("payments_unavailable").increment(u64::from(is_unavailable));
}
