//! The main lease: it decides which region may sell.
//!
//! One [`LeaseRecord`] in a DynamoDB table, the same in every region, says which region is main, under which epoch, and
//! until when. Main's drain and worker renew it. A process that cannot renew it stops before it ends, and no region
//! takes it before it has ended. It is never returned early: several processes act by it, and not all of them would
//! be notified.
//!
//! Clocks differ. Main stops [`LeaseTiming::tolerance`] before the end, by the clock of the server on which it acts
//! ([`Permit`] says how). Another region waits the same time after the end, by its own clock. As long as no two of
//! these clocks differ by more than twice the tolerance, two regions never sell at the same time.

mod heartbeats;
mod keeper;
mod record;
mod table;
mod timing;

pub use keeper::{Lease, LeaseError, LeaseStatus};
pub use record::LeaseRecord;
pub use table::{LeaseTable, LeaseTableError};
pub use timing::LeaseTiming;

#[cfg(doc)]
use shared::permit::Permit;
