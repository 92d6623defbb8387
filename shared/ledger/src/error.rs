//! What can go wrong with the ledger, sorted by what to do about it.

use shared::item::ItemId;

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be reached, or cannot write at the moment; a transaction that was
    /// being committed may have been. Everything here can be repeated.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// What was to be written belongs to another reign than today's.
    #[error("the ledger is under another epoch")]
    StaleEpoch,
    /// It came after the lease under which it was to be written.
    #[error("the lease was over before the ledger could commit")]
    LeaseOver,
    /// The ledger has no such item.
    #[error("the ledger has no item {0}")]
    NoSuchItem(ItemId),
    /// The database refuses the data itself; repeating it would not help.
    #[error("the ledger refuses it: {0}")]
    Refused(String),
}

/// Raised by the schema where a row carries another epoch than the reign's.
const STALE_EPOCH: &str = "FD001";
/// Raised by the schema at a commit that comes too late, or without a lease where one is kept.
const LEASE_OVER: &str = "FD003";

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
                } else {
                    Self::Unavailable(format!("SQLSTATE {code}"))
                }
            }
            sqlx::Error::PoolTimedOut => Self::Unavailable("no connection in time".into()),
            sqlx::Error::Io(error) => Self::Unavailable(error.kind().to_string()),
            sqlx::Error::Tls(_) => Self::Unavailable("TLS failed".into()),
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Self::Refused("a value that cannot be written or read".into())
            }
            _ => Self::Unavailable("the connection failed".into()),
        }
    }
}

/// Whether a SQLSTATE speaks of the data, and not of the server or the moment: data
/// exceptions (22), integrity (23), and the schema's own rules.
fn refuses_the_data(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23") || code.starts_with("FD")
}
