//! Writing units that an operator has taken back to Redis.

use crate::{ReconcileError, exclusions};
use ledger::{Ledger, SaleState, Void};
use shared::queue::{CANCELLED_OFFSET_MICROS, ItemError, Queue, ReservationOutcome, Settlement};

/// Returns the unit of a void to the stock, unless Redis has done so, and notes in the ledger that Redis has the void.
/// Marks the buyer if the ledger excludes them. Safe to repeat: only the reservation that was voided is changed, and Redis
/// has it by one of its scores.
pub async fn settle_void(queue: &Queue, ledger: &Ledger, void: &Void) -> Result<(), ReconcileError> {
    queue.settle(&void.item_id, &settlements(void)).await.map_err(ItemError::from)?;
    exclusions::mark_excluded(queue, ledger, &void.item_id, &[&void.user_token]).await?;
    Ok(ledger.void_is_settled(void).await?)
}

fn settlements(void: &Void) -> Vec<Settlement> {
    let held = void.ends.iter().map(|end| end.as_micros());
    // The buyer may have cancelled.
    let scores = held.flat_map(|end| [Some(end), end.checked_sub(CANCELLED_OFFSET_MICROS)]).flatten();
    let sold = (void.was == SaleState::Sold).then(|| "inf".to_owned());
    let settlement = |score| Settlement {
        user_token: void.user_token.clone(),
        expected: Some(score),
        outcome: ReservationOutcome::Voided,
    };
    scores.map(|score| score.to_string()).chain(sold).map(settlement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::stamp::Stamp;
    use shared::user_token::UserToken;

    #[test]
    fn only_a_score_of_the_voided_reservation_is_replaced() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let end = 1_795_000_000_000_000;
        let void = |was| Void {
            void_id: 1,
            item_id: "shoe".parse().unwrap(),
            user_token: UserToken::parse("ann").unwrap(),
            was,
            placed_at: at(1),
            reserved_at: at(2),
            payment_reference: None,
            ends: vec![at(end), at(end + 7)],
            reason: "fraud".into(),
            by: None,
            voided_at: at(9),
        };
        let scores = |was| settlements(&void(was)).into_iter().filter_map(|one| one.expected).collect();
        let held: Vec<String> = scores(SaleState::Reserved);
        assert_eq!(held, ["1795000000000000", "295000000000000", "1795000000000007", "295000000000007"]);
        let sold: Vec<String> = scores(SaleState::Sold);
        assert_eq!(sold.last().map(String::as_str), Some("inf"));
    }
}
