//! Cancelling orders.

use super::order::state_of;
use super::{CANCELLED_OFFSET_MICROS, Keys, LinkError, MAX_PLACED, NO_HOLD_MICROS, OrderState, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use redis::Script;
use std::sync::LazyLock;

/// The script's text.
pub const LEAVE_SCRIPT: &str = include_str!("leave.lua");
pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(LEAVE_SCRIPT));

/// The result of a buyer's request to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The order was removed from the queue.
    Left,
    /// The reservation will be released, unless a payment for it comes first.
    Cancelling,
    /// There was nothing to cancel; this is the order's state.
    Stays(OrderState),
}

/// A withdrawal that came through an order log, perhaps late and more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    pub user_token: UserToken,
    /// The stamp of the withdrawal: main queues no order of the buyer that is not newer.
    pub left_at: Stamp,
    /// An order or a reservation with a later stamp stays.
    pub newest: Stamp,
}

/// The result of a [`Withdrawal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    Done(Leave),
    /// The buyer has ordered again since; that order, or its reservation, stays.
    Newer,
    /// There is a reservation, and main does not know the stamp of its order: it stays.
    Unknown,
}

impl Queue {
    /// Removes `buyer`'s waiting order from the queue, and cancels the buyer's reservation if there is one. The item is
    /// active then, so that a worker releases the unit.
    pub async fn leave(&self, item_id: &ItemId, buyer: &UserToken) -> Result<Leave, LinkError> {
        let replies = self.run_leave(item_id, [(buyer, Stamp::MAX, None)].into_iter(), true).await?;
        match replies.as_slice() {
            [Withdrawn::Done(leave)] => Ok(*leave),
            _ => Err(malformed()),
        }
    }

    /// Applies at most [`MAX_PLACED`] `withdrawals` in one round trip, and returns a result for each. With
    /// `without_stamps`, a reservation is cancelled although main does not know the stamp of its order.
    pub async fn withdraw(
        &self,
        item_id: &ItemId,
        withdrawals: &[Withdrawal],
        without_stamps: bool,
    ) -> Result<Vec<Withdrawn>, LinkError> {
        debug_assert!(withdrawals.len() <= MAX_PLACED, "too many withdrawals in one call");
        let parts = withdrawals.iter().map(|one| (&one.user_token, one.newest, Some(one.left_at)));
        self.run_leave(item_id, parts, without_stamps).await
    }

    async fn run_leave<'a>(
        &self,
        item_id: &ItemId,
        withdrawals: impl ExactSizeIterator<Item = (&'a UserToken, Stamp, Option<Stamp>)> + Clone,
        without_stamps: bool,
    ) -> Result<Vec<Withdrawn>, LinkError> {
        let keys = Keys::of(item_id);
        let replies: Vec<String> = self
            .link
            .call(async |mut connection| {
                let mut script = SCRIPT.key(&keys.orders);
                script.key(&keys.reservations).key(&keys.left).key(&keys.served);
                script.arg(NO_HOLD_MICROS).arg(CANCELLED_OFFSET_MICROS).arg(u8::from(without_stamps));
                for (buyer, newest, left_at) in withdrawals.clone() {
                    let left_at = left_at.map_or_else(String::new, |at| at.as_micros().to_string());
                    script.arg(buyer.as_str()).arg(newest.as_micros()).arg(left_at);
                }
                script.invoke_async(&mut connection).await
            })
            .await?;
        if replies.len() != withdrawals.len() {
            return Err(malformed());
        }
        let withdrawn: Vec<Withdrawn> = replies.iter().map(|reply| parse(reply)).collect();
        if withdrawn.contains(&Withdrawn::Done(Leave::Cancelling)) {
            self.activate(item_id).await?;
        }
        Ok(withdrawn)
    }
}

fn parse(reply: &str) -> Withdrawn {
    match reply {
        "left" => Withdrawn::Done(Leave::Left),
        "cancelling" => Withdrawn::Done(Leave::Cancelling),
        "newer" => Withdrawn::Newer,
        "unknown" => Withdrawn::Unknown,
        score => Withdrawn::Done(Leave::Stays(state_of(None, None, score.parse().ok()))),
    }
}

fn malformed() -> LinkError {
    LinkError::Refused("the leave script returned a malformed answer".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::MAX_WINDOW;

    #[test]
    fn a_withdrawal_is_kept_for_twice_the_longest_window() {
        let micros = 2 * MAX_WINDOW.as_micros();
        assert!(LEAVE_SCRIPT.contains(&format!("+ time[2] - {micros})")));
    }
}
