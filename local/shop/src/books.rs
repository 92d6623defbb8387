//! What the shop knows: reservations, from fairdrop's events in their order, and payments.
//!
//! Nothing here talks to a network or a file. The [`journal`](crate::journal) has each [`Entry`], and records them
//! again in the same order after a restart.

use crate::payment::{Payment, PaymentNews};
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use std::collections::BTreeMap;

/// Events of an item that wait for one with a lower sequence; more are refused, and the bus delivers them again.
const MAX_WAITING: usize = 10_000;
/// Reservations and payments in all.
const MAX_RECORDS: usize = 1_000_000;

/// The `detail` of an event (`events/out/`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// `{item_id}/{epoch}/{sequence}`.
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) item_id: ItemId,
    pub(crate) sequence: u64,
    #[serde(default)]
    pub(crate) user_token: Option<String>,
    #[serde(default)]
    pub(crate) reserved_at: u64,
    #[serde(default)]
    pub(crate) hold_until: u64,
    #[serde(default)]
    pub(crate) payment_reference: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReservationState {
    Reserved,
    Sold,
    Released,
    Voided,
}

/// A buyer's newest reservation of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) state: ReservationState,
    pub(crate) reserved_at: u64,
    pub(crate) hold_until: u64,
    /// The number of the letter that invites the buyer to pay.
    #[serde(default)]
    letter: u64,
}

impl Reservation {
    /// As fairdrop's read returns it; `None` if there is none.
    pub(crate) fn read(status: &str, reserved_at: u64, hold_until: u64) -> Option<Self> {
        let state = match status {
            "reserved" => ReservationState::Reserved,
            "sold" => ReservationState::Sold,
            "released" => ReservationState::Released,
            "voided" => ReservationState::Voided,
            _ => return None,
        };
        Some(Self { state, reserved_at, hold_until, letter: 0 })
    }

    /// Whether the buyer can pay at `now`, in microseconds.
    pub(crate) fn is_payable(&self, now: u64) -> bool {
        self.state == ReservationState::Reserved && self.hold_until > now
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemBook {
    /// The sequence up to which events are applied.
    applied: u64,
    waiting: BTreeMap<u64, Event>,
    reservations: BTreeMap<String, Reservation>,
}

/// What is written to the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    Event(Event),
    Payment(Payment),
    /// An item's book as a whole.
    Item(ItemId, ItemBook),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hearing {
    New,
    /// It was heard before.
    Known,
    /// There is no room: it must come again.
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    items: BTreeMap<ItemId, ItemBook>,
    payments: BTreeMap<String, Payment>,
    /// Invitations to pay that are still of use, by their number.
    letters: BTreeMap<u64, (ItemId, String)>,
    letters_written: u64,
    reservations: usize,
}

impl Books {
    /// What `event` would be. Its id has the item and the sequence, by which it is recognised.
    pub(crate) fn hearing(&self, event: &Event) -> Hearing {
        let (mut is_known, mut has_room) = (false, self.has_room());
        if let Some(book) = self.items.get(&event.item_id) {
            is_known = event.sequence <= book.applied || book.waiting.contains_key(&event.sequence);
            // What closes a gap is always welcome.
            has_room &= book.waiting.len() < MAX_WAITING || event.sequence == book.applied + 1;
        }
        match (is_known, has_room) {
            (true, _) => Hearing::Known,
            (false, true) => Hearing::New,
            (false, false) => Hearing::Full,
        }
    }

    /// Records an entry; returns the references of payments about which something is to be done. The same entries in the
    /// same order always have the same result.
    pub(crate) fn record(&mut self, entry: Entry) -> Vec<String> {
        match entry {
            Entry::Event(event) => self.hear(event),
            Entry::Payment(payment) => self.set_payment(payment).into_iter().collect(),
            Entry::Item(item_id, book) => {
                self.restore(item_id, book);
                Vec::new()
            }
        }
    }

    fn hear(&mut self, event: Event) -> Vec<String> {
        if self.hearing(&event) == Hearing::Known {
            return Vec::new();
        }
        let item_id = event.item_id.clone();
        self.items.entry(item_id.clone()).or_default().waiting.insert(event.sequence, event);
        let mut due = Vec::new();
        while let Some(next) = self.next_event(&item_id) {
            due.extend(self.apply(&next));
        }
        due
    }

    fn next_event(&mut self, item_id: &ItemId) -> Option<Event> {
        let book = self.items.get_mut(item_id)?;
        let event = book.waiting.remove(&(book.applied + 1))?;
        book.applied += 1;
        Some(event)
    }

    fn apply(&mut self, event: &Event) -> Option<String> {
        let (buyer, book) = (event.user_token.clone()?, self.items.get_mut(&event.item_id)?);
        let (state, news) = match event.kind.as_str() {
            "reserved" | "extended" => (ReservationState::Reserved, None),
            "sold" => (ReservationState::Sold, Some(PaymentNews::Sold)),
            "released" => (ReservationState::Released, None),
            "voided" => (ReservationState::Voided, Some(PaymentNews::Voided)),
            // A later version of fairdrop has more kinds.
            _ => return None,
        };
        let mut letter = book.reservations.get(&buyer).map_or(0, |before| before.letter);
        self.letters.remove(&letter);
        if state == ReservationState::Reserved {
            if event.kind == "reserved" || letter == 0 {
                self.letters_written += 1;
                letter = self.letters_written;
            }
            self.letters.insert(letter, (event.item_id.clone(), buyer.clone()));
        }
        let (reserved_at, hold_until) = (event.reserved_at, event.hold_until);
        let now = Reservation { state, reserved_at, hold_until, letter };
        self.reservations += usize::from(book.reservations.insert(buyer, now).is_none());
        let payment = self.payments.get(event.payment_reference.as_ref()?)?.after(&news?)?;
        self.set_payment(payment)
    }

    fn set_payment(&mut self, payment: Payment) -> Option<String> {
        let due = payment.is_open().then(|| payment.reference.clone());
        self.payments.insert(payment.reference.clone(), payment);
        due
    }

    fn restore(&mut self, item_id: ItemId, book: ItemBook) {
        for (buyer, reservation) in &book.reservations {
            self.letters_written = self.letters_written.max(reservation.letter);
            if reservation.state == ReservationState::Reserved {
                self.letters.insert(reservation.letter, (item_id.clone(), buyer.clone()));
            }
        }
        self.reservations += book.reservations.len();
        self.items.insert(item_id, book);
    }

    pub(crate) fn reservation(&self, item_id: &ItemId, buyer: &str) -> Option<&Reservation> {
        self.items.get(item_id)?.reservations.get(buyer)
    }

    pub(crate) fn payment(&self, reference: &str) -> Option<&Payment> {
        self.payments.get(reference)
    }

    /// The payments about which something is to be done.
    pub(crate) fn open_payments(&self) -> Vec<String> {
        let open = self.payments.values().filter(|payment| payment.is_open());
        open.map(|payment| payment.reference.clone()).collect()
    }

    /// Whether there is room for another payment or reservation.
    pub(crate) fn has_room(&self) -> bool {
        self.reservations + self.payments.len() < MAX_RECORDS
    }

    /// Invitations with numbers after `after`, in order, at most `most`.
    pub(crate) fn letters(&self, after: u64, most: usize) -> Vec<(u64, &ItemId, &str)> {
        let letters = self.letters.range(after.saturating_add(1)..).take(most);
        letters.map(|(number, (item_id, buyer))| (*number, item_id, buyer.as_str())).collect()
    }

    /// All that is known, as entries.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let items = self.items.iter().map(|(item_id, book)| Entry::Item(item_id.clone(), book.clone()));
        items.chain(self.payments.values().cloned().map(Entry::Payment)).collect()
    }
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
