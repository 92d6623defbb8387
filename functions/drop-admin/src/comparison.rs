//! `reconcile`: compares Redis with the ledger, for one item, or for all in pages.

use crate::{AdminError, App, items};
use ledger::LedgerError;
use reconcile::ReconcileError;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::{ItemError, LinkError};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// No item is begun after this time: the last one needs the rest of the function's time limit, 100 s.
const PAGE_LIMIT: Duration = Duration::from_secs(200);

/// The items that one invocation has compared.
#[derive(Debug, PartialEq)]
struct Page {
    /// What was found of each item, or why it could not be compared.
    items: BTreeMap<ItemId, Value>,
    /// The item after which the next page begins, if there is one.
    next: Option<ItemId>,
}

/// Compares `item_id`, or the items after `after`, and repairs Redis if `repair`.
pub(crate) async fn compare(
    app: &App,
    item_id: Option<ItemId>,
    repair: bool,
    after: Option<&ItemId>,
) -> Result<Value, AdminError> {
    if let Some(item_id) = &item_id {
        items::not_archived(app, item_id).await?;
    }
    if repair {
        items::refuse_elsewhere(app).await?;
    }
    let ids = match item_id {
        Some(item_id) => vec![item_id],
        None => app.ledger.item_ids().await?,
    };
    let left = in_order(ids, after);
    let stores = app.stores();
    let page = page(left, PAGE_LIMIT, async |id: &ItemId| {
        Ok(json!(reconcile::reconcile(&stores, id, repair).await?))
    });
    let Page { items, next } = page.await?;
    Ok(json!({ "repaired": repair, "items": items, "next": next }))
}

/// The ids after `after`, by their bytes: the database sorts by its locale.
fn in_order(mut ids: Vec<ItemId>, after: Option<&ItemId>) -> Vec<ItemId> {
    ids.sort_unstable();
    ids.into_iter().filter(|id| after.is_none_or(|after| id > after)).collect()
}

/// Compares `ids` one after another until `limit` has passed. An item with malformed data does not stop the others. If a
/// store is unavailable, the page ends before the item; if that is the first one, the invocation fails.
async fn page(
    ids: Vec<ItemId>,
    limit: Duration,
    compare: impl AsyncFn(&ItemId) -> Result<Value, ReconcileError>,
) -> Result<Page, AdminError> {
    let (began, number) = (Instant::now(), ids.len());
    let mut items = BTreeMap::new();
    let mut last = None;
    for id in ids {
        if !items.is_empty() && began.elapsed() >= limit {
            break;
        }
        let found = match compare(&id).await {
            Ok(found) => found,
            Err(error) if is_of_item(&error) => json!({ "error": error.to_string() }),
            Err(error) if items.is_empty() => return Err(error.into()),
            Err(_) => break,
        };
        items.insert(id.clone(), found);
        last = Some(id);
    }
    let next = last.filter(|_| items.len() < number);
    Ok(Page { items, next })
}

/// Whether the item's own data are at fault, or its key was lost meanwhile: other items can be compared.
fn is_of_item(error: &ReconcileError) -> bool {
    match error {
        ReconcileError::Item(ItemError::Link(error)) => {
            error.is_of_the_keys() || matches!(error, LinkError::Refused(code) if code == "NOITEM")
        }
        ReconcileError::Item(_) | ReconcileError::Incomplete(_) => true,
        ReconcileError::Ledger(error) => {
            matches!(error, LedgerError::Refused(_) | LedgerError::NoSuchItem(_))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(number: u32) -> Vec<ItemId> {
        (0..number).map(|n| format!("item-{n:03}").parse().unwrap()).collect()
    }

    async fn slow(_: &ItemId) -> Result<Value, ReconcileError> {
        tokio::time::sleep(Duration::from_secs(7)).await;
        Ok(json!({}))
    }

    #[tokio::test(start_paused = true)]
    async fn every_item_is_compared_once_in_pages_that_end_in_time() {
        let (mut left, mut seen) = (ids(100), Vec::new());
        loop {
            let began = Instant::now();
            let Page { items, next } = page(left.clone(), PAGE_LIMIT, slow).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(220));
            seen.extend(items.into_keys());
            let Some(next) = next else { break };
            left.retain(|id| *id > next);
        }
        assert_eq!(seen, ids(100));
        let even = page(ids(3), Duration::ZERO, slow).await.unwrap();
        assert_eq!((even.items.len(), even.next), (1, Some(ids(1)[0].clone())));
    }

    #[test]
    fn no_item_is_passed_over_where_the_database_sorts_by_another_order() {
        let ids = ["apple", "Shoe", "zebra"].map(|id| id.parse::<ItemId>().unwrap());
        let first = in_order(ids.to_vec(), None);
        let rest = in_order(ids.to_vec(), first.first());
        assert_eq!(rest.len(), 2, "{first:?} {rest:?}");
    }

    #[tokio::test]
    async fn a_malformed_item_is_listed_and_an_unavailable_store_ends_the_page_before_its_item() {
        let compare = async |id: &ItemId| -> Result<Value, ReconcileError> {
            match id.as_str() {
                "item-000" => Err(ItemError::Corrupt { item_id: id.clone(), field: "paused" }.into()),
                "item-002" => Err(LedgerError::Unavailable("no connection in time".into()).into()),
                _ => Ok(json!({ "repaired": 0 })),
            }
        };
        let found = page(ids(4), PAGE_LIMIT, &compare).await.unwrap();
        assert_eq!(found.items.len(), 2);
        assert!(found.items[&ids(1)[0]]["error"].as_str().unwrap().contains("paused"));
        assert_eq!(found.next, Some(ids(2)[1].clone()));
        let failed = page(ids(4).split_off(2), PAGE_LIMIT, &compare).await.unwrap_err();
        assert!(matches!(failed, AdminError::Ledger(LedgerError::Unavailable(_))), "{failed}");
    }
}
