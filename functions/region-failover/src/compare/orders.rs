//! Orders that the old main accepted and that were not replicated.
//!
//! Only the old main's Redis has them: their buyers got a place, and have none here. If the Global Datastore moved
//! the primary, the old main's Redis follows the new one by now, and has lost these orders, too.

use super::MAX_LISTED;
use ledger::LedgerError;
use reconcile::Stores;
use serde::Serialize;
use shared::item::ItemId;
use shared::queue::{ItemError, LinkError, MAX_STATUS_BUYERS, OrderState, ReadFrom};
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// Orders per read from the old main.
const PAGE: u32 = 5_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostOrder {
    pub item_id: ItemId,
    pub user_token: String,
    /// Its state in the old main's Redis.
    pub there: &'static str,
    /// `None` if the order is reserved: Redis does not keep the stamp then.
    pub placed_at: Option<Stamp>,
}

/// Why lost orders could not be counted.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrdersUnknownError {
    #[error("the old main's Redis follows the new main's, and has lost the orders that were not replicated")]
    Follows,
    #[error("the old main's Redis does not answer: {0}")]
    Old(#[source] LinkError),
    #[error("this region's Redis does not answer: {0}")]
    New(#[source] ItemError),
    #[error("a ledger does not answer: {0}")]
    Ledger(#[from] LedgerError),
}

/// The number of lost orders, and those after the first `skip`. An order that has left the queue here since without a
/// unit counts as lost, too.
pub(super) async fn lost(
    old: &Stores,
    new: &Stores,
    skip: u64,
) -> Result<(u64, Vec<LostOrder>), OrdersUnknownError> {
    if !old.link.takes_writes().await.map_err(OrdersUnknownError::Old)? {
        return Err(OrdersUnknownError::Follows);
    }
    let (mut count, mut listed) = (0, Vec::new());
    for item_id in old.queue.item_ids().await.map_err(OrdersUnknownError::Old)? {
        for (user_token, there, placed_at) in of_item(old, new, &item_id).await? {
            count += 1;
            if count > skip && listed.len() < MAX_LISTED {
                let user_token = user_token.as_str().to_owned();
                listed.push(LostOrder { item_id: item_id.clone(), user_token, there, placed_at });
            }
        }
    }
    Ok((count, listed))
}

type OldOrder = (UserToken, &'static str, Option<Stamp>);

async fn of_item(old: &Stores, new: &Stores, item_id: &ItemId) -> Result<Vec<OldOrder>, OrdersUnknownError> {
    let mut lost = Vec::new();
    let mut from = 0;
    loop {
        let page = old.queue.waiting(item_id, from, PAGE).await.map_err(OrdersUnknownError::Old)?;
        let Some(read) = (!page.is_empty()).then_some(page.len() as u64) else { break };
        let orders = page.into_iter().map(|(buyer, placed_at)| (buyer, "queued", Some(placed_at)));
        lost.extend(not_here(old, new, item_id, orders.collect()).await?);
        from += read;
    }
    from = 0;
    loop {
        let page = old.queue.taken(item_id, from, PAGE).await.map_err(OrdersUnknownError::Old)?;
        let Some(read) = (!page.is_empty()).then_some(page.len() as u64) else { break };
        let owed = page.into_iter().filter(|(_, state)| !state.is_over());
        lost.extend(
            not_here(old, new, item_id, owed.map(|(buyer, _)| (buyer, "reserved", None)).collect()).await?,
        );
        from += read;
    }
    Ok(lost)
}

/// Those of `orders` that neither this region nor the old main's own ledger has. The ledgers were compared before.
async fn not_here(
    old: &Stores,
    new: &Stores,
    item_id: &ItemId,
    orders: Vec<OldOrder>,
) -> Result<Vec<OldOrder>, OrdersUnknownError> {
    let mut missing = Vec::new();
    for orders in orders.chunks(MAX_STATUS_BUYERS) {
        let buyers: Vec<&UserToken> = orders.iter().map(|(buyer, ..)| buyer).collect();
        let states = match new.queue.status(ReadFrom::Main, item_id, &buyers).await {
            Ok(status) => status.orders,
            // An item that was created after the last replicated write.
            Err(ItemError::NoSuchItem(_)) => vec![OrderState::None; buyers.len()],
            Err(error) => return Err(OrdersUnknownError::New(error)),
        };
        let is_missing =
            |(order, state): (&OldOrder, OrderState)| (state == OrderState::None).then(|| order.clone());
        missing.extend(orders.iter().zip(states).filter_map(is_missing));
    }
    let buyers: Vec<UserToken> = missing.iter().map(|(buyer, ..)| buyer.clone()).collect();
    let recorded_here = new.ledger.states_of(item_id, &buyers).await?;
    let recorded_there = old.ledger.states_of(item_id, &buyers).await?;
    missing.retain(|(buyer, ..)| !recorded_here.contains_key(buyer) && !recorded_there.contains_key(buyer));
    Ok(missing)
}
