//! Which buyers' records are due to be read from the order log: their order was accepted, and main does not have it.

use live::message::Status;
use order_log::{LogRecord, OrderLog, OrderLogError};
use shared::item::{Item, ItemId};
use shared::queue::OrderState;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The least time between two reads of a buyer's records. Main usually decides within a second.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same for an order that main should have decided: it cannot be reached, or was lost.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(15);
/// Reads of an item's publisher in flight.
const MAX_READS: usize = 16;

/// The reads of one item.
#[derive(Debug, Default)]
pub(crate) struct OrderLogReads {
    next: HashMap<UserToken, Instant>,
    in_flight: usize,
}

impl OrderLogReads {
    /// Whether to read `buyer`'s records now. `main` is the order at main, and `last` what the buyer was last sent.
    pub(crate) fn begin(&mut self, buyer: &UserToken, main: OrderState, last: Status, now: Stamp) -> bool {
        let Status::Accepted { decided_by, .. } = last else { return false };
        if main != OrderState::None {
            self.next.remove(buyer);
            return false;
        }
        let is_due = self.next.get(buyer).is_none_or(|at| *at <= Instant::now());
        if !is_due || self.in_flight >= MAX_READS {
            return false;
        }
        let interval = if now < decided_by { INTERVAL } else { OVERDUE_INTERVAL };
        self.next.insert(buyer.clone(), Instant::now() + interval);
        self.in_flight += 1;
        true
    }

    /// Takes a read's result: the stamp of the newest record, and what to show the buyer where main has no order. `None`:
    /// nothing new.
    pub(crate) fn end(
        &mut self,
        outcome: Result<Option<LogRecord>, OrderLogError>,
        item: &Item,
        now: Stamp,
    ) -> Option<(Stamp, Status)> {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Ok(record) => record.map(|record| {
                let accepted = record.accepted(OrderState::None, None, item.gate(record.placed_at), now);
                // A withdrawal: main's state is the answer.
                (record.placed_at, accepted.map_or(Status::None, Status::from))
            }),
            Err(error) => {
                tracing::warn!(%error, item_id = %item.item_id, "could not read a buyer's order from the region's order log; it stays accepted until the next read");
                None
            }
        }
    }
}

/// The newest record of `buyer`.
pub(crate) async fn read(
    log: OrderLog,
    item_id: ItemId,
    buyer: UserToken,
) -> (UserToken, Result<Option<LogRecord>, OrderLogError>) {
    let outcome = log.latest_of(&item_id, &buyer).await;
    (buyer, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    #[test]
    fn only_an_accepted_order_that_main_lacks_is_read_and_not_too_often() {
        let (alice, ben) = (UserToken::parse("alice").unwrap(), UserToken::parse("ben").unwrap());
        let accepted = Status::Accepted { placed_at: at(5), decided_by: at(20) };
        let mut reads = OrderLogReads::default();
        assert!(!reads.begin(&alice, OrderState::None, Status::None, at(9)));
        assert!(!reads.begin(&alice, OrderState::Sold, accepted, at(9)));
        assert!(reads.begin(&alice, OrderState::None, accepted, at(9)));
        assert!(!reads.begin(&alice, OrderState::None, accepted, at(9)), "it was read a moment ago");
        assert!(reads.begin(&ben, OrderState::None, accepted, at(9)));
        for number in 0..2 * MAX_READS {
            let buyer = UserToken::parse(format!("b{number}")).unwrap();
            assert_eq!(reads.begin(&buyer, OrderState::None, accepted, at(9)), number + 2 < MAX_READS);
        }
    }
}
