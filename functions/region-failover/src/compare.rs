//! Compares an old main that is back with the new main: what it has committed and the new main does not have.

mod orders;

pub use orders::LostOrder;

use ledger::{LastSigns, Ledger, LedgerError, Sale, SaleState};
use reconcile::Stores;
use serde::{Deserialize, Serialize};
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::BTreeMap;

/// Sales per read.
const PAGE: u32 = 5_000;
/// Limit of sales, and of orders, that one answer lists. All are counted.
pub const MAX_LISTED: usize = 1_000;

/// The result in numbers. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The old main's newest heartbeat and sale.
    pub last: LastSigns,
    /// Sales of the old main that are not sold here.
    pub sales_lost: u64,
    /// Reservations of the old main that are not here.
    pub reservations_lost: u64,
    /// Orders that are queued or reserved in the old main's Redis and unknown here; `None` if they could not be counted.
    #[serde(default)]
    pub orders_lost: Option<u64>,
    /// Why they could not be counted.
    #[serde(default)]
    pub orders_unknown: Option<String>,
    /// From the first lost sale or reservation to the old main's last sale. Heartbeats may have gone on longer.
    pub rpo_ms: u64,
    /// Items with lost sales or reservations.
    pub items: BTreeMap<ItemId, ItemComparison>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemComparison {
    /// Sales and reservations of the old main that are not here.
    pub lost: u64,
    /// Units that are withheld here.
    pub withheld: u32,
}

/// A sale or a reservation about which an operator decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostSale {
    pub item_id: ItemId,
    pub user_token: String,
    /// Its state in the old main's ledger.
    pub there: &'static str,
    /// Its state in this region's ledger; `None` if it is unknown here.
    pub here: Option<&'static str>,
    pub placed_at: Stamp,
    /// When the unit was taken out of the stock.
    pub reserved_at: Stamp,
    pub payment_reference: Option<String>,
}

/// Lost sales and orders, up to [`MAX_LISTED`] of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComparisonPage {
    /// Sales and reservations of the old main's ledger.
    pub lost: Vec<LostSale>,
    /// Orders of the old main's Redis that no ledger has.
    pub lost_orders: Vec<LostOrder>,
}

impl Comparison {
    /// The `skip` of the next page; `None` after the last page.
    pub fn next_skip(&self, skip: u64) -> Option<u64> {
        let most = (self.sales_lost + self.reservations_lost).max(self.orders_lost.unwrap_or(0));
        let next = skip.saturating_add(MAX_LISTED as u64);
        (next < most).then_some(next)
    }
}

/// Compares the old main with the new one, and lists the entries after the first `skip`. If the old main's Redis does
/// not answer, only the ledgers are compared.
pub async fn compare(
    old: &Stores,
    new: &Stores,
    skip: u64,
) -> Result<(Comparison, ComparisonPage), LedgerError> {
    let (mut compared, lost) = compare_ledgers(&old.ledger, &new.ledger, skip).await?;
    let mut listed = ComparisonPage { lost, ..ComparisonPage::default() };
    match orders::lost(old, new, skip).await {
        Ok((count, lost_orders)) => {
            compared.orders_lost = Some(count);
            listed.lost_orders = lost_orders;
        }
        Err(why) => compared.orders_unknown = Some(why.to_string()),
    }
    Ok((compared, listed))
}

async fn compare_ledgers(
    old: &Ledger,
    new: &Ledger,
    skip: u64,
) -> Result<(Comparison, Vec<LostSale>), LedgerError> {
    let mut compared = Comparison { last: old.last_signs().await?, ..Comparison::default() };
    let (mut all, mut first_lost) = (Vec::new(), None::<u64>);
    for item_id in old.item_ids().await? {
        let mut lacking = ItemComparison::default();
        let mut last = None;
        loop {
            let page = old.sales(&item_id, last.as_ref(), PAGE).await?;
            let Some(end) = page.last().cloned() else { break };
            let buyers: Vec<UserToken> = page.iter().map(|sale| sale.user_token.clone()).collect();
            let here = new.states_of(&item_id, &buyers).await?;
            for sale in page {
                let state = here.get(&sale.user_token).copied();
                if !is_lost(sale.state, state) {
                    continue;
                }
                lacking.lost += 1;
                let of_kind = if sale.state == SaleState::Sold {
                    &mut compared.sales_lost
                } else {
                    &mut compared.reservations_lost
                };
                *of_kind += 1;
                first_lost = Some(first_lost.unwrap_or(u64::MAX).min(sale.reserved_at.as_millis()));
                let is_skipped = compared.sales_lost + compared.reservations_lost <= skip;
                if !is_skipped && all.len() < MAX_LISTED {
                    all.push(lost(&item_id, sale, state));
                }
            }
            last = Some(end);
        }
        if lacking.lost > 0 {
            // An item that was created after the last replicated write does not exist here.
            lacking.withheld = match new.item(&item_id).await {
                Ok(item) => item.withheld,
                Err(LedgerError::NoSuchItem(_)) => 0,
                Err(error) => return Err(error),
            };
            compared.items.insert(item_id, lacking);
        }
    }
    let last_sale = compared.last.sale_ms.unwrap_or(0);
    compared.rpo_ms = first_lost.map_or(0, |first| last_sale.saturating_sub(first));
    Ok((compared, all))
}

/// Whether a promise of the old main is not kept here. A reservation that is over is no promise.
fn is_lost(there: SaleState, here: Option<SaleState>) -> bool {
    match (there, here) {
        // Voided here: an operator of this region has decided so.
        (SaleState::Sold, here) => !matches!(here, Some(SaleState::Sold | SaleState::Voided)),
        // Released here: its hold has ended, as it would have ended there.
        (SaleState::Reserved, here) => here.is_none(),
        (SaleState::Released | SaleState::Voided, _) => false,
    }
}

fn lost(item_id: &ItemId, sale: Sale, here: Option<SaleState>) -> LostSale {
    LostSale {
        item_id: item_id.clone(),
        user_token: sale.user_token.as_str().to_owned(),
        there: sale.state.name(),
        here: here.map(SaleState::name),
        placed_at: sale.placed_at,
        reserved_at: sale.reserved_at,
        payment_reference: sale.payment_reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SaleState::{Released, Reserved, Sold, Voided};

    #[test]
    fn a_promise_of_the_old_main_is_lost_unless_it_is_kept_here() {
        for (there, here, expected) in [
            (Sold, None, true),
            (Sold, Some(Reserved), true),
            (Sold, Some(Released), true),
            (Sold, Some(Sold), false),
            (Sold, Some(Voided), false),
            (Voided, Some(Sold), false),
            (Reserved, None, true),
            (Reserved, Some(Sold), false),
            (Reserved, Some(Released), false),
            (Released, None, false),
        ] {
            assert_eq!(is_lost(there, here), expected, "{there:?} {here:?}");
        }
    }
}
