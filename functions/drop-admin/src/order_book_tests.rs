use super::*;
use ledger::SaleState;
use order_log::{Refusal, RefusalReason};

fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

fn record(kind: RecordKind, micros: u64) -> LogRecord {
    LogRecord::new(kind, "shoe".parse().unwrap(), UserToken::parse("ann").unwrap(), at(micros))
}

fn item() -> NewItem {
    NewItem {
        item_id: "shoe".parse().unwrap(),
        name: "Shoe".into(),
        stock_total: 5,
        opens_at: at(10),
        closes_at: Some(at(1_000)),
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: 2_000,
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
        released_at: None,
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
    assert_eq!(of(sold(SaleState::Voided, 20), &[order(20)]), ["voided"]);
    assert_eq!(of(taken.clone(), &[order(20), order(30)]), ["reserved", "repeated"]);
    let excluded = |known| BuyerFacts { is_excluded: true, ..known };
    assert_eq!(of(excluded(none()), &[order(20)]), ["excluded"]);
    assert_eq!(of(excluded(queued(20)), &[order(20)]), ["excluded"]);
    assert_eq!(of(excluded(none()), &[order(20), leave(21)]), ["withdrawn"]);
    assert_eq!(of(excluded(sold(SaleState::Voided, 20)), &[order(20), order(30)]), ["voided", "excluded"]);
    // Released, and reserved again with a newer order, which the ledger does not have yet.
    let again = BuyerFacts { has_unit: true, ..sold(SaleState::Released, 20) };
    assert_eq!(of(again, &[order(20), order(30)]), ["released", "reserved"]);
}

fn lines(stamps: &[(u64, &str)]) -> Vec<BookLine> {
    let line = |&(micros, region): &(u64, &str)| BookLine {
        region: region.into(),
        placed_at: at(micros),
        buyer: "ab12".into(),
        outcome: "queued",
        reason: None,
    };
    let mut lines: Vec<BookLine> = stamps.iter().map(line).collect();
    lines.sort_by(|a, b| a.key().cmp(&b.key()));
    lines
}

#[test]
fn an_order_that_arrives_between_two_pages_moves_no_other_one() {
    let mut first = BookPage::default();
    let bucket = lines(&[(1, "a"), (2, "a"), (2, "b"), (5, "a"), (6, "a")]);
    let cursor = first.add(7, bucket, None, 3).unwrap();
    let text = serde_json::to_string(&cursor).unwrap();
    assert_eq!(text, r#"{"bucket":7,"placed_at":2,"buyer":"ab12","region":"b"}"#);
    let cursor: BookCursor = serde_json::from_str(&text).unwrap();
    let mut second = BookPage::default();
    // Orders of another region, one before the cursor.
    let bucket = lines(&[(1, "a"), (1, "z"), (2, "a"), (2, "b"), (3, "z"), (5, "a"), (6, "a")]);
    assert_eq!(second.add(7, bucket, Some(&cursor), 3), None);
    let all: Vec<(u64, &str)> = first
        .lines
        .iter()
        .chain(&second.lines)
        .map(|line| (line.placed_at.as_micros(), line.region.as_str()))
        .collect();
    assert_eq!(all, [(1, "a"), (2, "a"), (2, "b"), (3, "z"), (5, "a"), (6, "a")]);
    // The page is full: the bucket of its last line counts, not the one of the next line.
    let cursor = second.add(8, lines(&[(1, "a")]), None, 3).unwrap();
    assert_eq!((cursor.bucket, cursor.placed_at), (7, at(6)));
    assert_eq!(BookPage::default().add(8, lines(&[(1, "a")]), Some(&cursor), 3), None);
}
