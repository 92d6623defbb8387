//! What a replay did.

use crate::decide::LeftOut;
use serde::Serialize;
use shared::item::ItemId;
use std::collections::BTreeMap;

/// What a replay did with the records of all regions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    pub item_id: ItemId,
    pub regions: BTreeMap<String, RegionReport>,
    /// Regions that an operator has left out.
    pub without: Vec<String>,
    /// Orders that were in the queue and are withdrawn.
    pub withdrawn_from_queue: u64,
    pub took_ms: u64,
}

/// What it did with the records of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegionReport {
    /// Records read: orders and withdrawals.
    pub read: u64,
    pub malformed: u64,
    /// Orders that are new in the queue, or replaced a younger one of the buyer.
    pub placed: u64,
    /// Orders that were in the queue.
    pub already_queued: u64,
    /// Orders that do not count any more, by reason.
    pub left_out: BTreeMap<LeftOut, u64>,
}

impl RegionReport {
    pub(crate) fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.malformed += other.malformed;
        self.placed += other.placed;
        self.already_queued += other.already_queued;
        for (reason, count) in &other.left_out {
            *self.left_out.entry(*reason).or_default() += count;
        }
    }
}

impl ReplayReport {
    pub(crate) fn of<'a>(item_id: &ItemId, regions: impl Iterator<Item = &'a str>) -> Self {
        Self {
            item_id: item_id.clone(),
            regions: regions.map(|region| (region.to_owned(), RegionReport::default())).collect(),
            without: Vec::new(),
            withdrawn_from_queue: 0,
            took_ms: 0,
        }
    }

    pub(crate) fn region(&mut self, name: &str) -> &mut RegionReport {
        self.regions.entry(name.to_owned()).or_default()
    }

    /// Records of all regions.
    pub fn read(&self) -> u64 {
        self.regions.values().map(|region| region.read).sum()
    }

    /// Orders of all regions that are new in the queue.
    pub fn placed(&self) -> u64 {
        self.regions.values().map(|region| region.placed).sum()
    }
}
