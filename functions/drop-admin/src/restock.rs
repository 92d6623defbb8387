//! What an update means for an item that has closed or was finished: its stock must not go to orders that buyers have
//! forgotten.

use crate::{AdminError, App, items};
use ledger::LedgerItem;
use shared::item::{ItemChanges, ItemFieldError, ItemId};
use shared::queue::ItemError;
use shared::stamp::Stamp;

/// Why an update was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRestock {
    #[error(
        "it has closed, and more stock would be reserved for orders that wait since then; run `finish`, then `update` \
         with a new opens_at, closes_at and stock_total; or repeat the command with serve_waiting (true)"
    )]
    Closed,
    #[error("it was finished, and sells again only as a new opening: {0}")]
    Finished(&'static str),
}

/// What an update does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    /// It changes fields.
    Change,
    /// It lets a finished item open again.
    Opening,
}

/// Changes the fields of an item that `changes` names. An item that was finished opens again if they say so. A repetition
/// completes what was interrupted.
pub(crate) async fn update(
    app: &App,
    item_id: &ItemId,
    changes: &ItemChanges,
    serve_waiting: bool,
) -> Result<(), AdminError> {
    changes.check().map_err(ItemError::from)?;
    let known = items::known(app, item_id).await?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    let judged = judge(&known, changes, now, serve_waiting);
    match judged.map_err(|why| AdminError::NotRestocked(item_id.clone(), why))? {
        Update::Change => items::update(app, &known, changes).await?,
        Update::Opening => {
            if app.ledger.reopen_item(item_id, changes).await?.is_none() {
                // The gates, unless another command has changed the item since it was read.
                return Err(ItemError::from(ItemFieldError::Gates).into());
            }
        }
    }
    open_again(app, item_id).await
}

/// Writes a new opening to a Redis that still has the end before it.
async fn open_again(app: &App, item_id: &ItemId) -> Result<(), AdminError> {
    let Some(finished_at) = app.queue.item(item_id).await?.finished_at else { return Ok(()) };
    let known = app.ledger.item(item_id).await?;
    // Otherwise a failover has lost the end in the ledger: nothing may be sold before `finish` is repeated.
    if known.finished_at.is_none() && known.item.opens_at > finished_at {
        app.queue.reopen_item(&known.item, known.paused).await?;
        reconcile::restock(&app.stores(), item_id, true).await?;
    }
    Ok(())
}

/// What `changes` mean for an item at `now`.
fn judge(
    known: &LedgerItem,
    changes: &ItemChanges,
    now: Stamp,
    serve_waiting: bool,
) -> Result<Update, NoRestock> {
    let units = changes.stock_total.unwrap_or(known.item.stock_total);
    let adds_stock = units > known.item.stock_total;
    let moves_gates = changes.opens_at.is_some() || changes.closes_at.is_some();
    if known.finished_at.is_none() {
        let has_closed = known.item.closes_at.is_some_and(|closes_at| closes_at <= now);
        let is_refused = has_closed && adds_stock && !serve_waiting;
        return if is_refused { Err(NoRestock::Closed) } else { Ok(Update::Change) };
    }
    if !adds_stock && !moves_gates {
        return Ok(Update::Change);
    }
    let refused = |why| Err(NoRestock::Finished(why));
    match (changes.opens_at, changes.closes_at) {
        (Some(opens_at), Some(_)) if opens_at <= now => refused("opens_at must be in the future"),
        (Some(_), Some(_)) if units <= known.units_taken.saturating_add(known.withheld) => {
            refused("stock_total must be above the units that are reserved, sold or withheld")
        }
        (Some(_), Some(_)) if known.is_end_pending => {
            refused("its queue is not empty yet; run `finish` again until it answers 0 left")
        }
        (Some(_), Some(_)) => Ok(Update::Opening),
        _ => refused("name a new opens_at and closes_at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::item::NewItem;

    const NOW: u64 = 1_795_000_000_000_000;

    fn at(after_seconds: i64) -> Stamp {
        Stamp::from_micros(NOW.saturating_add_signed(after_seconds * 1_000_000)).unwrap()
    }

    fn item(closes_at: Option<Stamp>, finished_at: Option<Stamp>) -> LedgerItem {
        LedgerItem {
            item: NewItem {
                item_id: "a".parse().unwrap(),
                name: "A".into(),
                stock_total: 10,
                opens_at: at(-7_200),
                closes_at,
                hold_seconds: 0,
                max_hold_seconds: 0,
                settle_window_ms: 2_000,
            },
            units_taken: 8,
            withheld: 2,
            paused: finished_at.is_some(),
            keeps_old_holds: false,
            withheld_in_epoch: 1,
            withheld_for_epoch: 0,
            finished_at,
            archived_at: None,
            is_end_pending: false,
        }
    }

    #[test]
    fn stock_of_a_closed_item_goes_to_forgotten_orders_only_if_the_operator_says_so() {
        let more = ItemChanges { stock_total: Some(11), ..ItemChanges::default() };
        let less = ItemChanges { stock_total: Some(9), ..ItemChanges::default() };
        let later = ItemChanges { closes_at: Some(at(60)), ..ItemChanges::default() };
        let closed = item(Some(at(0)), None);
        assert_eq!(judge(&closed, &more, at(0), false), Err(NoRestock::Closed));
        for (known, changes, serve_waiting) in [
            (&closed, &more, true),
            (&closed, &less, false),
            (&closed, &later, false),
            (&item(Some(at(1)), None), &more, false),
            (&item(None, None), &more, false),
        ] {
            assert_eq!(judge(known, changes, at(0), serve_waiting), Ok(Update::Change));
        }
    }

    #[test]
    fn a_finished_item_sells_again_only_as_a_whole_new_opening() {
        let ended = item(Some(at(-60)), Some(at(-30)));
        let opening = ItemChanges {
            stock_total: Some(11),
            opens_at: Some(at(60)),
            closes_at: Some(at(120)),
            ..ItemChanges::default()
        };
        let judged = |known: &LedgerItem, changes: &ItemChanges| judge(known, changes, at(0), true);
        assert_eq!(judged(&ended, &opening), Ok(Update::Opening));
        let renamed = ItemChanges { name: Some("B".into()), ..ItemChanges::default() };
        assert_eq!(judged(&ended, &renamed), Ok(Update::Change));
        let emptying = LedgerItem { is_end_pending: true, ..ended.clone() };
        for (known, changes, why) in [
            (&ended, ItemChanges { closes_at: None, ..opening.clone() }, "name a new"),
            (&ended, ItemChanges { opens_at: None, ..opening.clone() }, "name a new"),
            (&ended, ItemChanges { opens_at: None, closes_at: None, ..opening.clone() }, "name a new"),
            (&ended, ItemChanges { opens_at: Some(at(0)), ..opening.clone() }, "in the future"),
            (&ended, ItemChanges { stock_total: None, ..opening.clone() }, "stock_total must be above"),
            (&emptying, opening, "run `finish` again"),
        ] {
            let error = judged(known, &changes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
