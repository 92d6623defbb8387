//! The deliveries that this process has accepted, so that none is accepted twice.
//!
//! A recorded request could be sent again while its signature is young enough. Other processes of the function do not
//! know of it: there, a replay is harmless because the payment's reference makes a repeated notice do nothing.

use crate::signature::{Signature, TOLERANCE_SECONDS};
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// The most deliveries that are remembered. Beyond it the oldest are forgotten.
const MAX_DELIVERIES: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Deliveries(Mutex<Accepted>);

#[derive(Debug, Default)]
struct Accepted {
    known: HashSet<Signature>,
    /// Each with the second of its arrival.
    in_order: VecDeque<(u64, Signature)>,
}

impl Deliveries {
    /// Whether the delivery is new. It is remembered for as long as its signature can be accepted.
    pub(crate) fn accept(&self, delivery: Signature, now_seconds: u64) -> bool {
        let mut accepted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock of the signature may be ahead by the tolerance.
        let is_old = |at: u64| at.saturating_add(2 * TOLERANCE_SECONDS) < now_seconds;
        while let Some(&(at, oldest)) = accepted.in_order.front()
            && (is_old(at) || accepted.in_order.len() >= MAX_DELIVERIES)
        {
            accepted.in_order.pop_front();
            accepted.known.remove(&oldest);
        }
        let is_new = accepted.known.insert(delivery);
        if is_new {
            accepted.in_order.push_back((now_seconds, delivery));
        }
        is_new
    }

    /// Forgets a delivery that was not decided: it may come again.
    pub(crate) fn forget(&self, delivery: Signature) {
        let mut accepted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.known.remove(&delivery);
        accepted.in_order.retain(|(_, one)| *one != delivery);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Secret, verify};

    fn delivery(number: u64) -> Signature {
        let secret = Secret::new("whsec_test").unwrap();
        let body = number.to_string();
        let header = crate::tests::sign("whsec_test", 1_795_500_000, &body);
        verify(&header, body.as_bytes(), &[secret], 1_795_500_000).unwrap()
    }

    #[test]
    fn a_delivery_is_accepted_once_while_its_signature_is_valid() {
        let (deliveries, one) = (Deliveries::default(), delivery(1));
        assert!(deliveries.accept(one, 1_000));
        assert!(!deliveries.accept(one, 1_600));
        deliveries.forget(one);
        assert!(deliveries.accept(one, 1_600));
        assert!(deliveries.accept(delivery(2), 2_201), "the memory of the first ends");
        assert_eq!(deliveries.0.lock().unwrap().known.len(), 1);
    }

    #[test]
    fn the_memory_is_limited() {
        let deliveries = Deliveries::default();
        for number in 0..MAX_DELIVERIES as u64 + 5 {
            assert!(deliveries.accept(delivery(number), 1_000));
        }
        let accepted = deliveries.0.lock().unwrap();
        assert_eq!((accepted.known.len(), accepted.in_order.len()), (MAX_DELIVERIES, MAX_DELIVERIES));
    }
}
