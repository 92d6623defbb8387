//! How far a pending payment extends a hold.

use super::facts::SaleRow;
use shared::stamp::Stamp;

/// The most extensions of a hold. Each is made by the same payment.
pub const MAX_EXTENSIONS: u16 = 8;

/// What a pending payment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedHold {
    /// The end that every hold may have, once: as long from now on as a new hold.
    pub once: Stamp,
    /// The end that the notice names, if it names one.
    pub until: Option<Stamp>,
}

impl WantedHold {
    /// The end that every hold may have.
    pub fn once(end: Stamp) -> Self {
        Self { once: end, until: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldChange {
    /// The hold gets this end, unless its own is later.
    Extend(Stamp),
    /// The hold has its last end for this payment, or a later one than is wanted.
    Keep,
    /// The hold was extended for another payment.
    OfAnother,
}

/// The change of the hold of `sale` for payment `reference`. A repeated notice changes nothing, as the moment that it
/// names is in the sale already.
pub(super) fn change_hold(sale: &SaleRow, reference: &str, wanted: WantedHold) -> HoldChange {
    let end = wanted.until.unwrap_or(wanted.once).min(sale.latest_end.unwrap_or(wanted.once));
    match sale.extended_for.as_deref() {
        None => HoldChange::Extend(end),
        Some(first) if first != reference => HoldChange::OfAnother,
        Some(_) if sale.latest_end.is_none() || wanted.until.is_none() => HoldChange::Keep,
        Some(_) if sale.extensions >= MAX_EXTENSIONS || end <= sale.hold_until => HoldChange::Keep,
        Some(_) => HoldChange::Extend(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SaleState;

    #[test]
    fn a_payment_extends_a_hold_within_the_items_limit() {
        let at = |micros| Stamp::from_micros(micros).unwrap();
        let sale = |latest_end: Option<u64>, extended_for: Option<&str>, extensions| SaleRow {
            latest_end: latest_end.map(at),
            extended_for: extended_for.map(str::to_owned),
            extensions,
            ..SaleRow::held(at(1), at(500))
        };
        let wanted = |until: Option<u64>| WantedHold { once: at(700), until: until.map(at) };
        let extend = |end| HoldChange::Extend(at(end));
        let (mine, limit) = (Some("a"), Some(5_000));
        for (what, sale, wanted, expected) in [
            ("without a limit, once", sale(None, None, 0), wanted(None), extend(700)),
            (
                "an end that is named is limited likewise",
                sale(None, None, 0),
                wanted(Some(9_000)),
                extend(700),
            ),
            ("a nearer end is taken", sale(None, None, 0), wanted(Some(600)), extend(600)),
            ("without a limit, no second time", sale(None, mine, 1), wanted(Some(9_000)), HoldChange::Keep),
            ("with a limit, to the named end", sale(limit, None, 0), wanted(Some(4_000)), extend(4_000)),
            ("at most to the limit", sale(limit, None, 0), wanted(Some(6_000)), extend(5_000)),
            ("again", sale(limit, mine, 1), wanted(Some(4_500)), extend(4_500)),
            ("a repetition", sale(limit, mine, 1), wanted(Some(500)), HoldChange::Keep),
            ("a notice without an end, again", sale(limit, mine, 1), wanted(None), HoldChange::Keep),
            ("the last one", sale(limit, mine, 7), wanted(Some(4_500)), extend(4_500)),
            ("one too many", sale(limit, mine, 8), wanted(Some(4_500)), HoldChange::Keep),
            ("for another payment", sale(limit, Some("b"), 1), wanted(Some(4_500)), HoldChange::OfAnother),
        ] {
            assert_eq!(sale.state, SaleState::Reserved);
            assert_eq!(change_hold(&sale, "a", wanted), expected, "{what}");
        }
    }
}
