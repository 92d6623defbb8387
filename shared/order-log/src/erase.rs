//! Deleting a buyer's records.

use crate::attempts::OF_SCANS;
use crate::read::page;
use crate::record::LogRecord;
use crate::{OrderLog, OrderLogError};
use shared::item::ItemId;
use shared::user_token::UserToken;

/// Pages of a buyer's records. A page has up to 1 MB, some thousand records.
const MAX_PAGES: u32 = 50;

impl OrderLog {
    /// Deletes all records of a buyer for an item; returns their number. For an item that takes no orders any more: an
    /// order of the buyer that is written meanwhile may stay.
    pub async fn erase(&self, item_id: &ItemId, user_token: &UserToken) -> Result<u64, OrderLogError> {
        let (mut deleted, mut from) = (0, None);
        for _ in 0..MAX_PAGES {
            let (records, next) =
                page(self.query_buyer(item_id, user_token), from, OF_SCANS, LogRecord::from_item).await?;
            let records: Vec<LogRecord> = records.into_iter().collect::<Result<_, _>>()?;
            for record in records.iter().filter(|record| record.user_token == *user_token) {
                OF_SCANS.repeat(|| self.delete(record)).await?;
                deleted += 1;
            }
            let Some(next) = next else { return Ok(deleted) };
            from = Some(next);
        }
        Err(OrderLogError::Refused("a buyer has too many records; repeat the erasure".into()))
    }

    async fn delete(&self, record: &LogRecord) -> Result<(), OrderLogError> {
        let mut call = self.client.delete_item().table_name(&self.table);
        for (name, value) in record.key() {
            call = call.key(name, value);
        }
        call.send().await.map(drop).map_err(|error| OrderLogError::of(&error))
    }
}
