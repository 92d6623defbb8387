//! What the ledger has of a payment, and the decision that follows.

use super::{Charge, Decline, Payment};
use crate::items::{moment, stamp};
use crate::records::state;
use crate::{LedgerError, SaleState};
use shared::queue::{Hold, OrderState};
use shared::stamp::Stamp;
use sqlx::{Postgres, Row, Transaction};

/// What the ledger has of a payment.
#[derive(Debug)]
pub(super) struct PaymentFacts {
    /// Its final answer, if there is one, or [`Payment::Used`] if it is another buyer's.
    answered: Option<Payment>,
    sale: Option<SaleRow>,
}

#[derive(Debug)]
pub(super) struct SaleRow {
    pub(super) state: SaleState,
    pub(super) placed_at: Stamp,
    pub(super) hold_until: Stamp,
    pub(super) extended_for: Option<String>,
    /// How often for this payment.
    pub(super) extensions: u16,
    /// The ends that the hold had before it was extended, by a payment or after an outage.
    pub(super) earlier_ends: Vec<i64>,
    /// The latest end that pending payments can give the hold, if the item has one.
    pub(super) latest_end: Option<Stamp>,
    pub(super) payment_reference: Option<String>,
}

#[derive(Debug)]
pub(super) enum PaymentDecision<'a> {
    /// This answer, whatever the notice says.
    Decided(Payment),
    /// The unit waits for a payment: the notice decides.
    Open(&'a SaleRow),
}

impl PaymentFacts {
    /// The decision for payment `reference`. If Redis was not asked (`None`), no payment is refused for something that
    /// Redis may know.
    pub(super) fn decide(&self, reference: &str, redis: Option<OrderState>) -> PaymentDecision<'_> {
        if let Some(answered) = self.answered {
            return PaymentDecision::Decided(answered);
        }
        let is_over = redis.is_some_and(|redis| is_over(self.sale.as_ref(), redis));
        let Some(sale) = &self.sale else {
            return PaymentDecision::Decided(if is_over { Payment::NoReservation } else { Payment::Unknown });
        };
        match (sale.state, sale.payment_reference.as_deref()) {
            (SaleState::Sold, Some(paid)) if paid == reference => {
                PaymentDecision::Decided(Payment::Sold { placed_at: sale.placed_at })
            }
            (SaleState::Sold, Some(_)) => PaymentDecision::Decided(Payment::AlreadyPaid),
            (SaleState::Released, _) if is_over => PaymentDecision::Decided(Payment::Released),
            (SaleState::Voided, _) if is_over => PaymentDecision::Decided(Payment::Voided),
            (SaleState::Released | SaleState::Voided, _) => PaymentDecision::Decided(Payment::Unknown),
            (SaleState::Reserved, _) | (SaleState::Sold, None) => PaymentDecision::Open(sale),
        }
    }

    /// The state of the reservation after an attempt to pay by `reference` was declined.
    pub(super) fn after_decline(&self, reference: &str, redis: OrderState) -> Decline {
        match self.decide(reference, Some(redis)) {
            PaymentDecision::Decided(answer) => Decline::Settled(answer),
            PaymentDecision::Open(sale) if sale.state == SaleState::Sold => {
                Decline::Settled(Payment::Sold { placed_at: sale.placed_at })
            }
            PaymentDecision::Open(sale) => match redis {
                // Sold under an earlier epoch; this copy of the ledger does not have the sale.
                OrderState::Sold => Decline::Settled(Payment::Unknown),
                OrderState::Reserved(Hold::Release) => Decline::Settled(Payment::Released),
                _ => Decline::HeldUntil(sale.hold_until),
            },
        }
    }
}

/// Whether Redis has no reservation of the buyer except one that has ended according to the ledger's `sale`.
fn is_over(sale: Option<&SaleRow>, redis: OrderState) -> bool {
    match (redis, sale) {
        (
            OrderState::None
            | OrderState::Queued { .. }
            | OrderState::Released
            | OrderState::Voided
            | OrderState::Excluded,
            _,
        ) => true,
        // If another reservation was cancelled, it ends when it is recorded.
        (OrderState::Reserved(Hold::Release), sale) => sale.is_some(),
        // Redis may lack an extension of the hold.
        (OrderState::Reserved(Hold::Until(held)), Some(sale)) => {
            sale.hold_until == held || sale.earlier_ends.contains(&moment(held))
        }
        (OrderState::Reserved(_) | OrderState::Sold, _) => false,
    }
}

const READ_FACTS: &str = "
    WITH sale AS (
        SELECT state, placed_at, hold_until, extended_for, payment_reference,
               earlier_ends, extensions,
               (SELECT reserved_at + nullif(max_hold_seconds, 0) * 1000000::bigint FROM fairdrop.items
                 WHERE items.item_id = $1) AS latest_end
          FROM fairdrop.sales WHERE item_id = $1 AND user_token = $2 FOR NO KEY UPDATE
    )
    SELECT sale.*, answered.answer,
           coalesce(answered.user_token <> $2, false)
           OR EXISTS (SELECT FROM fairdrop.sales AS other WHERE other.item_id = $1
                         AND other.payment_reference = $3 AND other.user_token <> $2) AS is_others
      FROM (SELECT 1) AS one
      LEFT JOIN sale ON true
      LEFT JOIN fairdrop.payments AS answered ON answered.item_id = $1 AND answered.payment_reference = $3";

/// Reads what the ledger has of a payment. The buyer's row is locked until the end of the transaction.
pub(super) async fn read_facts(
    transaction: &mut Transaction<'static, Postgres>,
    charge: Charge<'_>,
) -> Result<PaymentFacts, LedgerError> {
    let row = sqlx::query(READ_FACTS)
        .bind(charge.item_id.as_str())
        .bind(charge.buyer.as_str())
        .bind(charge.reference)
        .fetch_one(&mut **transaction)
        .await?;
    let answered = match (row.try_get::<bool, _>("is_others")?, row.try_get::<Option<&str>, _>("answer")?) {
        (true, _) => Some(Payment::Used),
        (false, answer) => answer.map(Payment::from_stored).transpose()?,
    };
    let sale = match row.try_get::<Option<i64>, _>("placed_at")? {
        None => None,
        Some(placed_at) => Some(SaleRow {
            state: state(&row)?,
            placed_at: stamp(placed_at)?,
            hold_until: stamp(row.try_get("hold_until")?)?,
            extended_for: row.try_get("extended_for")?,
            extensions: row.try_get::<i16, _>("extensions")?.unsigned_abs(),
            earlier_ends: row.try_get("earlier_ends")?,
            latest_end: row.try_get::<Option<i64>, _>("latest_end")?.map(stamp).transpose()?,
            payment_reference: row.try_get("payment_reference")?,
        }),
    };
    Ok(PaymentFacts { answered, sale })
}

/// Stores `answer` if it is final and new.
pub(super) async fn record_answer(
    transaction: &mut Transaction<'static, Postgres>,
    charge: Charge<'_>,
    facts: &PaymentFacts,
    answer: Payment,
) -> Result<(), LedgerError> {
    let Some(answer) = answer.stored_as().filter(|_| facts.answered.is_none()) else { return Ok(()) };
    sqlx::query(
        "INSERT INTO fairdrop.payments (item_id, payment_reference, user_token, answer, epoch)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(charge.item_id.as_str())
    .bind(charge.reference)
    .bind(charge.buyer.as_str())
    .bind(answer)
    .bind(charge.fence.epoch.cast_signed())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
impl SaleRow {
    /// A reservation that waits for payment.
    pub(super) fn held(placed_at: Stamp, hold_until: Stamp) -> Self {
        Self {
            state: SaleState::Reserved,
            placed_at,
            hold_until,
            extended_for: None,
            extensions: 0,
            earlier_ends: Vec::new(),
            latest_end: None,
            payment_reference: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: u64 = 500;

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros).unwrap()
    }

    fn row(state: SaleState, paid_by: Option<&str>) -> SaleRow {
        let payment_reference = paid_by.map(str::to_owned);
        SaleRow { state, payment_reference, ..SaleRow::held(at(1), at(HELD)) }
    }

    #[test]
    fn final_answers_are_stored_by_name() {
        for answer in Payment::FINAL {
            assert_eq!(Payment::from_stored(answer.stored_as().unwrap()), Ok(answer));
        }
        assert!(Payment::from_stored("perhaps").is_err());
        for passing in [Payment::Sold { placed_at: at(1) }, Payment::Used, Payment::Unknown] {
            assert_eq!(passing.stored_as(), None);
        }
    }

    #[test]
    fn no_payment_is_refused_permanently_while_a_reservation_may_be_in_transit() {
        let until = |micros| OrderState::Reserved(Hold::Until(at(micros)));
        let released = || Some(row(SaleState::Released, None));
        let voided = || Some(row(SaleState::Voided, None));
        let cases = [
            (None, None, Payment::Unknown),
            (None, Some(OrderState::None), Payment::NoReservation),
            (None, Some(OrderState::Queued { placed_at: at(1), ahead: 0 }), Payment::NoReservation),
            (None, Some(until(HELD)), Payment::Unknown),
            (None, Some(OrderState::Reserved(Hold::Release)), Payment::Unknown),
            (None, Some(OrderState::Sold), Payment::Unknown),
            (released(), None, Payment::Unknown),
            (released(), Some(OrderState::Released), Payment::Released),
            (released(), Some(until(HELD)), Payment::Released),
            (released(), Some(until(HELD + 1)), Payment::Unknown),
            (released(), Some(until(HELD - 1)), Payment::Unknown),
            (released(), Some(OrderState::Reserved(Hold::Sale)), Payment::Unknown),
            (released(), Some(OrderState::Reserved(Hold::Release)), Payment::Released),
            (voided(), None, Payment::Unknown),
            (voided(), Some(OrderState::Voided), Payment::Voided),
            (voided(), Some(until(HELD)), Payment::Voided),
            (voided(), Some(until(HELD + 1)), Payment::Unknown),
            (voided(), Some(OrderState::Sold), Payment::Unknown),
            (Some(row(SaleState::Sold, Some("a"))), None, Payment::Sold { placed_at: at(1) }),
            (Some(row(SaleState::Sold, Some("b"))), None, Payment::AlreadyPaid),
        ];
        for (sale, redis, expected) in cases {
            let facts = PaymentFacts { answered: None, sale };
            let decision = facts.decide("a", redis);
            assert!(
                matches!(decision, PaymentDecision::Decided(answer) if answer == expected),
                "{decision:?} {redis:?}"
            );
        }
        let extended = SaleRow { earlier_ends: vec![HELD as i64 - 9], ..row(SaleState::Released, None) };
        for (held, expected) in [(HELD, true), (HELD - 9, true), (HELD - 1, false), (HELD + 1, false)] {
            assert_eq!(is_over(Some(&extended), until(held)), expected, "{held}");
        }
    }

    #[test]
    fn a_declined_attempt_leaves_the_hold_as_it_is() {
        let held = || Some(row(SaleState::Reserved, None));
        let until = OrderState::Reserved(Hold::Until(at(HELD)));
        let sold = Decline::Settled(Payment::Sold { placed_at: at(1) });
        let another = SaleRow { extended_for: Some("b".into()), ..row(SaleState::Reserved, None) };
        for (answered, sale, redis, expected) in [
            (None, held(), until, Decline::HeldUntil(at(HELD))),
            (None, Some(another), until, Decline::HeldUntil(at(HELD))),
            (None, held(), OrderState::Reserved(Hold::Release), Decline::Settled(Payment::Released)),
            (None, held(), OrderState::Sold, Decline::Settled(Payment::Unknown)),
            (None, None, until, Decline::Settled(Payment::Unknown)),
            (None, None, OrderState::None, Decline::Settled(Payment::NoReservation)),
            (None, Some(row(SaleState::Sold, Some("a"))), OrderState::Sold, sold),
            (None, Some(row(SaleState::Sold, None)), OrderState::Sold, sold),
            (Some(Payment::Released), held(), until, Decline::Settled(Payment::Released)),
        ] {
            let facts = PaymentFacts { answered, sale };
            assert_eq!(facts.after_decline("a", redis), expected, "{facts:?} {redis:?}");
        }
    }

    #[test]
    fn a_final_answer_takes_precedence_over_the_current_rows() {
        for state in [SaleState::Reserved, SaleState::Sold] {
            let open = PaymentFacts { answered: None, sale: Some(row(state, None)) };
            assert!(matches!(open.decide("a", Some(OrderState::None)), PaymentDecision::Open(_)));
            let answered = PaymentFacts { answered: Some(Payment::Released), ..open };
            assert!(matches!(answered.decide("a", None), PaymentDecision::Decided(Payment::Released)));
        }
    }
}
