//! Amazon RDS, as the functions of disaster recovery speak to it: clients whose every wait is
//! limited, errors with a meaning, snapshots with what matters of them, and moments.
//!
//! The functions on the way of an order do not link this crate.

mod class;
mod client;
mod error;
mod moment;
mod snapshot;

pub use class::{Class, is_smaller, recommended};
pub use client::{PAGE, client, manual_snapshots, one_snapshot, pages, sdk_config};
pub use error::{RdsError, refusal};
pub use moment::Moment;
pub use snapshot::{Snapshot, State, TAG_KEY};
