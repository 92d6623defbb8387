use super::*;
use crate::payment::{ChargeStatus, PaymentStatus};

fn item_id() -> ItemId {
    "a".parse().unwrap()
}

fn event(sequence: u64, kind: &str, buyer: &str) -> Event {
    Event {
        id: format!("a/1/{sequence}"),
        kind: kind.to_owned(),
        item_id: item_id(),
        sequence,
        user_token: Some(buyer.to_owned()),
        reserved_at: 5,
        hold_until: 100,
        payment_reference: ["sold", "voided"].contains(&kind).then(|| paid(buyer).reference),
    }
}

fn paid(buyer: &str) -> Payment {
    let news = PaymentNews::Charge { attempt: 1, status: ChargeStatus::Succeeded };
    Payment::new(&item_id(), buyer, 5, "card_ok").after(&news).unwrap()
}

fn hear(books: &mut Books, event: Event) -> Vec<String> {
    books.record(Entry::Event(event))
}

fn state(books: &Books, buyer: &str) -> Option<ReservationState> {
    books.reservation(&item_id(), buyer).map(|reservation| reservation.state)
}

#[test]
fn events_count_once_and_in_order_however_they_come() {
    let all = ["reserved", "extended", "released", "reserved", "sold"];
    let states = [
        None,
        Some(ReservationState::Reserved),
        Some(ReservationState::Reserved),
        Some(ReservationState::Released),
        Some(ReservationState::Reserved),
        Some(ReservationState::Sold),
    ];
    for order in [[5, 4, 3, 2, 1], [2, 1, 5, 3, 4], [1, 2, 3, 4, 5]] {
        let mut books = Books::default();
        for sequence in order.into_iter().chain(order) {
            hear(&mut books, event(sequence, all[sequence as usize - 1], "ann"));
            assert_eq!(state(&books, "ann"), states[books.items[&item_id()].applied as usize], "{order:?}");
        }
        assert_eq!(books.items[&item_id()].applied, 5);
        assert_eq!(books.hearing(&event(5, "sold", "ann")), Hearing::Known);
        assert!(books.letters(0, 10).is_empty(), "the unit is sold");
    }
}

#[test]
fn a_letter_is_written_once_for_each_reservation() {
    let mut books = Books::default();
    let mut numbers = Vec::new();
    for (sequence, kind) in [(1, "reserved"), (2, "extended"), (3, "released"), (4, "reserved")] {
        hear(&mut books, event(sequence, kind, "ann"));
        numbers.push(books.letters(0, 10).first().map(|letter| letter.0));
    }
    assert_eq!(numbers, [Some(1), Some(1), None, Some(2)]);
    assert!(books.letters(2, 10).is_empty());
}

#[test]
fn an_event_is_an_answer_too_and_a_void_returns_the_money() {
    let mut books = Books::default();
    books.record(Entry::Payment(paid("ann")));
    let reference = paid("ann").reference;
    let status = |books: &Books| books.payment(&reference).unwrap().status;
    hear(&mut books, event(1, "reserved", "ann"));
    assert_eq!(hear(&mut books, event(3, "voided", "ann")), [""; 0]);
    assert_eq!(status(&books), PaymentStatus::Paid, "an event before it is missing");
    let references = std::slice::from_ref(&reference);
    assert_eq!(hear(&mut books, event(2, "sold", "ann")), references);
    assert_eq!(status(&books), PaymentStatus::RefundDue);
    assert_eq!(books.open_payments(), references);
}

#[test]
fn a_full_book_takes_only_what_closes_the_gap() {
    let mut books = Books::default();
    for sequence in 2..MAX_WAITING as u64 + 2 {
        hear(&mut books, event(sequence, "reserved", "ann"));
    }
    assert_eq!(books.hearing(&event(MAX_WAITING as u64 + 2, "sold", "ann")), Hearing::Full);
    assert_eq!(books.hearing(&event(1, "reserved", "ann")), Hearing::New);
}

#[test]
fn entries_restore_what_was_known() {
    let mut books = Books::default();
    books.record(Entry::Payment(paid("ann")));
    for (sequence, kind, buyer) in [(1, "reserved", "ann"), (2, "sold", "ann"), (4, "reserved", "ben")] {
        hear(&mut books, event(sequence, kind, buyer));
    }
    let mut restored = Books::default();
    books.entries().into_iter().for_each(|entry| drop(restored.record(entry)));
    assert_eq!((&restored.items, &restored.payments), (&books.items, &books.payments));
    hear(&mut restored, event(3, "reserved", "cid"));
    assert_eq!(restored.letters(1, 10).len(), 2, "numbers go on");
}
