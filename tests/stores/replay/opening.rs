//! A new opening of the item in the middle of a history.

use super::Drop;
use anyhow::Result;
use redis::AsyncCommands;
use shared::queue::Keys;
use sqlx::{Connection, Executor, PgConnection};

impl Drop<'_> {
    pub(super) async fn open_again(&self, opens_at: u64) -> Result<()> {
        let (keys, mut redis) = (Keys::of(&self.item_id), self.world.redis.redis.connect().await?);
        let _: () = redis.hset(&keys.item, "opens_at", opens_at).await?;
        let _: () = redis.zrembyscore(&keys.orders, "-inf", format!("({opens_at}")).await?;
        let mut ledger = self.connect_to_ledger().await?;
        sqlx::query("UPDATE fairdrop.items SET opens_at = $2 WHERE item_id = $1")
            .bind(self.item_id.as_str())
            .bind(i64::try_from(opens_at)?)
            .execute(&mut ledger)
            .await?;
        Ok(())
    }

    /// A connection that writes what functions may not write.
    pub(super) async fn connect_to_ledger(&self) -> Result<PgConnection> {
        let mut ledger = PgConnection::connect(&self.world.ledger.postgres.url()).await?;
        ledger.execute("SET session_replication_role = replica").await?;
        Ok(ledger)
    }
}
