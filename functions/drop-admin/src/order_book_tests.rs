use super::*;
use order_log::{Refusal, RefusalReason};

fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

fn record(kind: RecordKind, micros: u64) -> LogRecord {
    LogRecord::new(kind, "shoe".parse().unwrap(), UserToken::parse("ann").unwrap(), at(micros))
}

fn item() -> Item {
    Item {
        item_id: "shoe".parse().unwrap(),
        name: "Shoe".into(),
        stock_total: 5,
        stock_left: 5,
        units_sold: 0,
        withheld: 0,
        opens_at: at(10),
        closes_at: Some(at(1_000)),
        hold_seconds: 0,
        settle_window_ms: 2_000,
        settle_delay_ms: 2_000,
        paused: false,
        epoch: 1,
    }
}

fn sale(state: SaleState, micros: u64) -> Option<Sale> {
    Some(Sale {
        user_token: UserToken::parse("ann").unwrap(),
        state,
        placed_at: at(micros),
        reserved_at: at(micros + 5),
        hold_until: at(micros + 9),
        earlier_ends: Vec::new(),
        payment_reference: None,
        epoch: 1,
    })
}

/// The outcomes of the orders, by stamp.
fn of(known: BuyerFacts, records: &[LogRecord]) -> Vec<&'static str> {
    let records: Vec<(&str, &LogRecord)> = records.iter().map(|record| ("here", record)).collect();
    outcomes(&item(), &known, &records)
        .into_iter()
        .map(|(_, _, outcome, reason)| reason.unwrap_or(outcome))
        .collect()
}

#[test]
fn each_order_of_a_buyer_has_one_outcome() {
    let (order, leave) =
        (|micros| record(RecordKind::Order, micros), |micros| record(RecordKind::Leave, micros));
    let none = BuyerFacts::default;
    let sold = |state, micros| BuyerFacts { sale: sale(state, micros), ..none() };
    let queued = |micros| BuyerFacts { queued: Some(at(micros)), ..none() };
    let taken = BuyerFacts { has_unit: true, ..none() };
    let refusal = Some(Refusal { reason: RefusalReason::TooLate, decided_at: at(99) });
    let refused = LogRecord { refusal, ..order(20) };
    assert_eq!(of(none(), &[order(20)]), ["undecided"]);
    assert_eq!(of(none(), &[order(5), order(1_000)]), ["not-open-yet", "closed"]);
    assert_eq!(of(none(), std::slice::from_ref(&refused)), ["too-late"]);
    // An order that a replay has queued, or sold, although its record says that it is refused.
    assert_eq!(of(queued(20), std::slice::from_ref(&refused)), ["queued"]);
    assert_eq!(of(sold(SaleState::Sold, 20), &[refused]), ["sold"]);
    assert_eq!(of(none(), &[order(20), leave(21)]), ["withdrawn"]);
    assert_eq!(of(queued(30), &[order(20), leave(21), order(30)]), ["withdrawn", "queued"]);
    assert_eq!(of(queued(20), &[order(20), order(30)]), ["queued", "repeated"]);
    assert_eq!(of(sold(SaleState::Sold, 20), &[order(30), order(20)]), ["sold", "repeated"]);
    assert_eq!(of(sold(SaleState::Released, 20), &[order(20)]), ["released"]);
    assert_eq!(of(taken.clone(), &[order(20), order(30)]), ["reserved", "repeated"]);
    // Released, and reserved again with a newer order, which the ledger does not have yet.
    let again = BuyerFacts { has_unit: true, ..sold(SaleState::Released, 20) };
    assert_eq!(of(again, &[order(20), order(30)]), ["released", "reserved"]);
}
