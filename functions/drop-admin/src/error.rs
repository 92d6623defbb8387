//! Why a command failed, and the `errorType` of its invocation.

use crate::erase::EraseError;
use crate::ledger_restored::NoNewEpoch;
use crate::restock::NoRestock;
use lambda_runtime::Diagnostic;
use lease::{LeaseError, LeaseTableError};
use ledger::LedgerError;
use reconcile::{RebuildError, ReconcileError};
use replay::ReplayError;
use shared::item::ItemId;
use shared::queue::ItemError;
use shared::stamp::Stamp;

/// Why a command failed; the variant determines the invocation's `errorType`.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "the payload is not a command: {0}; commands are create, update, pause, resume, close, finish, archive, describe, list, migrate, \
         lease, ledger_restored, sell_withheld, rebuild, replay, reconcile, republish, limit_unpaid, exclude, void, erase, export, audit and order_book"
    )]
    BadCommand(#[from] serde_json::Error),
    #[error(transparent)]
    Item(#[from] ItemError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("Redis has lost item {0}, which the ledger has: run rebuild")]
    OnlyInLedger(ItemId),
    #[error(transparent)]
    NotRebuilt(RebuildError),
    #[error("the queue of the item was not restored: {0}{advice}", advice = advice(.0))]
    NotReplayed(#[from] ReplayError),
    #[error(
        "this stack has no order logs to replay, and the item waits for none: FAIRDROP_ORDER_LOGS is not set"
    )]
    NoOrderLogs,
    #[error(transparent)]
    Lease(#[from] LeaseTableError),
    #[error("nothing was changed: {0}")]
    MayNotSell(LeaseError),
    #[error("the buyer has no unit of item {0}: nothing was changed")]
    NoUnit(ItemId),
    #[error(transparent)]
    NoNewEpoch(#[from] NoNewEpoch),
    #[error("this stack uses no lease: FAIRDROP_LEASE_TABLE is not set")]
    NoLease,
    #[error("the lease belongs to main region {0}; run the command there")]
    NotMain(String),
    #[error("cannot keep {keep} units withheld: only {withheld} are; nothing was changed")]
    FewerWithheld {
        withheld: u32,
        /// The units that the command asked to keep withheld.
        keep: u32,
    },
    #[error("item {item_id} has not closed: {}", match .from {
        Some(from) => format!("it can be finished from {from} (microseconds since 1970) on, when no order can arrive any more"),
        None => "close it first".to_owned(),
    })]
    NotClosed {
        item_id: ItemId,
        /// From when on it can be finished.
        from: Option<Stamp>,
    },
    #[error(
        "item {0} was archived: the ledger keeps it, nothing changes it, and its name is never used again"
    )]
    Archived(ItemId),
    #[error("item {item_id} was not archived: {why}")]
    NotArchived { item_id: ItemId, why: String },
    #[error("item {0} was not changed: {1}")]
    NotRestocked(ItemId, NoRestock),
    #[error(
        "item {0} was finished, and nothing was changed: it sells again if `update` gives it a new opens_at, closes_at and stock_total"
    )]
    Finished(ItemId),
    #[error(transparent)]
    NotErased(#[from] EraseError),
    #[error("`after` is not the `next` of an earlier answer: start again without it")]
    NoSuchCursor,
}

impl From<RebuildError> for AdminError {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Store(error) => error.into(),
            error => Self::NotRebuilt(error),
        }
    }
}

impl From<ReconcileError> for AdminError {
    fn from(error: ReconcileError) -> Self {
        match error {
            ReconcileError::Item(error) => error.into(),
            ReconcileError::Ledger(error) => error.into(),
            error @ ReconcileError::Incomplete(_) => Self::NotRebuilt(RebuildError::Store(error)),
        }
    }
}

impl From<AdminError> for Diagnostic {
    fn from(error: AdminError) -> Self {
        let error_type = match &error {
            AdminError::BadCommand(_) => "BadCommand",
            AdminError::Item(ItemError::NoSuchItem(_)) | AdminError::Ledger(LedgerError::NoSuchItem(_)) => {
                "NoSuchItem"
            }
            AdminError::Item(ItemError::Exists(_)) => "ItemExists",
            AdminError::Item(ItemError::TooMany) => "TooManyItems",
            AdminError::Item(ItemError::Taken { .. }) => "StockTaken",
            AdminError::Item(ItemError::Bad(_)) => "BadItem",
            AdminError::Item(ItemError::Corrupt { .. }) => "CorruptItem",
            AdminError::Item(ItemError::Finished(_))
            | AdminError::NotReplayed(ReplayError::Item(ItemError::Finished(_)))
            | AdminError::Finished(_)
            | AdminError::NotRestocked(_, NoRestock::Finished(_)) => "ItemFinished",
            AdminError::NotRestocked(_, NoRestock::Closed) => "ItemClosed",
            AdminError::NotClosed { .. } => "NotClosed",
            AdminError::Archived(_) => "ItemArchived",
            AdminError::NotArchived { .. } => "NotArchived",
            AdminError::Item(ItemError::Link(_)) => "MainUnreachable",
            AdminError::Ledger(LedgerError::Unavailable(_)) => "LedgerUnavailable",
            AdminError::Ledger(LedgerError::StaleEpoch) => "StaleEpoch",
            AdminError::Ledger(LedgerError::LeaseOver) => "LeaseOver",
            AdminError::Ledger(LedgerError::Refused(_)) => "LedgerRefused",
            AdminError::Lease(_) | AdminError::MayNotSell(LeaseError::Table(_)) => "LeaseUnavailable",
            AdminError::MayNotSell(_) => "LeaseOver",
            AdminError::NoUnit(_) => "NoUnit",
            AdminError::NoNewEpoch(why) => why.error_type(),
            AdminError::NoLease => "NoLease",
            AdminError::NotMain(_) => "NotMain",
            AdminError::OnlyInLedger(_) => "OnlyInLedger",
            AdminError::NotRebuilt(RebuildError::Selling(_)) => "ItemSelling",
            AdminError::NotRebuilt(RebuildError::TasksWaiting(_)) => "TasksWaiting",
            AdminError::NotRebuilt(RebuildError::Store(_)) => "RebuildIncomplete",
            AdminError::FewerWithheld { .. } => "FewerWithheld",
            AdminError::NoOrderLogs => "NoOrderLogs",
            AdminError::NotReplayed(ReplayError::RegionUnreadable { .. }) => "LogUnreadable",
            AdminError::NotReplayed(ReplayError::NoSuchRegion(_)) => "NoSuchRegion",
            AdminError::NotReplayed(ReplayError::InProgress) => "ReplayInProgress",
            AdminError::NotReplayed(_) => "NotReplayed",
            AdminError::NotErased(error) => error.kind(),
            AdminError::NoSuchCursor => "NoSuchCursor",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}

/// What becomes of an item that was not replayed.
fn advice(error: &ReplayError) -> &'static str {
    match error {
        ReplayError::RegionUnreadable { .. } => {
            "; the item stays unsold until the log is read or an operator leaves the region out"
        }
        _ => "",
    }
}
