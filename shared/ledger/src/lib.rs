//! The ledger: the PostgreSQL tables with every sale, the system of record.
//!
//! [`Ledger::record`] writes the drain's reservations. [`Ledger::pay`] and its neighbours decide about payments.
//! [`Ledger::release_due`] releases reservations that were not paid in time. The rules are in the database
//! (`migrations/`): the code here follows them and cannot break them.
//!
//! The functions on the path of an order do not link this crate.

mod access;
mod at_risk;
mod attempts;
mod ends;
mod epoch;
mod erasures;
mod error;
mod exclusions;
mod heartbeat;
mod items;
mod migrations;
mod outbox;
mod payment;
mod records;
mod restored;
mod sales;
mod service;
mod sessions;
mod unpaid;
mod vitals;
mod voids;

pub use access::{CALL_LIMIT, MAX_CONNECTIONS};
pub use at_risk::{AtRisk, Basis, at_risk};
pub use ends::{ItemEnd, NotArchivable};
pub use epoch::EpochStart;
pub use erasures::{Erasure, NamedItem};
pub use error::LedgerError;
pub use exclusions::{Excluded, Exclusion, ExclusionOrder};
pub use heartbeat::{CountedLoss, HEARTBEAT_INTERVAL, LastSigns, MainState, ReplicaState, ReplicationSlot};
pub use items::{LedgerItem, NEVER_OVERSOLD};
pub use migrations::{LATEST_MIGRATION, Migrated};
pub use outbox::{
    Decided, EventSale, MalformedEvent, OutboxEvent, OutboxEventKind, OutboxState, OutboxTurn, Republished,
    TURN_LIMIT,
};
pub use payment::{Decline, Extension, MAX_EXTENSIONS, Payment, WantedHold};
pub use records::{Sale, SalePosition, SaleState};
pub use sales::{BuyerState, Due};
pub use sessions::{LedgerSession, OtherWriters};
pub use unpaid::{MAX_UNPAID_LIMIT, UnpaidHolds};
pub use vitals::Vitals;
pub use voids::{Void, VoidOrder};

use access::Access;
use shared::config::{ConfigError, Source};
use sqlx::PgPool;
use std::sync::Arc;

/// The ledger, over a small pool of connections. Cloning shares it.
#[derive(Clone)]
pub struct Ledger {
    pool: PgPool,
    access: Arc<Access>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Reads the configuration. Nothing is connected yet. Needs a tokio runtime.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        Self::at(source, "FAIRDROP_LEDGER_URL")
    }

    /// The ledger of the standby's replica: `FAIRDROP_REPLICA_URL`.
    pub fn of_replica(source: Source) -> Result<Self, ConfigError> {
        Self::at(source, "FAIRDROP_REPLICA_URL")
    }

    fn at(source: Source, name: &'static str) -> Result<Self, ConfigError> {
        let access = Access::from_config(source, name)?;
        Ok(Self { pool: access.pool(), access: Arc::new(access) })
    }

    /// Main's ledger, for a function of another region: an IAM token for it is signed for `main_region`.
    pub fn of_main(source: Source, main_region: &str) -> Result<Self, ConfigError> {
        Self::from_config(&|name: &str| match name {
            "FAIRDROP_LEDGER_REGION" => Some(main_region.to_owned()),
            _ => source(name),
        })
    }
}
