//! Applies one payment notice: the ledger decides, then Redis is updated.

use crate::missing_item::missing_item;
use crate::notice::{PaymentNotice, PaymentOutcome};
use crate::{App, is_decided};
use ledger::{BuyerState, Decline, Due, Extension, LedgerError, Payment, WantedHold};
use schemars::JsonSchema;
use serde::Serialize;
use shared::item::{Item, ItemId};
use shared::permit::Fence;
use shared::problem::Problem;
use shared::queue::{self, Hold, ItemError, OrderState, Settlement};
use shared::stamp::Stamp;
use std::time::Duration;

/// How often a release is written to Redis while other notices move the end of the hold: each can do so once.
const MAX_FREE_TRIES: usize = 10;

/// The state of the reservation after a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Confirmed {
    item_id: ItemId,
    #[schemars(extend("enum" = ["sold", "reserved", "released"]))]
    status: &'static str,
    payment_reference: String,
    /// The outcome that the notice reported.
    outcome: PaymentOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    placed_at: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_until: Option<Stamp>,
}

impl Confirmed {
    /// The dimension `Status` of the metric `payments`. A declined attempt is no extension, and a payment that was
    /// given up is no failure.
    pub(crate) fn metric_status(&self) -> &'static str {
        match (self.outcome, self.status) {
            (PaymentOutcome::Declined, "reserved") => "declined",
            (PaymentOutcome::Cancelled, "released") => "cancelled",
            (_, status) => status,
        }
    }
}

pub(crate) async fn apply(app: &App, notice: &PaymentNotice) -> Result<Confirmed, Problem> {
    let item = match note(app, notice).await {
        Ok(item) => item,
        Err(problem) => {
            if matches!(problem, Problem::StatusUnavailable | Problem::Internal) {
                note_in_ledger(app, notice).await;
            }
            return Err(problem);
        }
    };
    let applied = match notice.outcome {
        PaymentOutcome::Paid => sell(app, notice, &item).await,
        PaymentOutcome::Pending => extend(app, notice, &item).await,
        PaymentOutcome::Declined => decline(app, notice, &item).await,
        PaymentOutcome::Failed | PaymentOutcome::Cancelled => release(app, notice, &item).await,
    };
    let leaves_a_hold = applied.as_ref().map_or_else(is_decided, |confirmed| confirmed.status == "reserved");
    if notice.outcome.may_have_money() && leaves_a_hold {
        forget_attempt(app, notice).await;
    }
    applied
}

/// Reads the notice's item, and notes the notice in Redis if there may be money.
async fn note(app: &App, notice: &PaymentNotice) -> Result<Item, Problem> {
    // The refusals of a notice are final. A demoted main may lack the item, or have it under an old epoch.
    let item = match app.queue.item_on_primary(&notice.item_id).await {
        Ok(item) => item,
        Err(ItemError::Link(_)) => return Err(Problem::StatusUnavailable),
        Err(ItemError::NoSuchItem(item_id)) => missing_item(app, &item_id).await?,
        Err(error) => {
            tracing::error!(
                %error,
                item_id = %notice.item_id,
                "could not read an item from main's Redis; the payment notice gets an internal error"
            );
            return Err(Problem::Internal);
        }
    };
    if notice.outcome.may_have_money() {
        let recorded = app.queue.record_attempt(&notice.item_id, &notice.user_token, &attempt(notice)).await;
        recorded.map_err(|_| Problem::StatusUnavailable)?;
    }
    Ok(item)
}

/// Redis has not noted the notice: the ledger does, so that the hold waits for its repetition all the same.
async fn note_in_ledger(app: &App, notice: &PaymentNotice) {
    if !notice.outcome.may_have_money() {
        return;
    }
    let PaymentNotice { item_id, user_token, .. } = notice;
    match app.ledger.note_attempt(item_id, user_token, &attempt(notice)).await {
        Ok(is_noted) => {
            tracing::warn!(%item_id, is_noted, "could not note a payment notice in Redis; noted it in the ledger, if that has a hold of its buyer");
        }
        Err(error) => {
            tracing::error!(%error, %item_id, "could not note a payment notice in Redis or in the ledger; its hold may end before the notice is repeated, unless this is an outage of the workers, too");
        }
    }
}

/// What the record of a notice names: another outcome of the same payment may still wait for its decision.
fn attempt(notice: &PaymentNotice) -> String {
    format!("{:?} {}", notice.outcome, notice.payment_reference)
}

/// After the answer to a notice, the hold goes on to the end that the answer names, or to its own.
async fn forget_attempt(app: &App, notice: &PaymentNotice) {
    let PaymentNotice { item_id, user_token, .. } = notice;
    let attempt = attempt(notice);
    let in_redis = app.queue.forget_attempt(item_id, user_token, &attempt).await;
    let in_ledger = app.ledger.forget_attempt(item_id, user_token, &attempt).await;
    let error = match (in_redis, in_ledger) {
        (Ok(()), Ok(())) => return,
        (Err(error), _) => error.to_string(),
        (_, Err(error)) => error.to_string(),
    };
    tracing::warn!(%error, %item_id, "could not delete the record of a decided payment notice; the hold of its buyer gets a grace");
}

async fn sell(app: &App, notice: &PaymentNotice, item: &Item) -> Result<Confirmed, Problem> {
    let PaymentNotice { item_id, user_token, payment_reference, .. } = notice;
    let fence = fence(app, item).await?;
    let paid = app.ledger.pay(item_id, user_token, payment_reference, fence).await;
    let paid = match paid.map_err(ledger_problem)? {
        Payment::Unknown => refuse(app, notice, state(app, notice).await?, fence).await?,
        paid => paid,
    };
    let Payment::Sold { placed_at } = paid else { return Err(refusal(paid)) };
    settle(app, notice, None, queue::ReservationOutcome::Sold).await;
    Ok(Confirmed { placed_at: Some(placed_at), ..confirmed(notice, "sold") })
}

async fn extend(app: &App, notice: &PaymentNotice, item: &Item) -> Result<Confirmed, Problem> {
    let PaymentNotice { item_id, user_token, payment_reference, .. } = notice;
    let (state, fence) = (state(app, notice).await?, fence(app, item).await?);
    let mut settled = Payment::Unknown;
    // A sold unit needs no extension; the ledger knows for which payment it was sold.
    if matches!(state, OrderState::Reserved(Hold::Until(_)) | OrderState::Sold) {
        let now = app.queue.main_time().await.map_err(|_| Problem::StatusUnavailable)?;
        let wanted = WantedHold {
            once: now.saturating_add(Duration::from_secs(item.hold_seconds.into())),
            until: notice.until,
        };
        let extended = app.ledger.extend(item_id, user_token, payment_reference, wanted, state, fence).await;
        match extended.map_err(ledger_problem)? {
            Extension::Until(until) => {
                if let OrderState::Reserved(Hold::Until(held)) = state {
                    settle(app, notice, Some(held), queue::ReservationOutcome::Reserved { until }).await;
                }
                return Ok(Confirmed { reserved_until: Some(until), ..confirmed(notice, "reserved") });
            }
            Extension::Spent => return Err(Problem::AlreadyExtended),
            Extension::Settled(payment) => settled = payment,
        }
    }
    if settled == Payment::Unknown {
        settled = refuse(app, notice, state, fence).await?;
    }
    let Payment::Sold { placed_at } = settled else { return Err(refusal(settled)) };
    Ok(Confirmed { placed_at: Some(placed_at), ..confirmed(notice, "sold") })
}

/// One attempt has failed, and the buyer may try again: the hold goes on to its end.
async fn decline(app: &App, notice: &PaymentNotice, item: &Item) -> Result<Confirmed, Problem> {
    let PaymentNotice { item_id, user_token, payment_reference, .. } = notice;
    let (state, fence) = (state(app, notice).await?, fence(app, item).await?);
    let declined = app.ledger.decline(item_id, user_token, payment_reference, state, fence).await;
    let held = |until| Confirmed { reserved_until: Some(until), ..confirmed(notice, "reserved") };
    match (declined.map_err(ledger_problem)?, state) {
        (Decline::HeldUntil(until), _) => Ok(held(until)),
        (Decline::Settled(Payment::Sold { placed_at }), _) => {
            Ok(Confirmed { placed_at: Some(placed_at), ..confirmed(notice, "sold") })
        }
        // The reservation is in transit to the ledger, and nothing needs to be recorded.
        (Decline::Settled(Payment::Unknown), OrderState::Reserved(Hold::Until(until))) => Ok(held(until)),
        (Decline::Settled(payment), _) => Err(refusal(payment)),
    }
}

async fn release(app: &App, notice: &PaymentNotice, item: &Item) -> Result<Confirmed, Problem> {
    let PaymentNotice { item_id, user_token, payment_reference, .. } = notice;
    let (state, fence) = (state(app, notice).await?, fence(app, item).await?);
    let given_up = app.ledger.give_up(item_id, user_token, payment_reference, state, fence).await;
    match given_up.map_err(ledger_problem)? {
        Payment::Released => {
            free_unit(app, notice, state).await?;
            Ok(confirmed(notice, "released"))
        }
        Payment::HeldForAnother => Err(Problem::AlreadyExtended),
        other => Err(refusal(other)),
    }
}

/// Writes a release to Redis. A notice at the same moment may have moved the end of the hold since `state` was read;
/// then it is read again. If Redis does not answer, the shop repeats the notice: otherwise the unit would be missing
/// until the end of the hold.
async fn free_unit(app: &App, notice: &PaymentNotice, mut state: OrderState) -> Result<(), Problem> {
    for _ in 0..MAX_FREE_TRIES {
        let OrderState::Reserved(Hold::Until(held)) = state else { return Ok(()) };
        // Redis may hold a later reservation, which does not belong to this payment.
        if !has_ended(app, notice, held).await? {
            return Ok(());
        }
        let released = queue::ReservationOutcome::Released { returns_unit: true };
        let settlement = settlement(notice, Some(held), released);
        let changed = app.queue.settle(&notice.item_id, &[settlement]).await;
        if changed.map_err(|_| Problem::StatusUnavailable)? > 0 {
            return Ok(());
        }
        state = self::state(app, notice).await?;
    }
    Err(Problem::StatusUnavailable)
}

fn confirmed(notice: &PaymentNotice, status: &'static str) -> Confirmed {
    Confirmed {
        item_id: notice.item_id.clone(),
        status,
        payment_reference: notice.payment_reference.clone(),
        outcome: notice.outcome,
        placed_at: None,
        reserved_until: None,
    }
}

async fn state(app: &App, notice: &PaymentNotice) -> Result<OrderState, Problem> {
    let state = app.queue.order_state(&notice.item_id, &notice.user_token).await;
    state.map_err(|_| Problem::StatusUnavailable)
}

/// Whether the ledger has released the reservation that Redis holds until `held`. The ledger may
/// instead have released an earlier reservation of the same buyer, and not have recorded this one yet.
async fn has_ended(app: &App, notice: &PaymentNotice, held: Stamp) -> Result<bool, Problem> {
    let due =
        Due { user_token: notice.user_token.clone(), hold_until: held, cancelled: false, kept_until: None };
    let states = app.ledger.buyer_states(&notice.item_id, &[due]).await.map_err(ledger_problem)?;
    Ok(states == [BuyerState::Released])
}

/// Refuses a payment permanently if it buys nothing. Not if Redis has a reservation that the ledger has not
/// recorded yet.
async fn refuse(
    app: &App,
    notice: &PaymentNotice,
    state: OrderState,
    fence: Fence,
) -> Result<Payment, Problem> {
    let PaymentNotice { item_id, user_token, payment_reference, .. } = notice;
    let refused = app.ledger.refuse(item_id, user_token, payment_reference, state, fence).await;
    refused.map_err(ledger_problem)
}

/// Why a payment bought nothing, or released nothing.
fn refusal(payment: Payment) -> Problem {
    match payment {
        Payment::AlreadyPaid => Problem::AlreadyPaid,
        Payment::Used => Problem::PaymentUsed,
        // Held for another payment: this one was reported as failed before.
        Payment::Released | Payment::HeldForAnother => Problem::ReservationEnded,
        Payment::Voided => Problem::UnitVoided,
        Payment::NoReservation => Problem::NoReservation,
        Payment::Unknown => Problem::NotRecordedYet,
        Payment::Sold { .. } => Problem::AlreadySold,
    }
}

/// The epoch under which the ledger may record a payment now, with the end of the lease.
async fn fence(app: &App, item: &Item) -> Result<Fence, Problem> {
    let permit = app.lease.permit_now(&app.queue).await.map_err(|error| {
        tracing::warn!(%error, "could not confirm the main lease; the payment gets a temporary refusal");
        Problem::LedgerUnavailable
    })?;
    Ok(permit.fence(item.epoch))
}

/// Writes the ledger's decision to Redis. The decision stands even if this fails.
async fn settle(
    app: &App,
    notice: &PaymentNotice,
    expected: Option<Stamp>,
    outcome: queue::ReservationOutcome,
) {
    let settlement = settlement(notice, expected, outcome);
    if let Err(error) = app.queue.settle(&notice.item_id, &[settlement]).await {
        tracing::warn!(%error, item_id = %notice.item_id, "could not write a payment's result to Redis; the checkout worker does it when the hold ends");
    }
}

fn settlement(
    notice: &PaymentNotice,
    expected: Option<Stamp>,
    outcome: queue::ReservationOutcome,
) -> Settlement {
    Settlement {
        user_token: notice.user_token.clone(),
        expected: expected.map(|stamp| stamp.to_string()),
        outcome,
    }
}

pub(crate) fn ledger_problem(error: LedgerError) -> Problem {
    match error {
        LedgerError::Unavailable(_) | LedgerError::LeaseOver => {
            tracing::warn!(%error, "the ledger is unavailable; the payment gets a temporary refusal");
            Problem::LedgerUnavailable
        }
        LedgerError::NoSuchItem(_) => Problem::NoReservation,
        LedgerError::StaleEpoch | LedgerError::Refused(_) => {
            tracing::error!(%error, "the ledger refused to record a payment; the shop gets an internal error");
            Problem::Internal
        }
    }
}
