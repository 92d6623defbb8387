//! Migrations of the schema: numbered files.

use crate::{Ledger, LedgerError};
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

/// All migrations, in order. A released migration is never edited: the database compares its checksum and refuses an
/// edited one.
const MIGRATIONS: [(i64, &str, &str); 18] = [
    (1, "ledger", include_str!("../migrations/0001_ledger.sql")),
    (2, "heartbeat", include_str!("../migrations/0002_heartbeat.sql")),
    (3, "lease", include_str!("../migrations/0003_lease.sql")),
    (4, "withheld", include_str!("../migrations/0004_withheld.sql")),
    (5, "audit_key", include_str!("../migrations/0005_audit_key.sql")),
    (6, "payments", include_str!("../migrations/0006_payments.sql")),
    (7, "old_holds", include_str!("../migrations/0007_old_holds.sql")),
    (8, "changed_in", include_str!("../migrations/0008_changed_in.sql")),
    (9, "outbox", include_str!("../migrations/0009_outbox.sql")),
    (10, "holds", include_str!("../migrations/0010_holds.sql")),
    (11, "exports", include_str!("../migrations/0011_exports.sql")),
    (12, "withheld_for_epoch", include_str!("../migrations/0012_withheld_for_epoch.sql")),
    (13, "released_at", include_str!("../migrations/0013_released_at.sql")),
    (14, "voids", include_str!("../migrations/0014_voids.sql")),
    (15, "unpaid", include_str!("../migrations/0015_unpaid.sql")),
    (16, "ends", include_str!("../migrations/0016_ends.sql")),
    (17, "erasures", include_str!("../migrations/0017_erasures.sql")),
    (18, "ended_payments", include_str!("../migrations/0018_ended_payments.sql")),
];

/// The number of the latest migration, which this code needs.
pub const LATEST_MIGRATION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The table of applied migrations.
const TABLE: &str = "fairdrop.migrations";

/// The result of a migration run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The number of migrations that this run has applied.
    pub applied: usize,
    /// The number of the latest migration in the database.
    pub version: i64,
}

impl Ledger {
    /// Applies the missing migrations. It can be repeated, and run twice at the same time: the database serialises runs.
    pub async fn migrate(&self) -> Result<Migrated, LedgerError> {
        let migrations = MIGRATIONS.map(|(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        let mut migrator = Migrator::with_migrations(migrations.to_vec());
        migrator.create_schema("fairdrop");
        migrator.dangerous_set_table_name(TABLE);
        self.within_limit(async {
            // Taken out of the pool: the lock that excludes other runs ends with the connection.
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

/// The numbers of the applied migrations.
async fn applied(connection: &mut sqlx::PgConnection) -> Result<Vec<i64>, LedgerError> {
    connection.ensure_migrations_table(TABLE).await.map_err(explain)?;
    let list = connection.list_applied_migrations(TABLE).await.map_err(explain)?;
    Ok(list.iter().map(|migration| migration.version).collect())
}

fn explain(error: MigrateError) -> LedgerError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        MigrateError::VersionMismatch(number) => {
            LedgerError::Refused(format!("migration {number} differs from the one that was applied"))
        }
        MigrateError::VersionMissing(number) => LedgerError::Refused(format!(
            "migration {number} was applied but is unknown to this release; deploy the newer release"
        )),
        other => LedgerError::Refused(other.to_string()),
    }
}
