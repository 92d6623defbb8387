//! What a record says about an order that main does not have. Pure: nothing here calls the table.

use crate::{LogRecord, RecordKind, decided_by};
use shared::item::Gate;
use shared::queue::OrderState;
use shared::stamp::Stamp;

/// The state of an order that the region has accepted and main does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Main has not decided about it, as far as is known.
    Undecided { placed_at: Stamp, decided_by: Stamp },
    /// It is not in the queue, for this reason: the last part of a problem's type.
    Refused { placed_at: Stamp, reason: &'static str },
}

/// Whether an order may be in the log without being in main: only then the log is asked.
pub fn may_be_accepted(main: OrderState) -> bool {
    matches!(main, OrderState::None | OrderState::Released | OrderState::Voided)
}

impl LogRecord {
    /// What the buyer's newest record says at `now`, where main has `main` for the buyer, whose unit was released at
    /// `released_at`. `gate` is the item's at the record's stamp. `None`: main's state is the answer.
    ///
    /// An order from before the release or void was decided: it was served, or another one of the buyer was. The drain
    /// drops an order whose stamp lies outside the gates, and leaves no trace of it; that is known once the order must
    /// have been decided. Any other order without a decision stays undecided, however late it is: main may have been
    /// unreachable, or lost.
    pub fn accepted(
        &self,
        main: OrderState,
        released_at: Option<Stamp>,
        gate: Gate,
        now: Stamp,
    ) -> Option<Accepted> {
        let placed_at = self.placed_at;
        let refused = |reason| Some(Accepted::Refused { placed_at, reason });
        if !may_be_accepted(main) || self.kind == RecordKind::Leave {
            return None;
        }
        if let Some(refusal) = self.refusal {
            return refused(refusal.reason.slug());
        }
        let decided_by = decided_by(placed_at);
        match gate {
            _ if main != OrderState::None && released_at.is_none_or(|at| placed_at <= at) => None,
            Gate::NotOpenYet if now >= decided_by => refused("not-open-yet"),
            Gate::Closed if now >= decided_by => refused("closed"),
            _ => Some(Accepted::Undecided { placed_at, decided_by }),
        }
    }

    /// Whether the buyer's newest record is an order that main may still queue, for the same arguments: also where the
    /// buyer's unit was released, since this order may be newer.
    pub fn is_pending(&self, main: OrderState, gate: Gate, now: Stamp) -> bool {
        let is_young =
            self.kind == RecordKind::Order && self.refusal.is_none() && now < decided_by(self.placed_at);
        is_young || matches!(self.accepted(main, None, gate, now), Some(Accepted::Undecided { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, RefusalReason};
    use shared::user_token::UserToken;

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    fn record(kind: RecordKind, refusal: Option<Refusal>) -> LogRecord {
        let buyer = UserToken::parse("alice").unwrap();
        LogRecord { refusal, ..LogRecord::new(kind, "shoe".parse().unwrap(), buyer, at(5)) }
    }

    #[test]
    fn an_order_is_undecided_until_main_or_its_record_or_the_gates_decide() {
        let order = record(RecordKind::Order, None);
        let until = decided_by(at(5));
        let undecided = Some(Accepted::Undecided { placed_at: at(5), decided_by: until });
        for now in [at(5), until, until.saturating_add(std::time::Duration::from_secs(3_600))] {
            assert_eq!(order.accepted(OrderState::None, None, Gate::Open, now), undecided);
            // A unit of the buyer was released before this order, or after it.
            assert_eq!(order.accepted(OrderState::Released, Some(at(4)), Gate::Open, now), undecided);
            assert_eq!(order.accepted(OrderState::Released, Some(at(5)), Gate::Open, now), None);
            for main in
                [OrderState::Released, OrderState::Sold, OrderState::Queued { placed_at: at(5), ahead: 0 }]
            {
                assert_eq!(order.accepted(main, None, Gate::Open, now), None, "{main:?}");
            }
            let leave = record(RecordKind::Leave, None);
            assert_eq!(leave.accepted(OrderState::None, None, Gate::Open, now), None);
            let refusal = Refusal { reason: RefusalReason::TooLate, decided_at: at(9) };
            let refused = Some(Accepted::Refused { placed_at: at(5), reason: "too-late" });
            for main in [OrderState::None, OrderState::Released, OrderState::Voided] {
                let order = record(RecordKind::Order, Some(refusal));
                assert_eq!(order.accepted(main, None, Gate::Open, now), refused);
            }
        }
        for (gate, reason) in [(Gate::NotOpenYet, "not-open-yet"), (Gate::Closed, "closed")] {
            assert_eq!(order.accepted(OrderState::None, None, gate, at(6)), undecided);
            let refused = Some(Accepted::Refused { placed_at: at(5), reason });
            assert_eq!(order.accepted(OrderState::None, None, gate, until), refused);
        }
    }

    #[test]
    fn an_order_is_pending_while_main_may_still_queue_it() {
        let order = record(RecordKind::Order, None);
        let until = decided_by(at(5));
        assert!(
            order.is_pending(OrderState::Released, Gate::Open, at(6)),
            "it may be newer than the release"
        );
        assert!(!order.is_pending(OrderState::Released, Gate::Open, until));
        assert!(order.is_pending(OrderState::None, Gate::Open, until), "main may have been unreachable");
        assert!(!order.is_pending(OrderState::None, Gate::Closed, until));
        let refusal = Refusal { reason: RefusalReason::TooLate, decided_at: at(9) };
        for decided in [record(RecordKind::Order, Some(refusal)), record(RecordKind::Leave, None)] {
            assert!(!decided.is_pending(OrderState::None, Gate::Open, at(6)));
        }
    }
}
