//! Where a region's records come from.

use order_log::{Bucket, OrderLogError, RegionLog};
use shared::item::ItemId;
use shared::stamp::Stamp;

/// The order log of one region.
pub trait RecordSource: Sync {
    /// The region's name.
    fn region(&self) -> &str;

    /// All records of `item_id` in `bucket` with a stamp at or after `since`, strongly consistent.
    fn bucket(
        &self,
        item_id: &ItemId,
        bucket: u8,
        since: Stamp,
    ) -> impl Future<Output = Result<Bucket, OrderLogError>> + Send;
}

impl RecordSource for RegionLog {
    fn region(&self) -> &str {
        &self.region
    }

    async fn bucket(&self, item_id: &ItemId, bucket: u8, since: Stamp) -> Result<Bucket, OrderLogError> {
        self.log.bucket_of(item_id, bucket, since).await
    }
}
