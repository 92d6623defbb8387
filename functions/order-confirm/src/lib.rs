//! Applies payment notices to reservations, and lets the shop read them (`reads`).
//!
//! The shop's backend, or its payment provider's webhook, sends the result of a payment:
//! `paid` sells the unit, `pending` extends the hold, `declined` changes nothing, `failed` and
//! `cancelled` release the unit. The payment's reference is the idempotency key. A refusal after which the shop refunds the
//! payment is final. The ledger decides, and order-confirm updates Redis after the commit. If
//! that update fails, the checkout worker repeats it when the hold ends.

mod apply;
mod batch;
mod envelope;
mod missing_item;
mod notice;
mod reads;

pub use apply::Confirmed;
pub use notice::PaymentBody;
pub use reads::{MAX_PAGE, SalesPage, ShopReservation};

use aws_lc_rs::digest::{SHA256, digest};
use envelope::Incoming;
use lease::Lease;
use ledger::Ledger;
use notice::{PaymentNotice, PaymentOutcome};
use serde::Serialize;
use serde_json::{Value, json};
use shared::config::{ConfigError, RedisConfig, Source};
use shared::http;
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

/// Who reads the answer to a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerReader {
    /// The shop's backend, for all that this function knows.
    Caller,
    /// The notice came by a service that drops the answer.
    NoCaller,
}

/// Handles an event: a request of the HTTP API, a direct invocation, or an event of EventBridge, SNS or SQS.
///
/// A request always gets an answer. An invocation gets the state of the reservation, or a refusal that decides about
/// the payment. Any other refusal fails the invocation, so that Lambda repeats an asynchronous one and then keeps it
/// in the dead-letter queue. The error's text is the problem document.
pub async fn answer(app: &App, event: Value) -> Result<Value, lambda_runtime::Error> {
    match envelope::open(event) {
        Incoming::Http(event) => {
            http_answer(receive(app, notice::from_http(event), AnswerReader::Caller).await)
        }
        Incoming::Read(event) => http_answer(answer_read(app, event).await),
        Incoming::OtherGateway => http_answer::<Confirmed>(Err(Problem::UnsupportedEvent)),
        Incoming::Direct(notice) => invocation_answer(receive(app, notice, AnswerReader::Caller).await),
        Incoming::Pushed(notice) => invocation_answer(receive(app, notice, AnswerReader::NoCaller).await),
        Incoming::Queue(messages) => Ok(batch::answer_batch(app, messages).await),
    }
}

async fn answer_read(app: &App, event: Value) -> Result<Value, Problem> {
    reads::answer_read(app, reads::read_from_http(event)?).await
}

fn http_answer<T: Serialize>(answer: Result<T, Problem>) -> Result<Value, lambda_runtime::Error> {
    let body = match answer {
        Ok(body) => body,
        Err(problem) => return Ok(http::problem_event(&problem)),
    };
    let headers = json!({ "content-type": "application/json", "cache-control": "no-store" });
    Ok(json!({ "statusCode": 200, "headers": headers, "body": serde_json::to_string(&body)? }))
}

fn invocation_answer(answer: Result<Confirmed, Problem>) -> Result<Value, lambda_runtime::Error> {
    match answer {
        Ok(confirmed) => Ok(serde_json::to_value(confirmed)?),
        Err(problem) if is_decided(&problem) => Ok(problem.document()),
        Err(problem) => Err(problem.document().to_string().into()),
    }
}

/// Whether a refusal is fairdrop's decision about the payment. After any other one, the notice must not be forgotten.
fn is_decided(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::AlreadyExtended
            | Problem::AlreadyPaid
            | Problem::AlreadySold
            | Problem::NoReservation
            | Problem::PaymentUsed
            | Problem::ReservationEnded
            | Problem::UnitVoided
    )
}

async fn receive(
    app: &App,
    notice: Result<PaymentNotice, Problem>,
    reader: AnswerReader,
) -> Result<Confirmed, Problem> {
    let (applied, outcome) = match notice {
        Ok(notice) => {
            let applied = apply::apply(app, &notice).await;
            if let Err(problem) = &applied
                && reader == AnswerReader::NoCaller
            {
                report_refund(&notice, problem);
            }
            (applied, Some(notice.outcome))
        }
        Err(problem) => (Err(problem), None),
    };
    match &applied {
        Ok(confirmed) => metrics::counter!("payments", "Status" => confirmed.metric_status()).increment(1),
        Err(problem) => count_refusal(problem, outcome),
    }
    applied
}

/// Reports a permanent refusal that no caller reads, if the shop may have the buyer's money.
fn report_refund(notice: &PaymentNotice, problem: &Problem) {
    if !is_decided(problem) || !notice.outcome.may_have_money() {
        return;
    }
    metrics::counter!("refunds_due").increment(1);
    tracing::warn!(
        item_id = %notice.item_id,
        payment_reference_sha256 = hash(&notice.payment_reference),
        reason = problem.slug(),
        "refused a payment notice permanently, and no caller reads the answer; the shop returns the money"
    );
}

/// The log names no payment, but a shop that knows its references finds it.
fn hash(reference: &str) -> String {
    digest(&SHA256, reference.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary refusal, a malformed notice or an unknown item must not end in silence.
    #[test]
    fn only_decisions_end_an_invocation_without_an_error() {
        let decided: Vec<&str> =
            Problem::one_of_each().iter().filter(|problem| is_decided(problem)).map(Problem::slug).collect();
        let expected = [
            "already-sold",
            "no-reservation",
            "reservation-ended",
            "already-paid",
            "payment-used",
            "already-extended",
            "unit-voided",
        ];
        assert_eq!(decided, expected);
        for problem in Problem::one_of_each() {
            let slug = problem.slug();
            match invocation_answer(Err(problem)) {
                Ok(document) => assert!(decided.contains(&slug), "{document}"),
                Err(error) => assert!(error.to_string().contains(&format!("urn:fairdrop:problem:{slug}\""))),
            }
        }
    }

    /// As `printf %s pi_1 | sha256sum` prints it.
    #[test]
    fn a_shop_finds_its_payment_by_the_hash() {
        assert_eq!(hash("pi_1"), "8acdbc7707f726a9e50ee2b3c3031f50497e8b005282c799f0253cadc474a653");
    }
}
