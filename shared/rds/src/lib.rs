//! Amazon RDS for the functions of disaster recovery: clients whose every wait is limited, errors with a
//! meaning, snapshots with what matters of them, and timestamps.
//!
//! Functions that an order passes through do not link this crate.

mod class;
mod client;
mod error;
mod snapshot;
mod timestamp;

pub use class::{Class, larger};
pub use client::{PAGE, client, manual_snapshots, one_snapshot, pages};
pub use error::{RdsError, refusal};
pub use snapshot::{DRILL_TAG_KEY, Snapshot, SnapshotState, TAG_KEY};
pub use timestamp::Timestamp;
