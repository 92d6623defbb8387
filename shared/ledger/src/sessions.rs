//! The end of other sessions, for a ledger that must not be written any more.
//!
//! A security group keeps new connections out, and leaves open ones alone. So they are ended over a connection that was
//! open before.

use crate::access::CALL_LIMIT;
use crate::{Ledger, LedgerError};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use std::future::Future;
use tokio::time::timeout;

/// Sessions that could write a sale. Those of a superuser, such as RDS's own, cannot be ended by another user, and count
/// only for a superuser.
macro_rules! writers {
    ($select:literal, $and:literal) => {
        concat!(
            $select,
            " FROM pg_stat_activity AS session JOIN pg_roles AS role ON role.oid = session.usesysid
             WHERE session.datname = current_database() AND session.pid <> pg_backend_pid()
               AND has_table_privilege(role.oid, 'fairdrop.sales', 'INSERT')
               AND (NOT role.rolsuper OR pg_has_role(role.oid, 'USAGE'))",
            $and
        )
    };
}

/// Other sessions that could write a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherWriters {
    /// All of them.
    pub open: u64,
    /// Those that this user may end: of roles whose rights the user has.
    pub own: u64,
}

/// A connection that the caller keeps.
#[derive(Debug)]
pub struct LedgerSession(PoolConnection<Postgres>);

impl Ledger {
    /// Opens a connection, or takes an open one.
    pub async fn session(&self) -> Result<LedgerSession, LedgerError> {
        self.within_limit(async { Ok(LedgerSession(self.pool.acquire().await?)) }).await
    }
}

impl LedgerSession {
    /// The other sessions of this database that could write a sale.
    pub async fn other_writers(&mut self) -> Result<OtherWriters, LedgerError> {
        let counted = sqlx::query_as::<_, (i64, i64)>(writers!(
            "SELECT count(*), count(*) FILTER (WHERE pg_has_role(role.oid, 'USAGE'))",
            ""
        ));
        let (open, own) = within_limit(counted.fetch_one(&mut *self.0)).await?;
        Ok(OtherWriters { open: open.unsigned_abs(), own: own.unsigned_abs() })
    }

    /// Ends those that this user may end, and returns their number. PostgreSQL rolls back what they had not committed.
    pub async fn end_other_writers(&mut self) -> Result<u64, LedgerError> {
        let ended = sqlx::query_scalar::<_, i64>(concat!(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (",
            writers!("SELECT session.pid", " AND pg_has_role(role.oid, 'USAGE') OFFSET 0"),
            ") AS ours"
        ));
        Ok(within_limit(ended.fetch_one(&mut *self.0)).await?.unsigned_abs())
    }
}

async fn within_limit<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LedgerError> {
    let answered = timeout(CALL_LIMIT, work).await;
    Ok(answered.map_err(|_| LedgerError::Unavailable("no answer in time".into()))??)
}
