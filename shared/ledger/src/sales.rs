//! Reservations become sales, and unpaid ones are released.

use crate::items::{lock, moment, stamp};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::{Fence, Permit};
use shared::queue::Reservation;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Postgres, Row as _, Transaction};
use std::collections::HashMap;

/// What is true of a buyer and an item, as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuyerState {
    /// The unit is theirs.
    Sold,
    /// A unit is held for them until then, unless they pay or give it back.
    Reserved {
        /// When the hold ends.
        until: Stamp,
    },
    /// Their last reservation ended unsold.
    Released,
    /// The ledger has no unit for them, and nothing of theirs.
    None,
}

/// A reservation whose time has come, as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub user_token: UserToken,
    /// When its hold ends, as Redis has it. It tells the reservation from an earlier one
    /// of the same buyer, which may be all that the ledger knows yet.
    pub hold_until: Stamp,
    /// Whether the buyer gave it back before its end.
    pub cancelled: bool,
}

impl Ledger {
    /// Writes a batch of reservations of one item as one transaction, in their order, as
    /// long as there is stock. Returns how each buyer stands after it.
    ///
    /// Safe to repeat: a reservation that is recorded already changes nothing, whatever
    /// has become of it since. A buyer who was released comes back only with a newer one.
    ///
    /// By a lease, all of it is written under the lease's epoch, also what was promised under an
    /// earlier one: the promise has outlived the failover.
    pub async fn record(
        &self,
        item_id: &ItemId,
        batch: &[Reservation],
        permit: Permit,
    ) -> Result<Vec<BuyerState>, LedgerError> {
        let buyers: Vec<&str> = batch.iter().map(|one| one.user_token.as_str()).collect();
        let moments =
            |of: fn(&Reservation) -> Stamp| batch.iter().map(|one| moment(of(one))).collect::<Vec<_>>();
        let states: Vec<&str> =
            batch.iter().map(|one| if one.is_held() { "reserved" } else { "sold" }).collect();
        let epochs: Vec<i64> = batch.iter().map(|one| permit.fence(one.epoch).epoch.cast_signed()).collect();
        let states = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                let left = lock(&mut transaction, item_id, permit.until()).await?;
                sqlx::query(RECORD)
                    .bind(item_id.as_str())
                    .bind(&buyers)
                    .bind(&states)
                    .bind(moments(|one| one.placed_at))
                    .bind(moments(|one| one.reserved_at))
                    .bind(moments(|one| one.hold_until))
                    .bind(&epochs)
                    .bind(left)
                    .execute(&mut *transaction)
                    .await?;
                let states = read_states(&mut transaction, item_id, &buyers).await?;
                transaction.commit().await?;
                Ok(states)
            })
            .await?;
        Ok(batch
            .iter()
            .map(|one| match states.get(one.user_token.as_str()) {
                None => BuyerState::None,
                // Released before, and no unit was left for the new reservation.
                Some(row) if row.state == BuyerState::Released && row.reserved_at < one.reserved_at => {
                    BuyerState::None
                }
                Some(row) => row.state,
            })
            .collect())
    }

    /// Releases what is still reserved of `due`, if its hold has ended at `now` by main's
    /// clock or its buyer gave it back. Where the item keeps the holds of earlier reigns, none of those ends by
    /// itself. Returns how each buyer stands after it.
    pub async fn release_due(
        &self,
        item_id: &ItemId,
        due: &[Due],
        now: Stamp,
        fence: Fence,
    ) -> Result<Vec<BuyerState>, LedgerError> {
        let buyers: Vec<&str> = due.iter().map(|one| one.user_token.as_str()).collect();
        let ends: Vec<i64> = due.iter().map(|one| moment(one.hold_until)).collect();
        let cancelled: Vec<bool> = due.iter().map(|one| one.cancelled).collect();
        let states = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                lock(&mut transaction, item_id, fence.until).await?;
                sqlx::query(RELEASE)
                    .bind(item_id.as_str())
                    .bind(&buyers)
                    .bind(&ends)
                    .bind(&cancelled)
                    .bind(moment(now))
                    .bind(fence.epoch.cast_signed())
                    .execute(&mut *transaction)
                    .await?;
                let states = read_states(&mut transaction, item_id, &buyers).await?;
                transaction.commit().await?;
                Ok(states)
            })
            .await?;
        Ok(due.iter().map(|one| state_of(one, &states)).collect())
    }
}

impl Ledger {
    /// Those of `buyers` of whom the ledger has nothing, not even a released reservation.
    pub async fn unknown_among(
        &self,
        item_id: &ItemId,
        buyers: impl Iterator<Item = &UserToken>,
    ) -> Result<Vec<UserToken>, LedgerError> {
        let buyers: Vec<&UserToken> = buyers.collect();
        let names: Vec<&str> = buyers.iter().map(|buyer| buyer.as_str()).collect();
        let known = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                read_states(&mut transaction, item_id, &names).await
            })
            .await?;
        Ok(buyers.into_iter().filter(|buyer| !known.contains_key(buyer.as_str())).cloned().collect())
    }

    /// How the reservations of `asked` stand.
    pub async fn buyer_states(
        &self,
        item_id: &ItemId,
        asked: &[Due],
    ) -> Result<Vec<BuyerState>, LedgerError> {
        let buyers: Vec<&str> = asked.iter().map(|one| one.user_token.as_str()).collect();
        let states = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                read_states(&mut transaction, item_id, &buyers).await
            })
            .await?;
        Ok(asked.iter().map(|one| state_of(one, &states)).collect())
    }
}

/// Adds the reservations that are news, as many as there are units left, in the order
/// in which they came. Of two of one buyer in a batch the later one counts.
const RECORD: &str = "
    WITH asked AS (
        SELECT DISTINCT ON (user_token) *
          FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
               WITH ORDINALITY AS t (user_token, state, placed_at, reserved_at, hold_until, epoch, place)
         ORDER BY user_token, reserved_at DESC
    ), news AS (
        SELECT asked.* FROM asked
          LEFT JOIN fairdrop.sales AS known ON known.item_id = $1 AND known.user_token = asked.user_token
         WHERE known.user_token IS NULL OR (known.state = 'released' AND known.reserved_at < asked.reserved_at)
         ORDER BY place LIMIT greatest($8, 0)
    )
    INSERT INTO fairdrop.sales AS sale (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
    SELECT $1, user_token, state, placed_at, reserved_at, hold_until, epoch FROM news
        ON CONFLICT (item_id, user_token) DO UPDATE
       SET state = excluded.state, placed_at = excluded.placed_at, reserved_at = excluded.reserved_at,
           hold_until = excluded.hold_until, epoch = excluded.epoch, extended_for = NULL, payment_reference = NULL
     WHERE sale.state = 'released' AND sale.reserved_at < excluded.reserved_at";

const RELEASE: &str = "
    UPDATE fairdrop.sales AS sale SET state = 'released', epoch = $6
      FROM unnest($2::text[], $3::bigint[], $4::boolean[]) AS due (user_token, hold_until, cancelled)
     WHERE sale.item_id = $1 AND sale.user_token = due.user_token AND sale.state = 'reserved'
       AND (sale.hold_until = due.hold_until
            OR sale.extended_for IS NOT NULL AND sale.hold_until > due.hold_until)
       AND (due.cancelled OR sale.hold_until <= $5
            AND sale.reserved_at >= (SELECT old_holds_before FROM fairdrop.items WHERE item_id = $1))";

/// A buyer's row.
struct Row {
    state: BuyerState,
    reserved_at: Stamp,
    hold_until: Stamp,
    is_extended: bool,
}

/// How the reservation of `due` stands. What the buyer's row says of an earlier one, which
/// has been released, says nothing of it: its task is still on its way.
fn state_of(due: &Due, rows: &HashMap<String, Row>) -> BuyerState {
    match rows.get(due.user_token.as_str()) {
        None => BuyerState::None,
        Some(row) if row.state == BuyerState::Released => {
            // Redis may not have been told of an extension.
            let is_it =
                row.hold_until == due.hold_until || row.is_extended && row.hold_until > due.hold_until;
            if is_it { BuyerState::Released } else { BuyerState::None }
        }
        Some(row) => row.state,
    }
}

/// The rows of `buyers`.
async fn read_states(
    transaction: &mut Transaction<'static, Postgres>,
    item_id: &ItemId,
    buyers: &[&str],
) -> Result<HashMap<String, Row>, LedgerError> {
    let rows = sqlx::query(
        "SELECT user_token, state, reserved_at, hold_until, extended_for IS NOT NULL AS is_extended
           FROM fairdrop.sales WHERE item_id = $1 AND user_token = ANY ($2)",
    )
    .bind(item_id.as_str())
    .bind(buyers)
    .fetch_all(&mut **transaction)
    .await?;
    rows.iter()
        .map(|row| {
            let hold_until = stamp(row.try_get("hold_until")?)?;
            let state = match row.try_get("state")? {
                "sold" => BuyerState::Sold,
                "reserved" => BuyerState::Reserved { until: hold_until },
                _ => BuyerState::Released,
            };
            let reserved_at = stamp(row.try_get("reserved_at")?)?;
            let is_extended = row.try_get("is_extended")?;
            Ok((row.try_get("user_token")?, Row { state, reserved_at, hold_until, is_extended }))
        })
        .collect()
}
