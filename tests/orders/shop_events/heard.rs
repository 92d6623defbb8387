//! A shop's view of a drop, from events alone.

use local::aws::event_bus::BusEvent;
use std::collections::{BTreeMap, BTreeSet};

/// A shop that knows only what the bus tells it. It restores the order by the sequence, and recognises repetitions by
/// the id.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) ids: BTreeSet<String>,
    /// Events that came before one with a lower sequence.
    pub(super) waiting: BTreeMap<u64, BusEvent>,
    /// The last sequence that was applied.
    pub(super) applied: u64,
    /// The last event about each buyer.
    pub(super) buyers: BTreeMap<String, BusEvent>,
    pub(super) closed: bool,
    /// From the decision to the acceptance, in microseconds, of each event's first acceptance.
    pub(super) lags: Vec<u64>,
}

impl Heard {
    /// Applies an event, and those that waited for it; returns what is new in order.
    pub(super) fn hear(&mut self, event: BusEvent) -> Vec<BusEvent> {
        let detail = &event.detail;
        assert_eq!(event.detail_type, format!("fairdrop {}", detail["type"].as_str().unwrap()));
        if !self.ids.insert(detail["id"].as_str().unwrap().to_owned()) {
            return Vec::new();
        }
        self.lags.push(event.accepted_at.saturating_sub(detail["at"].as_u64().unwrap()));
        self.waiting.insert(detail["sequence"].as_u64().unwrap(), event);
        let mut fresh = Vec::new();
        while let Some(next) = self.waiting.remove(&(self.applied + 1)) {
            self.applied += 1;
            self.closed |= next.detail["type"] == "closed";
            if let Some(buyer) = next.detail["user_token"].as_str() {
                self.buyers.insert(buyer.to_owned(), next.clone());
            }
            fresh.push(next);
        }
        fresh
    }

    pub(super) fn state_of(&self, buyer: &str) -> Option<&str> {
        let kind = self.buyers.get(buyer)?.detail["type"].as_str()?;
        Some(if kind == "extended" { "reserved" } else { kind })
    }
}
