//! Recording reservations as sales.

use super::{BuyerState, Row, STATES, read_states};
use crate::items::{lock, moment};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::permit::Permit;
use shared::queue::Reservation;
use shared::stamp::Stamp;
use std::collections::{HashMap, HashSet};

impl Ledger {
    /// Writes a batch of reservations of one item as one transaction, in order, while there is stock. Returns the state of
    /// each buyer afterwards.
    ///
    /// It can be repeated: a recorded reservation changes nothing, whatever its state is now. A buyer with a released
    /// reservation can only be reserved again by a newer one, and one with a voided unit only for a newer order.
    /// Reservations of excluded buyers are not recorded, nor those that were made after the item was finished.
    ///
    /// With a lease, all reservations are written under the lease's epoch, also those that were made under an earlier
    /// epoch: they stay valid after a failover.
    pub async fn record(
        &self,
        item_id: &ItemId,
        batch: &[Reservation],
        permit: Permit,
    ) -> Result<Vec<BuyerState>, LedgerError> {
        match self.write(item_id, batch, permit, EXCLUSIONS).await {
            Err(error) if error.needs_migration() => {
                self.write(item_id, batch, permit, WITHOUT_EXCLUSIONS).await
            }
            written => written,
        }
    }

    async fn write(
        &self,
        item_id: &ItemId,
        batch: &[Reservation],
        permit: Permit,
        exclusions: &str,
    ) -> Result<Vec<BuyerState>, LedgerError> {
        let buyers: Vec<&str> = batch.iter().map(|one| one.user_token.as_str()).collect();
        let moments =
            |of: fn(&Reservation) -> Stamp| batch.iter().map(|one| moment(of(one))).collect::<Vec<_>>();
        let states: Vec<&str> =
            batch.iter().map(|one| if one.is_held() { "reserved" } else { "sold" }).collect();
        let epochs: Vec<i64> = batch.iter().map(|one| permit.fence(one.epoch).epoch.cast_signed()).collect();
        let (excluded, rows) = self
            .within_limit(async {
                let mut transaction = self.pool.begin().await?;
                let item = lock(&mut transaction, item_id, permit.until()).await?;
                // A Redis that has lost the end of the item may reserve after it: the ledger has no unit for that.
                let may_be_new: Vec<bool> = batch
                    .iter()
                    .map(|one| item.finished_at.is_none_or(|finished_at| one.reserved_at <= finished_at))
                    .collect();
                let record = RECORD.replace("{exclusions}", exclusions);
                let excluded: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(record))
                    .bind(item_id.as_str())
                    .bind(&buyers)
                    .bind(&states)
                    .bind(moments(|one| one.placed_at))
                    .bind(moments(|one| one.reserved_at))
                    .bind(moments(|one| one.hold_until))
                    .bind(&epochs)
                    .bind(item.units_left)
                    .bind(&may_be_new)
                    .fetch_all(&mut *transaction)
                    .await?;
                let rows = read_states(&mut transaction, STATES, item_id, &buyers).await?;
                transaction.commit().await?;
                Ok((excluded, rows))
            })
            .await?;
        let excluded: HashSet<&str> = excluded.iter().map(String::as_str).collect();
        Ok(batch.iter().map(|one| state_of(one, &rows, &excluded)).collect())
    }
}

/// The state of `one` after the ledger has decided about its batch.
fn state_of(one: &Reservation, rows: &HashMap<String, Row>, excluded: &HashSet<&str>) -> BuyerState {
    let buyer = one.user_token.as_str();
    match rows.get(buyer) {
        Some(row) if !row.is_over() || row.reserved_at >= one.reserved_at => row.state,
        _ if excluded.contains(buyer) => BuyerState::Excluded,
        // The same order again: a failover of Redis has brought it back.
        Some(row) if row.state == BuyerState::Voided && row.placed_at >= one.placed_at => BuyerState::Voided,
        // Nothing, or an earlier reservation that is over: no unit was left for this one.
        _ => BuyerState::None,
    }
}

/// The excluded buyers among the candidates. Those with too many unpaid holds are excluded now. An item without a limit
/// reads no holds.
const EXCLUSIONS: &str = "
    over_limit AS (
        SELECT user_token, epoch
          FROM candidates, (SELECT max_unpaid FROM fairdrop.items WHERE item_id = $1) AS item
         WHERE item.max_unpaid IS NOT NULL
           AND (SELECT count(*)
                  FROM (SELECT FROM fairdrop.unpaid_holds AS hold
                         WHERE hold.user_token = candidates.user_token
                           AND hold.ended_at > (extract(epoch FROM now()) * 1000000)::bigint - 30 * 86400000000
                         LIMIT 100) AS of_buyer) >= item.max_unpaid
    ), barred AS (
        INSERT INTO fairdrop.exclusions (item_id, user_token, reason, epoch)
        SELECT $1, user_token, 'too many unpaid holds', epoch FROM over_limit ON CONFLICT DO NOTHING
    ), excluded_buyers AS (
        SELECT user_token FROM candidates
          JOIN (SELECT user_token FROM fairdrop.exclusions WHERE item_id = $1) AS known USING (user_token)
         UNION SELECT user_token FROM over_limit
    )";
/// A release that is not migrated yet records reservations all the same.
const WITHOUT_EXCLUSIONS: &str = "excluded_buyers AS (SELECT ''::text AS user_token LIMIT 0)";

/// Adds the new reservations in their order, as long as there are units left. If a batch has two reservations of one
/// buyer, the later one counts. Returns the excluded buyers of the batch.
const RECORD: &str = "
    WITH batch AS (
        SELECT DISTINCT ON (user_token) *
          FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $9::boolean[])
               WITH ORDINALITY AS t (user_token, state, placed_at, reserved_at, hold_until, epoch, may_be_new, place)
         ORDER BY user_token, reserved_at DESC
    ), candidates AS (
        SELECT batch.* FROM batch
          LEFT JOIN fairdrop.sales AS known ON known.item_id = $1 AND known.user_token = batch.user_token
         WHERE may_be_new
           AND (known.user_token IS NULL
                OR known.state = 'released' AND known.reserved_at < batch.reserved_at
                OR known.state = 'voided' AND known.reserved_at < batch.reserved_at
                   AND known.placed_at < batch.placed_at)
    ), {exclusions}, new_rows AS (
        SELECT * FROM candidates WHERE user_token NOT IN (SELECT user_token FROM excluded_buyers)
         ORDER BY place LIMIT greatest($8, 0)
    ), written AS (
        INSERT INTO fairdrop.sales AS sale (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
        SELECT $1, user_token, state, placed_at, reserved_at, hold_until, epoch FROM new_rows
            ON CONFLICT (item_id, user_token) DO UPDATE
           SET state = excluded.state, placed_at = excluded.placed_at, reserved_at = excluded.reserved_at,
               hold_until = excluded.hold_until, epoch = excluded.epoch, extended_for = NULL, payment_reference = NULL
         WHERE sale.state IN ('released', 'voided') AND sale.reserved_at < excluded.reserved_at
    )
    SELECT user_token FROM excluded_buyers";

#[cfg(test)]
mod tests {
    use super::*;
    use shared::user_token::UserToken;

    #[test]
    fn a_reservation_that_is_not_recorded_has_one_reason() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let row = |state, placed_at, reserved_at| {
            let row = Row { state, placed_at: at(placed_at), reserved_at: at(reserved_at), ends: Vec::new() };
            HashMap::from([("ann".to_owned(), row)])
        };
        let one = Reservation {
            user_token: UserToken::parse("ann").unwrap(),
            placed_at: at(10),
            reserved_at: at(20),
            hold_until: at(30),
            epoch: 1,
        };
        use BuyerState::{Excluded, None, Released, Sold, Voided};
        for (rows, is_excluded, expected) in [
            (HashMap::new(), false, None),
            (HashMap::new(), true, Excluded),
            (row(Sold, 10, 20), true, Sold),
            (row(Released, 10, 20), true, Released),
            (row(Released, 5, 7), false, None),
            (row(Released, 5, 7), true, Excluded),
            (row(Voided, 10, 20), false, Voided),
            (row(Voided, 5, 7), false, None),
            (row(Voided, 10, 15), false, Voided),
            (row(Voided, 10, 15), true, Excluded),
        ] {
            let excluded = if is_excluded { HashSet::from(["ann"]) } else { HashSet::new() };
            assert_eq!(state_of(&one, &rows, &excluded), expected);
        }
    }
}
