//! Orders that the old main had taken, and whose places have not come over.
//!
//! They are in its Redis alone: whoever was told of a place has none here. Where the datastore has moved
//! Redis's primary, the old main's follows the new one by now, and has forgotten them, too.

use super::MAX_LISTED;
use ledger::LedgerError;
use reconcile::Stores;
use serde::Serialize;
use shared::item::ItemId;
use shared::queue::{ItemError, LinkError, MAX_STATUS_BUYERS, OrderState, ReadFrom};
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// Orders read at once from the old main.
const PAGE: u32 = 5_000;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostOrder {
    /// Of which item.
    pub item_id: ItemId,
    /// Who.
    pub user_token: String,
    /// How it stands with the old main.
    pub there: &'static str,
    /// When it was ordered; nothing where a unit has been taken out for it, for Redis has forgotten it then.
    pub placed_at: Option<Stamp>,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrdersUnknownError {
    #[error("the old main's Redis follows the new one, and has forgotten what had not come over")]
    Follows,
    #[error("the old main's Redis does not answer: {0}")]
    Old(LinkError),
    #[error("this region's Redis does not answer: {0}")]
    New(ItemError),
    #[error("a ledger does not answer: {0}")]
    Ledger(#[from] LedgerError),
}

/// How many there are, and those that come after the first `skip`. What has left the queue here since, served or not, but for those who
/// got a unit, counts as lost, too.
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

type Place = (UserToken, &'static str, Option<Stamp>);

async fn of_item(old: &Stores, new: &Stores, item_id: &ItemId) -> Result<Vec<Place>, OrdersUnknownError> {
    let mut lost = Vec::new();
    let mut from = 0;
    loop {
        let page = old.queue.waiting(item_id, from, PAGE).await.map_err(OrdersUnknownError::Old)?;
        let Some(read) = (!page.is_empty()).then_some(page.len() as u64) else { break };
        let places = page.into_iter().map(|(buyer, placed_at)| (buyer, "queued", Some(placed_at)));
        lost.extend(not_here(old, new, item_id, places.collect()).await?);
        from += read;
    }
    from = 0;
    loop {
        let page = old.queue.taken(item_id, from, PAGE).await.map_err(OrdersUnknownError::Old)?;
        let Some(read) = (!page.is_empty()).then_some(page.len() as u64) else { break };
        let owed = page.into_iter().filter(|(_, state)| *state != OrderState::Released);
        lost.extend(
            not_here(old, new, item_id, owed.map(|(buyer, _)| (buyer, "reserved", None)).collect()).await?,
        );
        from += read;
    }
    Ok(lost)
}

/// Those of `places` that neither this region nor the old main's own ledger knows: the latter has been compared.
async fn not_here(
    old: &Stores,
    new: &Stores,
    item_id: &ItemId,
    places: Vec<Place>,
) -> Result<Vec<Place>, OrdersUnknownError> {
    let mut missing = Vec::new();
    for places in places.chunks(MAX_STATUS_BUYERS) {
        let buyers: Vec<&UserToken> = places.iter().map(|(buyer, ..)| buyer).collect();
        let states = match new.queue.status(ReadFrom::Main, item_id, &buyers).await {
            Ok(status) => status.orders,
            // An item that was made after the last word that came over.
            Err(ItemError::NoSuchItem(_)) => vec![OrderState::None; buyers.len()],
            Err(error) => return Err(OrdersUnknownError::New(error)),
        };
        let is_missing =
            |(place, state): (&Place, OrderState)| (state == OrderState::None).then(|| place.clone());
        missing.extend(places.iter().zip(states).filter_map(is_missing));
    }
    let buyers: Vec<UserToken> = missing.iter().map(|(buyer, ..)| buyer.clone()).collect();
    let recorded_here = new.ledger.states_of(item_id, &buyers).await?;
    let recorded_there = old.ledger.states_of(item_id, &buyers).await?;
    missing.retain(|(buyer, ..)| !recorded_here.contains_key(buyer) && !recorded_there.contains_key(buyer));
    Ok(missing)
}
