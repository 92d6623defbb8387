//! Errors of the ledger, by what the caller can do.

use shared::item::ItemId;

/// Why a call to the ledger failed.
///
/// The texts never contain PostgreSQL's message, and the variants have no source: it contains the values of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The ledger cannot be reached, or cannot write at the moment. A transaction may have been committed. Every call
    /// can be repeated.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// The write is under an epoch that is not the ledger's current one.
    #[error("the ledger refused a write under an old epoch")]
    StaleEpoch,
    /// The commit came after the end of the lease, or there was no lease.
    #[error("the ledger refused a write: the lease had ended before the commit")]
    LeaseOver,
    #[error("the ledger has no item {0}")]
    NoSuchItem(ItemId),
    /// The database refuses the data. A repetition would not help.
    #[error("the ledger refused the data: {0}")]
    Refused(String),
}

/// The schema raises this for a row under another epoch than the current one.
const STALE_EPOCH: &str = "FD001";
/// The schema raises this for a commit after the lease's end, or without a lease if one is required.
const LEASE_OVER: &str = "FD003";

/// A function, table or column is missing.
const OLD_SCHEMA: [&str; 3] = ["42883", "42P01", "42703"];
const NEEDS_MIGRATION: &str = "its schema is older than this release; invoke drop-admin's migrate";

impl LedgerError {
    /// Whether a migration is missing. The call succeeds after it.
    pub fn needs_migration(&self) -> bool {
        matches!(self, Self::Unavailable(why) if why == NEEDS_MIGRATION)
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        // Never the message itself: PostgreSQL puts the row's values into it.
        match &error {
            sqlx::Error::Database(refusal) => {
                let code = refusal.code().unwrap_or_default();
                if code == STALE_EPOCH {
                    Self::StaleEpoch
                } else if code == LEASE_OVER {
                    Self::LeaseOver
                } else if refuses_the_data(&code) {
                    Self::Refused(refusal.constraint().map_or_else(|| code.to_string(), str::to_owned))
                } else if OLD_SCHEMA.contains(&&*code) {
                    Self::Unavailable(NEEDS_MIGRATION.into())
                } else {
                    Self::Unavailable(format!("SQLSTATE {code}"))
                }
            }
            sqlx::Error::PoolTimedOut => Self::Unavailable("no connection in time".into()),
            sqlx::Error::Io(error) => Self::Unavailable(error.kind().to_string()),
            sqlx::Error::Tls(_) => Self::Unavailable("TLS failed".into()),
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Self::Refused("a value could not be encoded or decoded".into())
            }
            _ => Self::Unavailable("the connection failed".into()),
        }
    }
}

/// Whether a SQLSTATE is about the data, not about the server: data exceptions (22), integrity (23), and the schema's
/// own rules.
fn refuses_the_data(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23") || code.starts_with("FD")
}
