//! Which of several items is restored first.

use shared::item::{ItemId, Phase};
use shared::queue::{LinkError, Queue};
use std::cmp::Reverse;

/// Items on sale first, then those that open soon, then the others, the last to close first.
pub async fn by_urgency(queue: &Queue, items: Vec<ItemId>) -> Result<Vec<ItemId>, LinkError> {
    if items.len() < 2 {
        return Ok(items);
    }
    let now = queue.main_time().await?;
    let mut due = Vec::new();
    for item_id in items {
        let urgency = match queue.item(&item_id).await {
            Ok(item) => match item.phase(now) {
                Phase::Open => (0, None),
                Phase::Paused | Phase::Upcoming => (1, None),
                Phase::SoldOut | Phase::Closed => (2, item.closes_at),
            },
            // The replay has the same error.
            Err(_) => (3, None),
        };
        due.push((urgency.0, Reverse(urgency.1), item_id));
    }
    due.sort();
    Ok(due.into_iter().map(|(_, _, item_id)| item_id).collect())
}
