//! Checks whether the shop could continue with a restored ledger.

use crate::App;
use ledger::{LATEST_MIGRATION, Ledger, LedgerError, Vitals};
use rds::Timestamp;
use serde::Serialize;
use shared::config::{self, ConfigError, Source};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// An instance that is `available` may take this long until it accepts connections.
const CONNECT_LIMIT: Duration = Duration::from_secs(180);
const RETRY_PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerCheck {
    /// Whether the shop could continue with this ledger.
    pub passed: bool,
    pub problems: Vec<String>,
    /// The latest migration of the restored ledger.
    pub schema_version: i64,
    /// The migration that the functions need.
    pub expected_version: i64,
    pub items: i64,
    /// The number of sales and of reservations, including released ones.
    pub sales: i64,
    /// The time of the newest reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_sale_at: Option<Timestamp>,
    /// How long before the recovery point the newest reservation was made. During a drop this is some seconds;
    /// without one it may be any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_sale_seconds_before_recovery_point: Option<i64>,
}

/// Checks the ledger at `host`. Retries until it answers, for 180 s and for `limit` at most.
pub(crate) async fn check(
    app: &App,
    host: &str,
    port: u16,
    recovery_point: Option<Timestamp>,
    limit: Duration,
) -> LedgerCheck {
    let until = Instant::now() + CONNECT_LIMIT.min(limit);
    let vitals = loop {
        match read_vitals(app, host, port).await {
            Err(LedgerCheckError::Ledger(LedgerError::Unavailable(_)))
                if Instant::now() + RETRY_PAUSE < until =>
            {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            other => break other,
        }
    };
    match vitals {
        Ok(vitals) => evaluate(&vitals, recovery_point),
        Err(error) => {
            let problems = vec![error.to_string()];
            LedgerCheck { problems, expected_version: LATEST_MIGRATION, ..LedgerCheck::default() }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LedgerCheckError {
    #[error("the connection to the restored ledger is misconfigured: {0}")]
    Config(#[from] ConfigError),
    #[error("could not read the restored ledger: {0}")]
    Ledger(#[from] LedgerError),
}

async fn read_vitals(app: &App, host: &str, port: u16) -> Result<Vitals, LedgerCheckError> {
    Ok(ledger_at(&app.environment, host, port)?.vitals().await?)
}

/// The restored ledger at `host`. The configuration names its user and database; its address is known only after
/// the restore.
pub(crate) fn ledger_at(
    environment: &BTreeMap<&'static str, String>,
    host: &str,
    port: u16,
) -> Result<Ledger, ConfigError> {
    let source: Source<'_> = &|name| {
        // Lambda's region and credentials sign the IAM token. They are not kept in `environment`, which has `Debug`.
        if name.starts_with("AWS_") {
            return config::process_environment(name);
        }
        let text = environment.get(name).cloned();
        text.map(|text| text.replace("{host}", host).replace("{port}", &port.to_string()))
    };
    Ledger::from_config(source)
}

fn evaluate(vitals: &Vitals, recovery_point: Option<Timestamp>) -> LedgerCheck {
    let seconds = |micros: u64| i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let newest = vitals.newest_reservation.map(|at| Timestamp::from_unix_seconds(seconds(at.as_micros())));
    let mut problems = Vec::new();
    if vitals.version != LATEST_MIGRATION {
        problems.push(format!(
            "the schema is at migration {}, and the functions need migration {LATEST_MIGRATION}",
            vitals.version
        ));
    }
    if vitals.units_taken != vitals.units_counted {
        problems.push(format!(
            "by the items table {} units are taken, by the sales table {}",
            vitals.units_taken, vitals.units_counted
        ));
    }
    LedgerCheck {
        passed: problems.is_empty(),
        problems,
        schema_version: vitals.version,
        expected_version: LATEST_MIGRATION,
        items: vitals.items,
        sales: vitals.sales,
        newest_sale_at: newest,
        newest_sale_seconds_before_recovery_point: recovery_point
            .zip(newest)
            .map(|(point, newest)| point.seconds_since(newest)),
    }
}
