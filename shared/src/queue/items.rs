//! Items in Redis: read, write, list.

use super::primary::{items_on_primary, on_primary};
use super::{ITEMS, Keys, LinkError, Queue};
use crate::item::{Item, ItemChanges, ItemFieldError, ItemId, NewItem};
use crate::stamp::Stamp;
use redis::{AsyncCommands, Script};
use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

static CREATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("create_item.lua")));
static UPDATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("update_item.lua")));

/// The maximum number of items: each is drained 20 times a second by every run while it sells, and runs overlap.
pub const MAX_ITEMS: usize = 1_000;

/// Why an item could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ItemError {
    #[error("item {0} does not exist")]
    NoSuchItem(ItemId),
    #[error("item {0} already exists")]
    Exists(ItemId),
    #[error("item {0} was finished: its queue stays empty")]
    Finished(ItemId),
    #[error("there are {MAX_ITEMS} items already, which is the maximum")]
    TooMany,
    #[error("stock_total must be at least {taken}, the number of units that are reserved or sold")]
    Taken { taken: u64 },
    #[error(transparent)]
    Bad(#[from] ItemFieldError),
    #[error("the hash of item {item_id} in Redis is malformed: its field {field} is missing or wrong")]
    Corrupt { item_id: ItemId, field: &'static str },
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Queue {
    /// Creates an item under `epoch`.
    pub async fn create_item(&self, new: &NewItem, epoch: u64) -> Result<(), ItemError> {
        new.check()?;
        if self.item_ids().await?.len() >= MAX_ITEMS {
            return Err(ItemError::TooMany);
        }
        let fields = [
            // The watermark: no moment, but it exists. Every order reads it, and Redis finds the first field of a small hash
            // soonest.
            ("closed", "1".to_owned()),
            ("name", new.name.clone()),
            ("stock_total", new.stock_total.to_string()),
            ("stock_left", new.stock_total.to_string()),
            ("units_sold", "0".to_owned()),
            ("opens_at", new.opens_at.to_string()),
            ("closes_at", new.closes_at.map(|stamp| stamp.to_string()).unwrap_or_default()),
            ("hold_seconds", new.hold_seconds.to_string()),
            ("settle_window_ms", new.settle_window_ms.to_string()),
            ("paused", "0".to_owned()),
            ("epoch", epoch.to_string()),
        ];
        // Redis may have had an item of this name, and lost it alone.
        self.activate(&new.item_id).await?;
        let key = Keys::of(&new.item_id).item;
        let created: bool = self
            .link
            .call(async |mut connection| {
                // The set first: the drain skips an id without an item, but would never drain an item that is
                // missing from the set.
                let _: () = connection.sadd(ITEMS, new.item_id.as_str()).await?;
                let mut script = CREATE.key(&key);
                script.arg(u8::from(self.has_order_logs));
                for (field, value) in &fields {
                    script.arg(field).arg(value);
                }
                script.invoke_async(&mut connection).await
            })
            .await?;
        if created { Ok(()) } else { Err(ItemError::Exists(new.item_id.clone())) }
    }

    /// Changes an item. A field that `changes` leaves out stays as it is.
    pub async fn update_item(&self, item_id: &ItemId, changes: &ItemChanges) -> Result<(), ItemError> {
        changes.check()?;
        let mut fields = Vec::new();
        fields.extend(changes.name.clone().map(|name| ("name", name)));
        fields.extend(changes.stock_total.map(|units| ("stock_total", units.to_string())));
        fields.extend(changes.opens_at.map(|stamp| ("opens_at", stamp.to_string())));
        fields.extend(changes.closes_at.map(|stamp| ("closes_at", stamp.to_string())));
        fields.extend(changes.hold_seconds.map(|seconds| ("hold_seconds", seconds.to_string())));
        fields.extend(changes.settle_window_ms.map(|window_ms| ("settle_window_ms", window_ms.to_string())));
        self.change_item(item_id, &fields).await
    }

    /// Pauses an item (no order is drained, every order keeps its place) or resumes it.
    pub async fn pause_item(&self, item_id: &ItemId, paused: bool) -> Result<(), ItemError> {
        self.change_item(item_id, &[("paused", u8::from(paused).to_string())]).await
    }

    /// Closes an item at `at`, unless it closes earlier.
    pub async fn close_item(&self, item_id: &ItemId, at: Stamp) -> Result<(), ItemError> {
        self.change_item(item_id, &[("closed_at", at.to_string())]).await
    }

    /// Writes `fields` as they are, and checks no rule: the ledger has them so.
    pub async fn repair_item(
        &self,
        item_id: &ItemId,
        fields: &[(&'static str, String)],
    ) -> Result<(), ItemError> {
        let fields: Vec<_> = fields.iter().cloned().chain([("is_repair", "1".to_owned())]).collect();
        self.change_item(item_id, &fields).await
    }

    /// Lets an item that was finished open again, as `new` has it. An item that was not finished gets these values, too.
    pub async fn reopen_item(&self, new: &NewItem, paused: bool) -> Result<(), ItemError> {
        let fields = [
            ("reopened", "1".to_owned()),
            ("name", new.name.clone()),
            ("stock_total", new.stock_total.to_string()),
            ("opens_at", new.opens_at.to_string()),
            ("closes_at", new.closes_at.map(|stamp| stamp.to_string()).unwrap_or_default()),
            ("hold_seconds", new.hold_seconds.to_string()),
            ("settle_window_ms", new.settle_window_ms.to_string()),
            ("paused", u8::from(paused).to_string()),
        ];
        self.change_item(&new.item_id, &fields).await
    }

    async fn change_item(&self, item_id: &ItemId, fields: &[(&str, String)]) -> Result<(), ItemError> {
        self.activate(item_id).await?;
        let key = Keys::of(item_id).item;
        let reply: Vec<String> = self
            .link
            .call(async |mut connection| {
                let mut script = UPDATE.key(&key);
                for (field, value) in fields {
                    script.arg(field).arg(value);
                }
                script.invoke_async(&mut connection).await
            })
            .await?;
        match reply.first().map(String::as_str) {
            Some("OK") => Ok(()),
            Some("NOITEM") => Err(ItemError::NoSuchItem(item_id.clone())),
            Some("GATES") => Err(ItemError::Bad(ItemFieldError::Gates)),
            Some("TAKEN") => Err(ItemError::Taken {
                taken: reply.get(1).and_then(|units| units.parse().ok()).unwrap_or(0),
            }),
            _ => Err(LinkError::Refused("the update script returned a malformed answer".into()).into()),
        }
    }

    pub async fn item(&self, item_id: &ItemId) -> Result<Item, ItemError> {
        let key = Keys::of(item_id).item;
        let fields: HashMap<String, String> =
            self.link.call(async |mut connection| connection.hgetall(&key).await).await?;
        parse(item_id, &fields)
    }

    /// One item, by a server that takes writes: for a decision that is final.
    pub async fn item_on_primary(&self, item_id: &ItemId) -> Result<Item, ItemError> {
        let keys = Keys::of(item_id);
        let (fields,): (HashMap<String, String>,) = self
            .link
            .call(async |mut connection| {
                on_primary(&keys).hgetall(&keys.item).query_async(&mut connection).await
            })
            .await?;
        parse(item_id, &fields)
    }

    /// The ids of all items, sorted. Malformed ids are skipped.
    pub async fn item_ids(&self) -> Result<Vec<ItemId>, LinkError> {
        let names: Vec<String> =
            self.link.call(async |mut connection| connection.smembers(ITEMS).await).await?;
        let mut ids: Vec<ItemId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The ids of all items, by a server that takes writes, with the time limit `limit` (to connect included) if it is
    /// shorter than the default.
    pub async fn item_ids_on_primary(&self, limit: Duration) -> Result<HashSet<ItemId>, LinkError> {
        let (names,): (Vec<String>,) = self
            .link
            .run(limit.min(self.link.call_limit()), async |mut connection| {
                items_on_primary().smembers(ITEMS).query_async(&mut connection).await
            })
            .await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The number of waiting orders of `item_id`, of units that are reserved or sold, and of units that are sold.
    pub async fn counts(&self, item_id: &ItemId) -> Result<(u64, u64, u64), LinkError> {
        let keys = Keys::of(item_id);
        self.link
            .call(async |mut connection| {
                redis::pipe()
                    .atomic()
                    .zcard(&keys.orders)
                    .zcount(&keys.reservations, 0, "+inf")
                    .zcount(&keys.reservations, "+inf", "+inf")
                    .query_async(&mut connection)
                    .await
            })
            .await
    }

    pub async fn main_time(&self) -> Result<Stamp, LinkError> {
        let time: (u64, u64) = self
            .link
            .call(async |mut connection| redis::cmd("TIME").query_async(&mut connection).await)
            .await?;
        Stamp::from_redis_time(time).map_err(|error| LinkError::Refused(error.to_string()))
    }
}

/// The item with these fields; without any, it does not exist.
pub(super) fn parse(item_id: &ItemId, fields: &HashMap<String, String>) -> Result<Item, ItemError> {
    if fields.is_empty() {
        return Err(ItemError::NoSuchItem(item_id.clone()));
    }
    fn field<T: FromStr>(
        item_id: &ItemId,
        fields: &HashMap<String, String>,
        field: &'static str,
    ) -> Result<T, ItemError> {
        let corrupt = || ItemError::Corrupt { item_id: item_id.clone(), field };
        fields.get(field).and_then(|text| text.parse().ok()).ok_or_else(corrupt)
    }
    let stamp = |name| {
        Stamp::from_micros(field(item_id, fields, name)?)
            .map_err(|_| ItemError::Corrupt { item_id: item_id.clone(), field: name })
    };
    let closes_at = match fields.get("closes_at").map(String::as_str) {
        None | Some("") => None,
        Some(_) => Some(stamp("closes_at")?),
    };
    Ok(Item {
        item_id: item_id.clone(),
        name: field(item_id, fields, "name")?,
        stock_total: field(item_id, fields, "stock_total")?,
        // Negative if the ledger has more sales than Redis has reserved.
        stock_left: field::<i64>(item_id, fields, "stock_left")?.max(0).try_into().unwrap_or(u32::MAX),
        units_sold: field(item_id, fields, "units_sold")?,
        withheld: match fields.get("withheld") {
            None => 0,
            Some(_) => field(item_id, fields, "withheld")?,
        },
        opens_at: stamp("opens_at")?,
        closes_at,
        hold_seconds: field(item_id, fields, "hold_seconds")?,
        settle_window_ms: field(item_id, fields, "settle_window_ms")?,
        settle_delay_ms: match fields.get("settle_delay_ms") {
            None => field(item_id, fields, "settle_window_ms")?,
            Some(_) => field(item_id, fields, "settle_delay_ms")?,
        },
        paused: field::<u8>(item_id, fields, "paused")? != 0,
        epoch: field(item_id, fields, "epoch")?,
        finished_at: match fields.get("finished") {
            None => None,
            Some(_) => Some(stamp("finished")?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field_that_is_missing_or_wrong() {
        let item_id: ItemId = "a".parse().unwrap();
        let mut fields: HashMap<String, String> = [
            ("name", "A"),
            ("stock_total", "5"),
            ("stock_left", "4"),
            ("units_sold", "1"),
            ("opens_at", "7"),
            ("closes_at", ""),
            ("hold_seconds", "0"),
            ("settle_window_ms", "2000"),
            ("paused", "0"),
            ("epoch", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        assert_eq!(parse(&item_id, &fields).unwrap().stock_left, 4);
        assert_eq!(parse(&item_id, &fields).unwrap().withheld, 0);
        fields.insert("withheld".into(), "3".into());
        assert_eq!(parse(&item_id, &fields).unwrap().withheld, 3);
        fields.insert("opens_at".into(), "soon".into());
        assert!(matches!(parse(&item_id, &fields), Err(ItemError::Corrupt { field: "opens_at", .. })));
        fields.remove("stock_left");
        assert!(matches!(parse(&item_id, &fields), Err(ItemError::Corrupt { field: "stock_left", .. })));
    }
}
