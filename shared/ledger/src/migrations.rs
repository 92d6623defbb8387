//! The schema, brought up to date one numbered file at a time.

use crate::{Ledger, LedgerError};
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

/// All migrations, in order. One that has been released is never edited: its checksum
/// is compared, and an edited one is refused.
const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "ledger", include_str!("../migrations/0001_ledger.sql")),
    (2, "heartbeat", include_str!("../migrations/0002_heartbeat.sql")),
    (3, "lease", include_str!("../migrations/0003_lease.sql")),
    (4, "withheld", include_str!("../migrations/0004_withheld.sql")),
    (5, "audit_key", include_str!("../migrations/0005_audit_key.sql")),
    (6, "payments", include_str!("../migrations/0006_payments.sql")),
    (7, "old_holds", include_str!("../migrations/0007_old_holds.sql")),
];

/// The number of the latest migration: what this code is made for.
pub const LATEST_MIGRATION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Where the database keeps which migrations it has had.
const TABLE: &str = "fairdrop.migrations";

/// What a migration run found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// How many migrations were applied.
    pub applied: usize,
    /// The number of the latest one.
    pub version: i64,
}

impl Ledger {
    /// Applies what is missing. Safe to repeat, and to run twice at once: the database
    /// lets one in at a time.
    pub async fn migrate(&self) -> Result<Migrated, LedgerError> {
        let migrations = MIGRATIONS.map(|(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        let mut migrator = Migrator::with_migrations(migrations.to_vec());
        migrator.create_schema("fairdrop");
        migrator.dangerous_set_table_name(TABLE);
        self.within_limit(async {
            // Not the pool's any more: the lock that keeps others out ends with it.
            let mut connection = self.pool.acquire().await?.detach();
            connection.create_schema_if_not_exists("fairdrop").await.map_err(explain)?;
            let before = applied(&mut connection).await?;
            migrator.run_direct(None, &mut connection, false).await.map_err(explain)?;
            let after = applied(&mut connection).await?;
            Ok(Migrated {
                applied: after.len().saturating_sub(before.len()),
                version: after.last().copied().unwrap_or(0),
            })
        })
        .await
    }
}

/// The numbers of the migrations that the database has had.
pub(crate) async fn applied(connection: &mut sqlx::PgConnection) -> Result<Vec<i64>, LedgerError> {
    connection.ensure_migrations_table(TABLE).await.map_err(explain)?;
    let list = connection.list_applied_migrations(TABLE).await.map_err(explain)?;
    Ok(list.iter().map(|migration| migration.version).collect())
}

fn explain(error: MigrateError) -> LedgerError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        MigrateError::VersionMismatch(number) => {
            LedgerError::Refused(format!("migration {number} is not the one that was applied"))
        }
        MigrateError::VersionMissing(number) => LedgerError::Refused(format!(
            "migration {number} was applied and is not known; deploy the newer release"
        )),
        other => LedgerError::Refused(other.to_string()),
    }
}
