//! What an operator can do to items.

use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::{ConfigError, RedisConfig, Source};
use shared::item::{Item, ItemChanges, ItemId, NewItem};
use shared::queue::{ItemError, Link, Queue};

/// What one process of the function keeps between invocations.
#[derive(Debug)]
pub struct App {
    queue: Queue,
}

impl App {
    /// Reads the configuration. Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Ok(Self { queue: Queue::new(Link::new(RedisConfig::main(source)?)) })
    }
}

/// The payload of an invocation.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Puts a new item on sale.
    Create { item: NewItem },
    /// Changes an item; the settle window cannot be changed.
    Update { item_id: ItemId, changes: ItemChanges },
    /// Stops popping; every order keeps its place.
    Pause { item_id: ItemId },
    /// Goes on popping.
    Resume { item_id: ItemId },
    /// Takes no more orders from now on.
    Close { item_id: ItemId },
    /// One item with its counts.
    Describe { item_id: ItemId },
    /// The ids of all items.
    List {},
}

/// Why a command was not carried out; the name is the invocation's `errorType`.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The payload is no command.
    #[error("not a command: {0}; commands are create, update, pause, resume, close, describe and list")]
    BadCommand(#[from] serde_json::Error),
    /// The command cannot be carried out.
    #[error(transparent)]
    Item(#[from] ItemError),
}

impl From<CommandError> for Diagnostic {
    fn from(error: CommandError) -> Self {
        let error_type = match &error {
            CommandError::BadCommand(_) => "BadCommand",
            CommandError::Item(ItemError::NoSuchItem(_)) => "NoSuchItem",
            CommandError::Item(ItemError::Exists(_)) => "ItemExists",
            CommandError::Item(ItemError::TooMany) => "TooManyItems",
            CommandError::Item(ItemError::Taken { .. }) => "StockTaken",
            CommandError::Item(ItemError::Bad(_)) => "BadItem",
            CommandError::Item(ItemError::Corrupt { .. }) => "CorruptItem",
            CommandError::Item(ItemError::Link(_)) => "MainUnreachable",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}

/// Carries out the command that `payload` holds and answers with the item as it is now.
pub async fn handle(app: &App, payload: Value) -> Result<Value, CommandError> {
    let item_id = match serde_json::from_value(payload)? {
        Command::List {} => {
            let ids = app.queue.item_ids().await.map_err(ItemError::from)?;
            return Ok(json!({ "items": ids }));
        }
        Command::Create { item } => {
            app.queue.create_item(&item).await?;
            item.item_id
        }
        Command::Update { item_id, changes } => {
            app.queue.update_item(&item_id, &changes).await?;
            item_id
        }
        Command::Pause { item_id } => {
            app.queue.pause_item(&item_id, true).await?;
            item_id
        }
        Command::Resume { item_id } => {
            app.queue.pause_item(&item_id, false).await?;
            item_id
        }
        Command::Close { item_id } => {
            app.queue.close_item(&item_id).await?;
            item_id
        }
        Command::Describe { item_id } => item_id,
    };
    describe(app, &item_id).await
}

async fn describe(app: &App, item_id: &ItemId) -> Result<Value, CommandError> {
    let item: Item = app.queue.item(item_id).await?;
    let (waiting, reservations) = app.queue.counts(item_id).await.map_err(ItemError::from)?;
    let now = app.queue.main_time().await.map_err(ItemError::from)?;
    Ok(json!({
        "item_id": item.item_id,
        "name": item.name,
        "phase": item.phase(now),
        "stock_total": item.stock_total,
        "stock_left": item.stock_left,
        "opens_at": item.opens_at,
        "closes_at": item.closes_at,
        "hold_seconds": item.hold_seconds,
        "settle_window_ms": item.settle_window_ms,
        "paused": item.paused,
        "epoch": item.epoch,
        "orders_waiting": waiting,
        "reservations": reservations,
        "main_time": now,
    }))
}
