//! Tells a lag that comes from the replica's size from one that comes from a burst of writes. Only a bigger instance
//! ends the first.

use crate::verdict::{Assessment, ReplicaVerdict};
use crate::window::Window;

/// A replica that does not keep up this often in two weeks is too small.
const TOO_OFTEN: usize = 2;

/// Whether the replica, which is behind now, has fallen behind before, although nothing obstructed replication.
///
/// The load of its processors says little: replay is a single process, and leaves all others idle.
pub(crate) fn undersized(window: &Window) -> Option<Assessment> {
    let (class, times) = (window.replica_class()?, window.earlier_lags() + 1);
    if times < TOO_OFTEN || !window.is_unobstructed() {
        return None;
    }
    let why = match window.main_class() {
        Some(main) => {
            format!("the replica ({class}; main: {main}) has fallen behind {times} times in two weeks")
        }
        None => format!("the replica ({class}) has fallen behind {times} times in two weeks"),
    };
    Some(Assessment {
        recommended_class: rds::larger(class, window.main_class()),
        ..Assessment::of(ReplicaVerdict::Undersized, "falls-behind-repeatedly", why)
    })
}
