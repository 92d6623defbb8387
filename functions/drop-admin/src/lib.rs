//! The operator's commands: on items, on the ledger, and on Redis after a loss.

mod archive;
mod audit;
mod comparison;
mod erase;
mod error;
mod exclude;
mod export;
mod finish;
mod items;
mod ledger_restored;
mod main_lease;
mod operator;
mod order_book;
mod repair;
mod restock;
mod void;

pub use erase::{DEAD_LETTERS, LIVE_CONNECTION, REDIS_SNAPSHOTS};
pub use error::AdminError;

use audit::{AuditCursor, AuditFormat};
use erase::EraseCursor;
use exclude::{Buyers, UnpaidLimit};
use export::ExportOf;
use lease::Lease;
use ledger::Ledger;
use operator::{OperatorName, Reason};
use order_book::BookCursor;
use order_log::RegionLog;
use reconcile::Stores;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::{self, ConfigError, RedisConfig, Source};
use shared::item::{ItemChanges, ItemId, NewItem};
use shared::queue::{Link, Queue};
use shared::user_token::UserToken;
use std::time::Duration;

/// State that one process of the function keeps between invocations.
#[derive(Debug)]
pub struct App {
    link: Link,
    queue: Queue,
    ledger: Ledger,
    lease: Lease,
    /// The order logs of all regions; none in direct mode.
    logs: Vec<RegionLog>,
    /// How long backups of the ledger are kept, if the operators have said so.
    backups_kept: Option<Duration>,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let link = Link::new(RedisConfig::main(source)?);
        let logs = RegionLog::all_from_config(source)?;
        Ok(Self {
            queue: Queue::new(link.clone()).with_order_logs(!logs.is_empty()),
            logs,
            link,
            backups_kept: backups_kept(source)?,
            ledger: Ledger::from_config(source)?,
            lease: Lease::from_config(source).await?,
        })
    }

    fn stores(&self) -> Stores {
        Stores { link: self.link.clone(), queue: self.queue.clone(), ledger: self.ledger.clone() }
    }
}

/// Only `erase` names it; 0: not known.
fn backups_kept(source: Source) -> Result<Option<Duration>, ConfigError> {
    let days: u64 = config::number(source, "FAIRDROP_BACKUPS_KEPT_DAYS", 0, 0, 36_500)?;
    Ok((days > 0).then(|| Duration::from_secs(days * 24 * 3_600)))
}

/// The payload of an invocation.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Puts a new item on sale.
    Create { item: NewItem },
    /// Changes an item, or lets one that was finished open again.
    Update {
        item_id: ItemId,
        changes: ItemChanges,
        /// New stock of a closed item goes to the orders that wait.
        #[serde(default)]
        serve_waiting: bool,
    },
    /// Stops the item's drain; every order keeps its position.
    Pause { item_id: ItemId },
    /// Continues the item's drain.
    Resume { item_id: ItemId },
    /// Refuses orders from now on.
    Close { item_id: ItemId },
    /// Ends an item that has closed: those who wait get nothing.
    Finish { item_id: ItemId },
    /// Removes a finished item from Redis. The ledger keeps it, and its name is never used again.
    Archive { item_id: ItemId },
    /// One item with its counts.
    Describe { item_id: ItemId },
    /// The ids of all items that Redis has; or of archived ones, in pages.
    List {
        #[serde(default)]
        archived: bool,
        after: Option<ItemId>,
    },
    /// Applies the ledger's migrations, and creates the lease if a lease table is configured.
    Migrate {},
    /// Who may sell, and until when.
    Lease {},
    /// Begins a new epoch after main's ledger was restored: what Redis has sold since the recovery point stays sold.
    LedgerRestored {},
    /// Sells the units that a failover has withheld, except `keep` of them.
    SellWithheld { item_id: ItemId, keep: u32 },
    /// Rebuilds an item in Redis from the ledger.
    Rebuild { item_id: ItemId },
    /// Restores an item's queue from the order logs of all regions, except those in `without`.
    Replay {
        item_id: ItemId,
        #[serde(default)]
        without: Vec<String>,
    },
    /// Compares Redis with the ledger, for one item or all after `after`, and repairs Redis if `repair` is set.
    Reconcile {
        #[serde(default)]
        item_id: Option<ItemId>,
        #[serde(default)]
        repair: bool,
        #[serde(default)]
        after: Option<ItemId>,
    },
    /// Publishes an item's events for the shop again, from the one with this sequence on, dead letters included.
    Republish {
        item_id: ItemId,
        #[serde(default)]
        from: u64,
    },
    /// From how many unpaid holds of any items in the last 30 days on a buyer gets no unit of this item; 0: no limit.
    LimitUnpaid { item_id: ItemId, limit: UnpaidLimit },
    /// Excludes buyers: they lose their places, and get no unit.
    Exclude {
        item_id: ItemId,
        buyers: Buyers,
        reason: Reason,
        #[serde(default)]
        by: Option<OperatorName>,
    },
    /// Takes a buyer's reserved or sold unit back. The next buyer in the queue gets it. With `bar` the buyer gets none.
    Void {
        item_id: ItemId,
        buyer: UserToken,
        reason: Reason,
        #[serde(default)]
        bar: bool,
        #[serde(default)]
        by: Option<OperatorName>,
    },
    /// Removes a buyer's name from all archived items.
    Erase {
        buyer: UserToken,
        by: OperatorName,
        #[serde(default)]
        after: Option<EraseCursor>,
    },
    /// The buyers who have bought a unit, with their names, or those whose unit was voided. The ledger records `by` and the
    /// time.
    Export {
        item_id: ItemId,
        by: OperatorName,
        #[serde(default)]
        of: ExportOf,
        #[serde(default)]
        format: AuditFormat,
        #[serde(default)]
        after: Option<String>,
    },
    /// All logged orders of an item with their outcomes.
    OrderBook {
        item_id: ItemId,
        #[serde(default)]
        format: AuditFormat,
        #[serde(default)]
        after: Option<BookCursor>,
    },
    /// The sales of an item, in the order of their reservations.
    Audit {
        item_id: ItemId,
        #[serde(default)]
        format: AuditFormat,
        #[serde(default)]
        after: Option<AuditCursor>,
    },
}

/// Runs the command in `payload`. Commands that change an item return its state after the change.
pub async fn handle(app: &App, payload: Value) -> Result<Value, AdminError> {
    let item_id = match serde_json::from_value(payload)? {
        Command::List { archived, after } => return items::list(app, archived, after.as_ref()).await,
        Command::Migrate {} => {
            let migrated = app.ledger.migrate().await?;
            let lease = main_lease::create_lease(app).await?;
            return Ok(json!({ "applied": migrated.applied, "version": migrated.version, "lease": lease }));
        }
        Command::Lease {} => return main_lease::show_lease(app).await,
        Command::LedgerRestored {} => return ledger_restored::begin_epoch(app).await,
        Command::SellWithheld { item_id, keep } => {
            items::sell_withheld(app, &item_id, keep).await?;
            item_id
        }
        Command::Rebuild { item_id } => return repair::rebuild(app, &item_id).await,
        Command::Replay { item_id, without } => return repair::replay(app, &item_id, without).await,
        Command::Reconcile { item_id, repair, after } => {
            return comparison::compare(app, item_id, repair, after.as_ref()).await;
        }
        Command::Finish { item_id } => return finish::finish(app, &item_id).await,
        Command::Archive { item_id } => {
            archive::archive(app, &item_id).await?;
            item_id
        }
        Command::Republish { item_id, from } => return repair::republish(app, &item_id, from).await,
        Command::LimitUnpaid { item_id, limit } => {
            items::refuse_elsewhere(app).await?;
            app.ledger.limit_unpaid(&item_id, limit.get()).await?;
            item_id
        }
        Command::Exclude { item_id, buyers, reason, by } => {
            return exclude::exclude(app, &item_id, &buyers, &reason, by.as_ref()).await;
        }
        Command::Void { item_id, buyer, reason, bar, by } => {
            let order = void::order(&buyer, &reason, by.as_ref(), bar);
            return void::void(app, &item_id, order).await;
        }
        Command::Erase { buyer, by, after } => return erase::erase(app, &buyer, &by, after).await,
        Command::Export { item_id, by, of, format, after } => {
            return export::export(app, &item_id, (&by, of), format, after.as_deref()).await;
        }
        Command::Audit { item_id, format, after } => return audit::audit(app, &item_id, format, after).await,
        Command::OrderBook { item_id, format, after } => {
            return order_book::order_book(app, &item_id, format, after).await;
        }
        Command::Create { item } => {
            items::create(app, &item).await?;
            item.item_id
        }
        Command::Update { item_id, changes, serve_waiting } => {
            restock::update(app, &item_id, &changes, serve_waiting).await?;
            item_id
        }
        Command::Pause { item_id } => {
            items::pause(app, &item_id, true).await?;
            item_id
        }
        Command::Resume { item_id } => {
            items::pause(app, &item_id, false).await?;
            item_id
        }
        Command::Close { item_id } => {
            items::close(app, &item_id).await?;
            item_id
        }
        Command::Describe { item_id } => item_id,
    };
    items::describe(app, &item_id).await
}
