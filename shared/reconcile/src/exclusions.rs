//! Excluded buyers: the ledger has them, and Redis their marks.

use crate::{PAGE, ReconcileError, Stores, scores_of};
use ledger::{Exclusion, Ledger, LedgerError, Sale};
use shared::item::ItemId;
use shared::queue::{ItemError, LinkError, Queue};
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// Marks those of `buyers` in Redis whom the ledger excludes. They had a unit until now, and therefore no mark.
pub async fn mark_excluded(
    queue: &Queue,
    ledger: &Ledger,
    item_id: &ItemId,
    buyers: &[&UserToken],
) -> Result<(), ReconcileError> {
    let excluded = match ledger.excluded_among(item_id, buyers).await {
        // There are none before the migration.
        Err(error) if error.needs_migration() => return Ok(()),
        excluded => Vec::from_iter(excluded?),
    };
    if excluded.is_empty() {
        return Ok(());
    }
    match queue.exclude(item_id, &excluded).await {
        // Redis does not have the item any more.
        Err(LinkError::Refused(code)) if code == "NOITEM" => Ok(()),
        marked => Ok(marked.map(drop).map_err(ItemError::from)?),
    }
}

/// Marks the excluded buyers in Redis who have no unit and no mark, if `repair`. Returns how many there were.
pub(crate) async fn compare(stores: &Stores, item_id: &ItemId, repair: bool) -> Result<u64, ReconcileError> {
    let (mut unmarked, mut last) = (0, None);
    loop {
        let page = page(stores, item_id, last.as_ref()).await?;
        let Some(end) = page.last().map(|one| one.user_token.clone()) else { return Ok(unmarked) };
        let buyers: Vec<&str> = page.iter().map(|one| one.user_token.as_str()).collect();
        let scores = scores_of(stores, item_id, &buyers).await.map_err(ItemError::from)?;
        let missing: Vec<UserToken> = page
            .into_iter()
            .zip(scores)
            .filter(|(_, score)| !is_known(*score))
            .map(|(one, _)| one.user_token)
            .collect();
        unmarked += missing.len() as u64;
        if repair && !missing.is_empty() {
            stores.queue.exclude(item_id, &missing).await.map_err(ItemError::from)?;
        }
        last = Some(end);
    }
}

/// Whether Redis has a unit of the buyer, or the mark.
fn is_known(score: Option<f64>) -> bool {
    score.is_some_and(|score| score >= 0.0 || score.fract() % 0.5 != 0.0)
}

/// The marks of excluded buyers without a unit, for a Redis that is rebuilt.
pub(crate) async fn marks(
    stores: &Stores,
    item_id: &ItemId,
    after: Option<&UserToken>,
) -> Result<(Vec<(f64, String)>, Option<UserToken>), ReconcileError> {
    let page = page(stores, item_id, after).await?;
    let buyers: Vec<&UserToken> = page.iter().map(|one| &one.user_token).collect();
    let sales = stores.ledger.sales_of(item_id, &buyers).await?;
    let last = page.last().map(|one| one.user_token.clone());
    let mark = |one: Exclusion| {
        mark(&one, sales.get(&one.user_token)).map(|score| (score, one.user_token.as_str().to_owned()))
    };
    Ok((page.into_iter().filter_map(mark).collect(), last))
}

/// As in exclude.lua. Not before the stamp that was served.
fn mark(exclusion: &Exclusion, sale: Option<&Sale>) -> Option<f64> {
    let base = |moment: Stamp| -(moment.as_micros() as f64);
    match sale {
        None => Some(base(exclusion.excluded_at) - 0.25),
        Some(sale) if !sale.is_over() => None,
        Some(sale) => {
            let fraction = if sale.state == ledger::SaleState::Voided { 0.75 } else { 0.25 };
            Some(base(exclusion.excluded_at.max(sale.reserved_at).max(sale.placed_at)) - fraction)
        }
    }
}

async fn page(
    stores: &Stores,
    item_id: &ItemId,
    after: Option<&UserToken>,
) -> Result<Vec<Exclusion>, LedgerError> {
    match stores.ledger.exclusions(item_id, after, PAGE).await {
        // There are none before the migration.
        Err(error) if error.needs_migration() => Ok(Vec::new()),
        page => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_negative_score_with_a_quarter() {
        let released = -1_795_000_000_000_000.0;
        for (score, expected) in [
            (None, false),
            (Some(released), false),
            (Some(released - 0.5), false),
            (Some(released - 0.25), true),
            (Some(released - 0.75), true),
            (Some(1_795_000_000_000_000.0), true),
            (Some(f64::INFINITY), true),
        ] {
            assert_eq!(is_known(score), expected, "{score:?}");
        }
    }
}
