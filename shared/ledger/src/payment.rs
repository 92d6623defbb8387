//! The effect of a payment on a reservation. The payment's reference is the idempotency key: a repeated notice gets
//! the same answer.
//!
//! After some answers the shop returns the money; these answers are final, and so is the answer to a failed
//! payment. The same buyer may have another reservation later, which that payment must neither buy nor release.
//! A final answer is stored in `fairdrop.payments` by the transaction that decides it, and is looked up first. A
//! payment that has bought a unit stands in its sale. All other answers change with the ledger and are not stored:
//! a hold that was extended, or extended for another payment; a reservation in transit.
//!
//! Only Redis knows whether a reservation is in transit. [`Ledger::pay`] does not ask Redis, since most payments
//! buy, in one statement. For the others it returns [`Payment::Unknown`]; the caller then asks Redis and calls
//! [`Ledger::refuse`].

mod extension;
mod facts;

pub use extension::{MAX_EXTENSIONS, WantedHold};

use crate::items::{lock, moment, stamp};
use crate::{Ledger, LedgerError, SaleState};
use extension::{HoldChange, change_hold};
use facts::{PaymentDecision, read_facts, record_answer};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::queue::{Hold, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// The result of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// The buyer has bought the unit with this payment. If the unit was sold without a hold and this payment is not
    /// `paid`, no payment has paid for it yet.
    Sold { placed_at: Stamp },
    /// The buyer has bought the unit with another payment. Final.
    AlreadyPaid,
    /// The payment belongs to another buyer: it has bought their unit of the item, or was refused to them.
    Used,
    /// The reservation ended before, or the failure of this payment has ended it. The payment buys nothing. Final.
    Released,
    /// An operator has taken the unit back. The payment buys nothing, or what it bought was taken back. Final.
    Voided,
    /// There was no reservation for the payment. It buys nothing. Final.
    NoReservation,
    /// The payment has failed, but the hold goes on, since it was extended for another payment. Final.
    HeldForAnother,
    /// The ledger has no reservation of the buyer that could be paid, or does not have it yet.
    Unknown,
}

impl Payment {
    const FINAL: [Self; 5] =
        [Self::AlreadyPaid, Self::Released, Self::Voided, Self::NoReservation, Self::HeldForAnother];

    /// The name of a final answer in the table. `None` for an answer that is not final or stands in a sale.
    fn stored_as(self) -> Option<&'static str> {
        match self {
            Self::AlreadyPaid => Some("already-paid"),
            Self::Released => Some("reservation-ended"),
            Self::Voided => Some("unit-voided"),
            Self::NoReservation => Some("no-reservation"),
            Self::HeldForAnother => Some("already-extended"),
            Self::Sold { .. } | Self::Used | Self::Unknown => None,
        }
    }

    fn from_stored(text: &str) -> Result<Self, LedgerError> {
        Self::FINAL
            .into_iter()
            .find(|one| one.stored_as() == Some(text))
            .ok_or_else(|| LedgerError::Refused("a stored answer of a payment is unknown".into()))
    }
}

/// The result of extending a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The hold lasts until this moment.
    Until(Stamp),
    /// The hold was extended before, for another payment.
    Spent,
    /// The reservation is decided: an extension is not needed, or comes too late.
    Settled(Payment),
}

/// The state of a reservation after an attempt to pay was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    /// The hold goes on to this moment. The same payment may still buy the unit.
    HeldUntil(Stamp),
    /// The reservation is decided, or the ledger does not have it yet ([`Payment::Unknown`]).
    Settled(Payment),
}

/// One payment of one buyer for one item, and the fence under which its result is written.
#[derive(Clone, Copy)]
struct Charge<'a> {
    item_id: &'a ItemId,
    buyer: &'a UserToken,
    reference: &'a str,
    fence: Fence,
}

impl Ledger {
    /// Turns the buyer's reservation into a sale unless it has ended. The first of payment and release decides;
    /// the other gets the same answer.
    pub async fn pay(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        fence: Fence,
    ) -> Result<Payment, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(async {
            match self.sell(charge).await {
                Ok(Some(placed_at)) => Ok(Payment::Sold { placed_at }),
                Err(error) if !was_overtaken(&error) => Err(error),
                Ok(None) | Err(_) => retry_if_overtaken(|| self.answer_payment(charge, None)).await,
            }
        })
        .await
    }

    /// Permanently refuses a payment that buys nothing, if the buyer's state in Redis, `redis`, agrees. While a
    /// reservation may be in transit, it returns [`Payment::Unknown`] and writes nothing.
    pub async fn refuse(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Payment, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(retry_if_overtaken(|| self.answer_payment(charge, Some(redis)))).await
    }

    /// Extends the buyer's hold while payment `reference` is pending: once, or up to the item's limit. `redis` is the
    /// buyer's state in Redis: a unit that is sold there, under an earlier epoch, is not extended.
    pub async fn extend(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        wanted: WantedHold,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Extension, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(retry_if_overtaken(|| self.extend_once(charge, wanted, redis))).await
    }

    /// Reads the state of the buyer's reservation after an attempt to pay was declined. Nothing is written: a later
    /// notice of the same payment is decided by itself. `redis` is the buyer's state in Redis, as for
    /// [`refuse`](Self::refuse).
    pub async fn decline(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Decline, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(async {
            // Rolled back: the transaction only waits for a notice that is being decided.
            let mut transaction = self.pool.begin().await?;
            let facts = read_facts(&mut transaction, charge).await?;
            Ok(facts.after_decline(reference, redis))
        })
        .await
    }

    /// Releases the buyer's reservation because its payment has failed, unless its hold was extended for
    /// another payment. `redis` is the buyer's state in Redis, as for [`refuse`](Self::refuse).
    pub async fn give_up(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Payment, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(retry_if_overtaken(|| self.give_up_once(charge, redis))).await
    }
}

/// A payment that was permanently refused buys nothing. If that happens at the same moment, the database refuses.
const SELL: &str = "
    UPDATE fairdrop.sales SET state = 'sold', payment_reference = $3, epoch = $4
     WHERE item_id = $1 AND user_token = $2
       AND (state = 'reserved' OR state = 'sold' AND payment_reference IS NULL)
       AND NOT EXISTS (SELECT FROM fairdrop.payments AS refused
                        WHERE refused.item_id = $1 AND refused.payment_reference = $3)
    RETURNING placed_at";

impl Ledger {
    async fn sell(&self, charge: Charge<'_>) -> Result<Option<Stamp>, LedgerError> {
        let mut transaction = self.begin_with_events(charge.item_id, charge.fence.until).await?;
        let placed_at: Option<i64> = sqlx::query_scalar(SELL)
            .bind(charge.item_id.as_str())
            .bind(charge.buyer.as_str())
            .bind(charge.reference)
            .bind(charge.fence.epoch.cast_signed())
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        placed_at.map(stamp).transpose()
    }

    async fn answer_payment(
        &self,
        charge: Charge<'_>,
        redis: Option<OrderState>,
    ) -> Result<Payment, LedgerError> {
        let mut transaction = self.begin_before(charge.fence.until).await?;
        let facts = read_facts(&mut transaction, charge).await?;
        let cancelled = Some(OrderState::Reserved(Hold::Release));
        let answer = match facts.decide(charge.reference, redis) {
            PaymentDecision::Decided(answer) => answer,
            PaymentDecision::Open(sale) if sale.state == SaleState::Reserved && redis == cancelled => {
                Payment::Released
            }
            // The ledger has recorded the reservation in between: the caller asks again.
            PaymentDecision::Open(_) => Payment::Unknown,
        };
        record_answer(&mut transaction, charge, &facts, answer).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    async fn extend_once(
        &self,
        charge: Charge<'_>,
        wanted: WantedHold,
        redis: OrderState,
    ) -> Result<Extension, LedgerError> {
        let mut transaction = self.begin_with_events(charge.item_id, charge.fence.until).await?;
        let facts = read_facts(&mut transaction, charge).await?;
        let extension = match facts.decide(charge.reference, None) {
            PaymentDecision::Decided(answer) => {
                record_answer(&mut transaction, charge, &facts, answer).await?;
                Extension::Settled(answer)
            }
            PaymentDecision::Open(sale) if sale.state == SaleState::Sold => {
                Extension::Settled(Payment::Sold { placed_at: sale.placed_at })
            }
            PaymentDecision::Open(_) if redis == OrderState::Sold => Extension::Settled(Payment::Unknown),
            PaymentDecision::Open(sale) => match change_hold(sale, charge.reference, wanted) {
                HoldChange::Extend(end) => {
                    let until: i64 = sqlx::query_scalar(
                        "UPDATE fairdrop.sales
                            SET hold_until = greatest(hold_until, $4), extended_for = $3, epoch = $5,
                                extensions = extensions + 1
                          WHERE item_id = $1 AND user_token = $2 RETURNING hold_until",
                    )
                    .bind(charge.item_id.as_str())
                    .bind(charge.buyer.as_str())
                    .bind(charge.reference)
                    .bind(moment(end))
                    .bind(charge.fence.epoch.cast_signed())
                    .fetch_one(&mut *transaction)
                    .await?;
                    Extension::Until(stamp(until)?)
                }
                HoldChange::Keep => Extension::Until(sale.hold_until),
                HoldChange::OfAnother => Extension::Spent,
            },
        };
        transaction.commit().await?;
        Ok(extension)
    }

    async fn give_up_once(&self, charge: Charge<'_>, redis: OrderState) -> Result<Payment, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, charge.item_id, charge.fence.until).await?;
        let facts = read_facts(&mut transaction, charge).await?;
        let (answer, releases) = match facts.decide(charge.reference, Some(redis)) {
            PaymentDecision::Decided(answer) => (answer, false),
            PaymentDecision::Open(sale) if sale.state == SaleState::Sold => {
                (Payment::Sold { placed_at: sale.placed_at }, false)
            }
            // Sold under an earlier epoch; this copy of the ledger does not have the sale.
            PaymentDecision::Open(_) if redis == OrderState::Sold => (Payment::Unknown, false),
            PaymentDecision::Open(sale) => match sale.extended_for.as_deref() {
                Some(reference) if reference != charge.reference => (Payment::HeldForAnother, false),
                Some(_) | None => (Payment::Released, true),
            },
        };
        // Before the release: the lock on the reference is taken before the lock on the epoch.
        record_answer(&mut transaction, charge, &facts, answer).await?;
        if releases {
            sqlx::query(
                "WITH released AS (
                     UPDATE fairdrop.sales SET state = 'released', epoch = $3
                      WHERE item_id = $1 AND user_token = $2 RETURNING reserved_at
                 )
                 INSERT INTO fairdrop.unpaid_holds (item_id, user_token, reserved_at)
                 SELECT $1, $2, reserved_at FROM released WHERE $4",
            )
            .bind(charge.item_id.as_str())
            .bind(charge.buyer.as_str())
            .bind(charge.fence.epoch.cast_signed())
            // A hold that its buyer has cancelled does not count.
            .bind(redis != OrderState::Reserved(Hold::Release))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(answer)
    }
}

/// Repeats `attempt` once if another notice of the same payment was faster and the database has therefore refused a
/// second answer. The repetition reads the first answer.
async fn retry_if_overtaken<T, Fut>(attempt: impl Fn() -> Fut) -> Result<T, LedgerError>
where
    Fut: Future<Output = Result<T, LedgerError>>,
{
    match attempt().await {
        Err(error) if was_overtaken(&error) => attempt().await,
        other => other,
    }
}

fn was_overtaken(error: &LedgerError) -> bool {
    let rules = ["one_answer", "one_payment_one_unit", "payments_pkey"];
    matches!(error, LedgerError::Refused(rule) if rules.contains(&rule.as_str()))
}
