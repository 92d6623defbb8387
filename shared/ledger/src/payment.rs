//! What a payment does to a reservation. The reference of the payment is the
//! idempotency key: the same payment again gets the same answer.

use crate::items::{lock, moment, stamp};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Reign;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Postgres, Row, Transaction};

/// What came of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// The unit is sold to the buyer, for this payment.
    Sold {
        /// The stamp of their order.
        placed_at: Stamp,
    },
    /// The unit was sold to the buyer for another payment.
    PaidOtherwise,
    /// The payment has bought another buyer's unit of the item.
    Used,
    /// The reservation had ended before: the payment buys nothing.
    Released,
    /// The ledger has no reservation of the buyer's, at least not yet.
    Unknown,
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

impl Ledger {
    /// Turns the buyer's reservation into a sale, if it has not ended: whichever comes
    /// first, payment or release, decides, and both are told the same.
    pub async fn pay(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        reign: Reign,
    ) -> Result<Payment, LedgerError> {
        let paid = self
            .within_limit(async {
                let mut transaction = self.begin_before(reign.until).await?;
                let placed_at: Option<i64> = sqlx::query_scalar(
                    "UPDATE fairdrop.sales SET state = 'sold', payment_reference = $3, epoch = $4
                      WHERE item_id = $1 AND user_token = $2
                        AND (state = 'reserved' OR state = 'sold' AND payment_reference IS NULL)
                     RETURNING placed_at",
                )
                .bind(item_id.as_str())
                .bind(buyer.as_str())
                .bind(reference)
                .bind(reign.epoch.cast_signed())
                .fetch_optional(&mut *transaction)
                .await?;
                let payment = match placed_at {
                    Some(placed_at) => Payment::Sold { placed_at: stamp(placed_at)? },
                    None => standing(&mut transaction, item_id, buyer, reference).await?,
                };
                transaction.commit().await?;
                Ok(payment)
            })
            .await;
        match paid {
            Err(LedgerError::Refused(constraint)) if constraint == "one_payment_one_unit" => {
                Ok(Payment::Used)
            }
            other => other,
        }
    }

    /// Extends the buyer's hold to `until`, once, while payment `reference` is under way.
    pub async fn extend(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        until: Stamp,
        reign: Reign,
    ) -> Result<Extension, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.begin_before(reign.until).await?;
            sqlx::query(
                "UPDATE fairdrop.sales SET hold_until = greatest(hold_until, $4), extended_for = $3, epoch = $5
                  WHERE item_id = $1 AND user_token = $2 AND state = 'reserved' AND extended_for IS NULL",
            )
            .bind(item_id.as_str())
            .bind(buyer.as_str())
            .bind(reference)
            .bind(moment(until))
            .bind(reign.epoch.cast_signed())
            .execute(&mut *transaction)
            .await?;
            let row = sqlx::query(
                "SELECT hold_until, extended_for = $3 AS ours FROM fairdrop.sales
                  WHERE item_id = $1 AND user_token = $2 AND state = 'reserved'",
            )
            .bind(item_id.as_str())
            .bind(buyer.as_str())
            .bind(reference)
            .fetch_optional(&mut *transaction)
            .await?;
            let extension = match row {
                None => Extension::Settled(standing(&mut transaction, item_id, buyer, reference).await?),
                Some(row) if row.try_get::<Option<bool>, _>("ours")? == Some(true) => {
                    Extension::Until(stamp(row.try_get("hold_until")?)?)
                }
                Some(_) => Extension::Spent,
            };
            transaction.commit().await?;
            Ok(extension)
        })
        .await
    }

    /// Releases the buyer's reservation because its payment has failed.
    pub async fn give_up(
        &self,
        item_id: &ItemId,
        buyer: &UserToken,
        reference: &str,
        reign: Reign,
    ) -> Result<Payment, LedgerError> {
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            lock(&mut transaction, item_id, reign.until).await?;
            sqlx::query(
                "UPDATE fairdrop.sales SET state = 'released', epoch = $3
                  WHERE item_id = $1 AND user_token = $2 AND state = 'reserved'",
            )
            .bind(item_id.as_str())
            .bind(buyer.as_str())
            .bind(reign.epoch.cast_signed())
            .execute(&mut *transaction)
            .await?;
            let payment = standing(&mut transaction, item_id, buyer, reference).await?;
            transaction.commit().await?;
            Ok(payment)
        })
        .await
    }
}

/// What the buyer's row says to the bearer of `reference`, where it is not reserved.
async fn standing(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
    buyer: &UserToken,
    reference: &str,
) -> Result<Payment, LedgerError> {
    let row = sqlx::query(
        "SELECT state, placed_at, payment_reference = $3 AS ours FROM fairdrop.sales
          WHERE item_id = $1 AND user_token = $2",
    )
    .bind(item_id.as_str())
    .bind(buyer.as_str())
    .bind(reference)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(Payment::Unknown) };
    Ok(match (row.try_get("state")?, row.try_get::<Option<bool>, _>("ours")?) {
        ("sold", Some(true)) => Payment::Sold { placed_at: stamp(row.try_get("placed_at")?)? },
        ("sold", _) => Payment::PaidOtherwise,
        ("released", _) => Payment::Released,
        _ => Payment::Unknown,
    })
}
