//! Reads that only a server that takes writes answers.

use super::{ITEMS, Keys, TOKEN_KEYS};
use redis::Pipeline;

/// No buyer, no item and no field has this name, so that no queue, no set and no hash has it.
const NO_MEMBER: &str = "";

/// A transaction whose first command is a write that changes nothing: it removes a member that no queue has. A replica
/// refuses the write with `READONLY` and, with it, the whole transaction. Otherwise the answer has no entry for it.
///
/// `ROLE` would do the same, but it is among the commands that an access list usually forbids (`@dangerous`), and its
/// answer grows with the number of replicas. This write costs one lookup, no round trip and no replication.
pub(super) fn on_primary(keys: &Keys) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().zrem(&keys.orders, NO_MEMBER).ignore();
    pipe
}

/// The same for a read of the set of items: no item has this name either.
pub(super) fn items_on_primary() -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().srem(ITEMS, NO_MEMBER).ignore();
    pipe
}

/// The same for a read of the token keys: the hash has no such field.
pub(super) fn token_keys_on_primary() -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().hdel(TOKEN_KEYS, NO_MEMBER).ignore();
    pipe
}
