//! What the ledger has of the buyers whose records were read.

use crate::ReplayError;
use crate::decide::Known;
use ledger::{Ledger, Sale};
use order_log::LogRecord;
use shared::item::ItemId;
use shared::user_token::UserToken;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

/// An item with no more rows is read whole, which is cheaper than to ask for each of a million buyers.
const MOST_ROWS: u32 = 5_000;
/// Otherwise, buyers whose rows are read in one query.
const BUYERS_OF_QUERY: usize = 5_000;

pub(crate) type KnownSales = Arc<HashMap<UserToken, Known>>;

/// The rows of an item.
#[derive(Debug)]
pub(crate) struct SalesOfItem<'a> {
    item_id: &'a ItemId,
    ledger: &'a Ledger,
    read: Mutex<Read>,
}

/// What was read last.
#[derive(Debug)]
enum Read {
    Nothing,
    /// All rows, and when that read began.
    All(Instant, KnownSales),
    /// The item has more than [`MOST_ROWS`].
    TooMany,
}

impl<'a> SalesOfItem<'a> {
    pub(crate) fn new(item_id: &'a ItemId, ledger: &'a Ledger) -> Self {
        Self { item_id, ledger, read: Mutex::new(Read::Nothing) }
    }

    /// The rows of the buyers of `records`, and perhaps others, by a read that begins after this call: a row may be newer
    /// than the records.
    pub(crate) async fn of(&self, records: &[Vec<LogRecord>]) -> Result<KnownSales, ReplayError> {
        if records.iter().all(Vec::is_empty) {
            return Ok(KnownSales::default());
        }
        let called = Instant::now();
        {
            let mut read = self.read.lock().await;
            match &*read {
                Read::All(began, known) if *began >= called => return Ok(known.clone()),
                Read::TooMany => {}
                Read::All(..) | Read::Nothing => {
                    let began = Instant::now();
                    let sales = self.ledger.sales(self.item_id, None, MOST_ROWS + 1).await?;
                    if sales.len() <= MOST_ROWS as usize {
                        let known: KnownSales = Arc::new(sales.into_iter().map(of_sale).collect());
                        *read = Read::All(began, known.clone());
                        return Ok(known);
                    }
                    *read = Read::TooMany;
                }
            }
        }
        self.of_buyers(records.iter().flatten().map(|record| &record.user_token).collect()).await
    }

    async fn of_buyers(&self, buyers: HashSet<&UserToken>) -> Result<KnownSales, ReplayError> {
        let buyers: Vec<&UserToken> = buyers.into_iter().collect();
        let mut found = HashMap::new();
        for page in buyers.chunks(BUYERS_OF_QUERY) {
            let sales = self.ledger.sales_of(self.item_id, page).await?;
            found.extend(sales.into_values().map(of_sale));
        }
        Ok(Arc::new(found))
    }
}

fn of_sale(sale: Sale) -> (UserToken, Known) {
    let Sale { user_token, state, placed_at, released_at, .. } = sale;
    (user_token, Known { state, placed_at, released_at })
}
