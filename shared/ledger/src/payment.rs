//! What a payment does to a reservation. Its reference is the idempotency key: the same payment again
//! gets the same answer.
//!
//! An answer after which the shop gives the money back is final, and so is the one to a payment that has
//! failed: the buyer may have a unit again later, which that payment must then neither buy nor release. It is
//! written down (`fairdrop.payments`) in the transaction that decides it, and looked up before all else. A
//! payment that has bought stands in its sale. Whatever else is answered changes with the ledger and is not
//! kept: a hold that was extended, or was for another payment; a reservation on its way.
//!
//! Whether one is on its way, Redis alone knows. [`Ledger::pay`] does without, since most payments buy, in
//! one statement; one that does not is [`Payment::Unknown`] until [`Ledger::refuse`] is told what Redis says.

mod facts;

use crate::items::{lock, moment, stamp};
use crate::{Ledger, LedgerError, SaleState};
use facts::{PaymentDecision, read_facts, record_answer};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::queue::{Hold, OrderState};
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// What came of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// The unit is sold to the buyer: for this payment or, where it was sold at once and this one has not
    /// been paid, for none yet.
    Sold {
        /// The stamp of their order.
        placed_at: Stamp,
    },
    /// The unit was sold to the buyer for another payment. Final.
    AlreadyPaid,
    /// The payment is another buyer's: it has bought their unit of the item, or was refused to them.
    Used,
    /// The reservation had ended before, or this payment's failure has ended it: it buys nothing. Final.
    Released,
    /// There was no reservation for the payment: it buys nothing. Final.
    NoReservation,
    /// The payment has failed, and the hold goes on: it was extended for another one. Final.
    HeldForAnother,
    /// The ledger has no reservation of the buyer's that could be paid, at least not yet.
    Unknown,
}

impl Payment {
    const FINAL: [Self; 4] = [Self::AlreadyPaid, Self::Released, Self::NoReservation, Self::HeldForAnother];

    /// As the ledger keeps it; nothing for what is not final, or stands in a sale.
    fn stored_as(self) -> Option<&'static str> {
        match self {
            Self::AlreadyPaid => Some("already-paid"),
            Self::Released => Some("reservation-ended"),
            Self::NoReservation => Some("no-reservation"),
            Self::HeldForAnother => Some("already-extended"),
            Self::Sold { .. } | Self::Used | Self::Unknown => None,
        }
    }

    fn from_stored(text: &str) -> Result<Self, LedgerError> {
        Self::FINAL
            .into_iter()
            .find(|one| one.stored_as() == Some(text))
            .ok_or_else(|| LedgerError::Refused("an answer that cannot be read".into()))
    }
}

/// What came of a wish for more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The hold lasts until then.
    Until(Stamp),
    /// It has been extended for another payment.
    Spent,
    /// It needs no extension, or it is too late for one.
    Settled(Payment),
}

/// A payment: for what, whose, and under whose word what comes of it is written.
#[derive(Clone, Copy)]
struct Charge<'a> {
    item_id: &'a ItemId,
    buyer: &'a UserToken,
    reference: &'a str,
    fence: Fence,
}

impl Ledger {
    /// Turns the buyer's reservation into a sale, if it has not ended: whichever comes
    /// first, payment or release, decides, and both are told the same.
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
                Ok(None) | Err(_) => self.answer_payment(charge, None).await,
            }
        })
        .await
    }

    /// Refuses for good a payment that buys nothing, where it buys nothing by what `redis` says of the buyer,
    /// too. Where a reservation may still be on its way it is [`Payment::Unknown`], and nothing is written.
    pub async fn refuse(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Payment, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(self.answer_payment(charge, Some(redis))).await
    }

    /// Extends the buyer's hold to `until`, once, while payment `reference` is under way. `redis` is what Redis says of
    /// the buyer: a unit that was sold there, under an earlier epoch, is held for nothing any more.
    pub async fn extend(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        until: Stamp,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Extension, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(async {
            match self.extend_once(charge, until, redis).await {
                Err(error) if was_overtaken(&error) => self.extend_once(charge, until, redis).await,
                other => other,
            }
        })
        .await
    }

    /// Releases the buyer's reservation because its payment has failed, unless its hold was extended for
    /// another one. `redis` is what Redis says of the buyer, as for [`refuse`](Self::refuse).
    pub async fn give_up(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        redis: OrderState,
        fence: Fence,
    ) -> Result<Payment, LedgerError> {
        let charge = Charge { item_id, buyer, reference, fence };
        self.within_limit(async {
            match self.give_up_once(charge, redis).await {
                Err(error) if was_overtaken(&error) => self.give_up_once(charge, redis).await,
                other => other,
            }
        })
        .await
    }
}

/// What has been refused for good is not sold; where that happens at this very moment, the database says so.
const SELL: &str = "
    UPDATE fairdrop.sales SET state = 'sold', payment_reference = $3, epoch = $4
     WHERE item_id = $1 AND user_token = $2
       AND (state = 'reserved' OR state = 'sold' AND payment_reference IS NULL)
       AND NOT EXISTS (SELECT FROM fairdrop.payments AS refused
                        WHERE refused.item_id = $1 AND refused.payment_reference = $3)
    RETURNING placed_at";

impl Ledger {
    async fn sell(&self, charge: Charge<'_>) -> Result<Option<Stamp>, LedgerError> {
        let mut transaction = self.begin_before(charge.fence.until).await?;
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
        match self.answer_payment_once(charge, redis).await {
            Err(error) if was_overtaken(&error) => self.answer_payment_once(charge, redis).await,
            other => other,
        }
    }

    async fn answer_payment_once(
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
            // It was recorded a moment ago.
            PaymentDecision::Open(_) => Payment::Unknown,
        };
        record_answer(&mut transaction, charge, &facts, answer).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    async fn extend_once(
        &self,
        charge: Charge<'_>,
        until: Stamp,
        redis: OrderState,
    ) -> Result<Extension, LedgerError> {
        let mut transaction = self.begin_before(charge.fence.until).await?;
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
            PaymentDecision::Open(sale) => match sale.extended_for.as_deref() {
                None => {
                    let until: i64 = sqlx::query_scalar(
                        "UPDATE fairdrop.sales
                            SET hold_until = greatest(hold_until, $4), extended_for = $3, epoch = $5
                          WHERE item_id = $1 AND user_token = $2 RETURNING hold_until",
                    )
                    .bind(charge.item_id.as_str())
                    .bind(charge.buyer.as_str())
                    .bind(charge.reference)
                    .bind(moment(until))
                    .bind(charge.fence.epoch.cast_signed())
                    .fetch_one(&mut *transaction)
                    .await?;
                    Extension::Until(stamp(until)?)
                }
                Some(reference) if reference == charge.reference => Extension::Until(sale.hold_until),
                Some(_) => Extension::Spent,
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
            // An earlier reign's ledger had it as sold, and this copy of it does not.
            PaymentDecision::Open(_) if redis == OrderState::Sold => (Payment::Unknown, false),
            PaymentDecision::Open(sale) => match sale.extended_for.as_deref() {
                Some(reference) if reference != charge.reference => (Payment::HeldForAnother, false),
                Some(_) | None => (Payment::Released, true),
            },
        };
        // First: the lock on the reference is taken before the reign's.
        record_answer(&mut transaction, charge, &facts, answer).await?;
        if releases {
            sqlx::query(
                "UPDATE fairdrop.sales SET state = 'released', epoch = $3
                  WHERE item_id = $1 AND user_token = $2",
            )
            .bind(charge.item_id.as_str())
            .bind(charge.buyer.as_str())
            .bind(charge.fence.epoch.cast_signed())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(answer)
    }
}

/// Whether another notice of the same payment was quicker, and the database has refused a second answer: the
/// next look finds the first.
fn was_overtaken(error: &LedgerError) -> bool {
    let rules = ["one_answer", "one_payment_one_unit", "payments_pkey"];
    matches!(error, LedgerError::Refused(rule) if rules.contains(&rule.as_str()))
}
