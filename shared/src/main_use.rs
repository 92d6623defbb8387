//! When a process asks main's Redis.

use std::time::Duration;

/// When a process asks main's Redis.
///
/// At an opening Lambda starts a process for each order. If each of them opened a connection to main at once, main's one
/// thread would spend more than a millisecond on every TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MainUse {
    /// From its start on.
    Always,
    /// Only before it refuses an unknown item or key: what it accepts needs no answer of main.
    BeforeRefusals,
}

/// What a request waits in total for the region's own replica, where main is asked only before refusals.
pub const NEARBY_LIMIT: Duration = Duration::from_millis(100);
/// How long a request waits for what must be known before a refusal. Over a distance of 230 ms, a cold connection to main by
/// TLS and one answer take 1 s.
pub const REFUSAL_LIMIT: Duration = Duration::from_secs(2);
