//! Whether a restored ledger is one that the shop could go on with.

use crate::App;
use ledger::{LATEST_MIGRATION, Ledger, LedgerError, Vitals};
use rds::Moment;
use serde::Serialize;
use shared::config::{ConfigError, Source};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// An instance that is available may take this long to let clients in.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_secs(5);

/// What the restored ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether the shop could go on with it.
    pub passed: bool,
    /// What is wrong.
    pub problems: Vec<String>,
    /// The number of its latest migration, and of the one that the functions are made for.
    pub schema_version: i64,
    /// See `schema_version`.
    pub expected_version: i64,
    /// Items in it.
    pub items: i64,
    /// Sales in it, released reservations counted.
    pub sales: i64,
    /// Its newest reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_sale_at: Option<Moment>,
    /// How long before the recovery point that was. Of a ledger that was idle it may be any
    /// number; of one that was busy it is seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_sale_seconds_before_recovery_point: Option<i64>,
}

/// Asks the ledger at `host`, once it answers or `deadline` has come.
pub(crate) async fn check(
    app: &App,
    host: &str,
    port: u16,
    recovery_point: Option<Moment>,
    deadline: Instant,
) -> Check {
    let until = (Instant::now() + PATIENCE).min(deadline);
    let vitals = loop {
        match ask(app, host, port).await {
            Err(Refusal::Ledger(LedgerError::Unavailable(_))) if Instant::now() + PAUSE < until => {
                tokio::time::sleep(PAUSE).await;
            }
            other => break other,
        }
    };
    match vitals {
        Ok(vitals) => judge(&vitals, recovery_point),
        Err(why) => {
            Check { problems: vec![why.to_string()], expected_version: LATEST_MIGRATION, ..Check::default() }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the ledger cannot be asked: {0}")]
    Config(#[from] ConfigError),
    #[error("the ledger does not answer as it should: {0}")]
    Ledger(#[from] LedgerError),
}

async fn ask(app: &App, host: &str, port: u16) -> Result<Vitals, Refusal> {
    Ok(ledger_at(&app.environment, host, port)?.vitals().await?)
}

/// The ledger at `host`: the configuration names its user and database, and not where it is restored to.
pub(crate) fn ledger_at(
    environment: &BTreeMap<&'static str, String>,
    host: &str,
    port: u16,
) -> Result<Ledger, ConfigError> {
    let source: Source<'_> = &|name| {
        let text = environment.get(name).cloned();
        text.map(|text| text.replace("{host}", host).replace("{port}", &port.to_string()))
    };
    Ledger::from_config(source)
}

fn judge(vitals: &Vitals, recovery_point: Option<Moment>) -> Check {
    let seconds = |micros: u64| i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let newest = vitals.newest_reservation.map(|at| Moment::from_unix_seconds(seconds(at.as_micros())));
    let mut problems = Vec::new();
    if vitals.version != LATEST_MIGRATION {
        problems.push(format!(
            "its schema is at migration {}, and the functions are made for {LATEST_MIGRATION}",
            vitals.version
        ));
    }
    if vitals.units_taken != vitals.units_counted {
        problems.push(format!(
            "its items say that {} units are taken, and its sales say {}",
            vitals.units_taken, vitals.units_counted
        ));
    }
    Check {
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
