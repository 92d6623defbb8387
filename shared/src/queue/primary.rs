//! Reads that only a server that takes writes answers.

use super::Keys;
use redis::Pipeline;

/// No buyer has this name, so that no queue has it as a member.
const NO_BUYER: &str = "";

/// A transaction whose first command is a write that changes nothing: it removes a member that no queue has. A replica
/// refuses the write with `READONLY` and, with it, the whole transaction. Otherwise the answer has no entry for it.
///
/// `ROLE` would do the same, but it is among the commands that an access list usually forbids (`@dangerous`), and its
/// answer grows with the number of replicas. This write costs one lookup, no round trip and no replication.
pub(super) fn on_primary(keys: &Keys) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().zrem(&keys.orders, NO_BUYER).ignore();
    pipe
}
