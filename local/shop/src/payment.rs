//! One payment: what is known about the buyer's money, and what follows from it.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use shared::item::ItemId;

/// Cards that a buyer can try for one reservation.
pub(crate) const MAX_ATTEMPTS: u32 = 20;

/// The payment for one reservation. It is written to the journal before the card is charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payment {
    /// The idempotency key at the provider and at fairdrop: one for each reservation, so that a reservation is never
    /// paid twice.
    pub(crate) reference: String,
    pub(crate) item_id: ItemId,
    pub(crate) buyer: String,
    pub(crate) reserved_at: u64,
    /// The number of the attempt: a declined payment can be tried again, with another card.
    pub(crate) attempt: u32,
    /// The provider's name of the card. A shop stores no card numbers.
    pub(crate) card: String,
    pub(crate) status: PaymentStatus,
    /// Why fairdrop refused the payment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaymentStatus {
    /// The shop has asked the provider, or is about to: the money may be taken.
    Charging,
    /// The provider will know later.
    Processing,
    /// This attempt failed. The same payment may still succeed.
    Declined,
    /// The money is taken. fairdrop has not decided yet.
    Paid,
    /// The unit is the buyer's.
    Sold,
    /// fairdrop refused the payment permanently: the money goes back.
    RefundDue,
    /// The money is back.
    Refunded,
}

/// The provider's answer about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChargeStatus {
    Succeeded,
    Declined,
    Processing,
}

/// What the shop learns about a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PaymentNews {
    Charge {
        attempt: u32,
        status: ChargeStatus,
    },
    Sold,
    Refused(String),
    /// An operator has taken the unit back.
    Voided,
    Refunded,
}

impl Payment {
    /// The first attempt for a reservation.
    pub(crate) fn new(item_id: &ItemId, buyer: &str, reserved_at: u64, card: &str) -> Self {
        Self {
            reference: reference(item_id, buyer, reserved_at),
            item_id: item_id.clone(),
            buyer: buyer.to_owned(),
            reserved_at,
            attempt: 1,
            card: card.to_owned(),
            status: PaymentStatus::Charging,
            refused: None,
        }
    }

    /// The next attempt with `card`; `None` if the last one has not failed, or if there were too many.
    pub(crate) fn again(&self, card: &str) -> Option<Self> {
        let may = self.status == PaymentStatus::Declined && self.attempt < MAX_ATTEMPTS;
        may.then(|| Self {
            attempt: self.attempt + 1,
            card: card.to_owned(),
            status: PaymentStatus::Charging,
            ..self.clone()
        })
    }

    /// The payment after `news`; `None` if they change nothing, because they came before or are out of date.
    pub(crate) fn after(&self, news: &PaymentNews) -> Option<Self> {
        use PaymentStatus::{Charging, Declined, Paid, Processing, RefundDue, Refunded, Sold};
        let status = match (self.status, news) {
            // Whichever attempt it was: the provider takes the money of a payment once.
            (
                Charging | Processing | Declined,
                PaymentNews::Charge { status: ChargeStatus::Succeeded, .. },
            ) => Paid,
            (Charging | Processing, PaymentNews::Charge { attempt, status: ChargeStatus::Declined })
                if *attempt == self.attempt =>
            {
                Declined
            }
            (Charging, PaymentNews::Charge { attempt, status: ChargeStatus::Processing })
                if *attempt == self.attempt =>
            {
                Processing
            }
            (Paid, PaymentNews::Sold) => Sold,
            (Paid, PaymentNews::Refused(_)) | (Paid | Sold, PaymentNews::Voided) => RefundDue,
            (RefundDue, PaymentNews::Refunded) => Refunded,
            _ => return None,
        };
        let refused = match news {
            PaymentNews::Refused(problem) => Some(problem.clone()),
            PaymentNews::Voided => Some("voided".to_owned()),
            _ => self.refused.clone(),
        };
        Some(Self { status, refused, ..self.clone() })
    }

    /// Whether the shop has to do something about it.
    pub(crate) fn is_open(&self) -> bool {
        use PaymentStatus::{Charging, Paid, Processing, RefundDue};
        matches!(self.status, Charging | Processing | Paid | RefundDue)
    }

    /// Whether money is, or was, taken: another click shows that, and begins nothing.
    pub(crate) fn has_begun(&self) -> bool {
        self.status != PaymentStatus::Declined
    }

    /// Whether the buyer need not wait for a change.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_open() || self.status == PaymentStatus::Processing
    }
}

/// A hash, because fairdrop takes at most 255 bytes, and a reference is in logs.
fn reference(item_id: &ItemId, buyer: &str, reserved_at: u64) -> String {
    let hash = digest(&SHA256, format!("{item_id} {reserved_at} {buyer}").as_bytes());
    let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("pay_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(attempt: u32, status: ChargeStatus) -> PaymentNews {
        PaymentNews::Charge { attempt, status }
    }

    #[test]
    fn a_declined_payment_can_succeed_with_another_card_and_later_by_itself() {
        let first = Payment::new(&"a".parse().unwrap(), "ann", 7, "card_declined");
        assert_eq!(first.again("card_ok"), None, "while an attempt is under way there is no other");
        let declined = first.after(&charge(1, ChargeStatus::Declined)).unwrap();
        let second = declined.again("card_ok").unwrap();
        assert_eq!((second.attempt, &second.reference), (2, &first.reference));
        assert_eq!(second.after(&charge(1, ChargeStatus::Declined)), None, "of the attempt before");
        for charged in [&first, &declined, &second] {
            let paid = charged.after(&charge(1, ChargeStatus::Succeeded)).unwrap();
            assert_eq!(paid.status, PaymentStatus::Paid);
            assert_eq!(paid.after(&charge(1, ChargeStatus::Succeeded)), None, "said twice");
            assert_eq!(paid.after(&charge(1, ChargeStatus::Declined)), None, "out of order");
        }
    }

    #[test]
    fn money_goes_back_once_and_only_after_a_refusal_or_a_void() {
        let first = Payment::new(&"a".parse().unwrap(), "ann", 7, "card_ok");
        let paid = first.after(&charge(1, ChargeStatus::Succeeded)).unwrap();
        let refused = paid.after(&PaymentNews::Refused("reservation-ended".into())).unwrap();
        assert_eq!(refused.status, PaymentStatus::RefundDue);
        assert_eq!(refused.after(&PaymentNews::Sold), None);
        let refunded = refused.after(&PaymentNews::Refunded).unwrap();
        assert_eq!(refunded.after(&charge(1, ChargeStatus::Succeeded)), None);
        let sold = paid.after(&PaymentNews::Sold).unwrap();
        assert_eq!(sold.after(&PaymentNews::Refused("x".into())), None);
        assert_eq!(sold.after(&PaymentNews::Voided).unwrap().status, PaymentStatus::RefundDue);
    }
}
