//! Releasing unpaid reservations, and the states of buyers. Recording reservations is in `record`.

mod record;

use crate::items::{lock, moment, stamp};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Postgres, Row as _, Transaction};
use std::collections::HashMap;

/// The state of a buyer for an item in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuyerState {
    /// The buyer has bought the unit.
    Sold,
    /// A unit is reserved until `until`, unless the buyer pays or cancels before.
    Reserved { until: Stamp },
    /// The last reservation ended without a sale.
    Released,
    /// An operator has taken the unit back.
    Voided,
    /// The buyer is excluded: the ledger has not recorded the reservation, whose unit is free again.
    Excluded,
    /// The ledger has no such reservation, and had no unit for it.
    None,
}

/// A due reservation, as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub user_token: UserToken,
    /// The end of its hold, as Redis has it. It distinguishes the reservation from an earlier one of the same buyer,
    /// which may be the only one in the ledger yet.
    pub hold_until: Stamp,
    /// Whether the buyer has cancelled before the end.
    pub cancelled: bool,
    /// Redis has the note of a payment that was reported before the hold's end and is not decided: the hold goes on to this
    /// moment.
    pub kept_until: Option<Stamp>,
}

impl Ledger {
    /// Releases the reservations of `due` that are still reserved, if the hold has ended at `now` (main's clock) or the
    /// buyer has cancelled. Returns the state of each buyer afterwards.
    ///
    /// A hold does not end by itself if the item keeps the holds of earlier epochs, or if no worker has
    /// [served](Self::serve) just before. If there was an outage, or a payment was reported in time (`kept_until`, or a
    /// [note](Self::note_attempt) in the ledger), the hold is extended.
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
        let kept: Vec<i64> = due.iter().map(|one| one.kept_until.map_or(0, moment)).collect();
        let states = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                lock(&mut transaction, item_id, fence.until).await?;
                sqlx::query(GIVE_GRACE)
                    .bind(item_id.as_str())
                    .bind(&buyers)
                    .bind(&ends)
                    .bind(&cancelled)
                    .bind(moment(now))
                    .bind(fence.epoch.cast_signed())
                    .bind(&kept)
                    .execute(&mut *transaction)
                    .await?;
                sqlx::query(RELEASE)
                    .bind(item_id.as_str())
                    .bind(&buyers)
                    .bind(&ends)
                    .bind(&cancelled)
                    .bind(moment(now))
                    .bind(fence.epoch.cast_signed())
                    .execute(&mut *transaction)
                    .await?;
                let states = read_states(&mut transaction, STATES_AND_ENDS, item_id, &buyers).await?;
                transaction.commit().await?;
                Ok(states)
            })
            .await?;
        Ok(due.iter().map(|one| state_of(one, &states)).collect())
    }
}

impl Ledger {
    /// The `buyers` without a row in the ledger, not even a released reservation.
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
                read_states(&mut transaction, STATES, item_id, &names).await
            })
            .await?;
        Ok(buyers.into_iter().filter(|buyer| !known.contains_key(buyer.as_str())).cloned().collect())
    }

    /// The state of each reservation of `asked`.
    pub async fn buyer_states(
        &self,
        item_id: &ItemId,
        asked: &[Due],
    ) -> Result<Vec<BuyerState>, LedgerError> {
        let buyers: Vec<&str> = asked.iter().map(|one| one.user_token.as_str()).collect();
        let states = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                read_states(&mut transaction, STATES_AND_ENDS, item_id, &buyers).await
            })
            .await?;
        Ok(asked.iter().map(|one| state_of(one, &states)).collect())
    }
}

/// Extends holds that would end although their buyers could not pay, or have paid in time. Redis may lack an earlier
/// extension.
const GIVE_GRACE: &str = "
    UPDATE fairdrop.sales AS sale
       SET hold_until = greatest(service.grace_until, due.kept_until,
                                 fairdrop.noted_until(sale.item_id, sale.user_token, sale.hold_until)),
           graces = sale.graces + 1, epoch = $6
      FROM (SELECT coalesce(max(grace_until), 0) AS grace_until FROM fairdrop.service) AS service,
           unnest($2::text[], $3::bigint[], $4::boolean[], $7::bigint[])
               AS due (user_token, hold_until, cancelled, kept_until)
     WHERE sale.item_id = $1 AND sale.user_token = due.user_token AND sale.state = 'reserved'
       AND due.hold_until = ANY (sale.earlier_ends || sale.hold_until)
       AND NOT due.cancelled AND sale.hold_until <= $5 AND sale.graces < 8
       AND greatest(service.grace_until, due.kept_until,
                    fairdrop.noted_until(sale.item_id, sale.user_token, sale.hold_until)) > $5";

/// A hold that was extended may have a later end than in Redis. The comparison with the last moment of service is for a
/// process that was frozen since, and for a clock that was set back.
///
/// A hold that its buyer cancelled is no unpaid one.
const RELEASE: &str = "
    WITH released AS (
        UPDATE fairdrop.sales AS sale SET state = 'released', epoch = $6
          FROM unnest($2::text[], $3::bigint[], $4::boolean[]) AS due (user_token, hold_until, cancelled)
         WHERE sale.item_id = $1 AND sale.user_token = due.user_token AND sale.state = 'reserved'
           AND due.hold_until = ANY (sale.earlier_ends || sale.hold_until)
           AND (due.cancelled OR sale.hold_until <= $5
                AND NOT EXISTS (SELECT FROM fairdrop.service WHERE abs(served_until - $5) > 5000000)
                AND sale.reserved_at >= (SELECT old_holds_before FROM fairdrop.items WHERE item_id = $1))
        RETURNING sale.user_token, sale.reserved_at, due.cancelled
    )
    INSERT INTO fairdrop.unpaid_holds (item_id, user_token, reserved_at)
    SELECT $1, user_token, reserved_at FROM released WHERE NOT cancelled";

/// A buyer's row.
struct Row {
    state: BuyerState,
    placed_at: Stamp,
    reserved_at: Stamp,
    /// The ends that its hold has had, if they were asked for.
    ends: Vec<i64>,
}

impl Row {
    /// Whether the buyer may be reserved again.
    fn is_over(&self) -> bool {
        matches!(self.state, BuyerState::Released | BuyerState::Voided)
    }
}

/// The state of the reservation of `due`. If the buyer's row is about an earlier reservation that is over, the task
/// of this one is still in transit.
fn state_of(due: &Due, rows: &HashMap<String, Row>) -> BuyerState {
    match rows.get(due.user_token.as_str()) {
        None => BuyerState::None,
        Some(row) if row.is_over() && !row.ends.contains(&moment(due.hold_until)) => BuyerState::None,
        Some(row) => row.state,
    }
}

/// Redis may lack an extension of the hold: its earlier ends are the reservation's, too.
const STATES_AND_ENDS: &str = "
    SELECT user_token, state, placed_at, reserved_at, hold_until, earlier_ends || hold_until AS ends
      FROM fairdrop.sales WHERE item_id = $1 AND user_token = ANY ($2)";

/// Without the columns of migration 10: a release that is not migrated yet records reservations all the same.
const STATES: &str = "
    SELECT user_token, state, placed_at, reserved_at, hold_until, '{}'::bigint[] AS ends
      FROM fairdrop.sales WHERE item_id = $1 AND user_token = ANY ($2)";

/// The rows of `buyers`, by one of the queries above.
async fn read_states(
    transaction: &mut Transaction<'static, Postgres>,
    query: &'static str,
    item_id: &ItemId,
    buyers: &[&str],
) -> Result<HashMap<String, Row>, LedgerError> {
    let rows = sqlx::query(query).bind(item_id.as_str()).bind(buyers).fetch_all(&mut **transaction).await?;
    rows.iter()
        .map(|row| {
            let hold_until = stamp(row.try_get("hold_until")?)?;
            let state = match row.try_get("state")? {
                "sold" => BuyerState::Sold,
                "reserved" => BuyerState::Reserved { until: hold_until },
                "voided" => BuyerState::Voided,
                _ => BuyerState::Released,
            };
            let placed_at = stamp(row.try_get("placed_at")?)?;
            let reserved_at = stamp(row.try_get("reserved_at")?)?;
            let ends = row.try_get("ends")?;
            Ok((row.try_get("user_token")?, Row { state, placed_at, reserved_at, ends }))
        })
        .collect()
}
