//! Access to the ledger: address, TLS, password or IAM token, and a small pool in which every wait has a time limit.

use crate::{Ledger, LedgerError};
use sdk::DatabaseUser;
use shared::config::{self, ConfigError, Source};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection, PgConnection, PgPool};
use std::future::Future;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// The time limit of one call to the ledger, from the wait for a connection to the commit. The server's own limits are
/// lower.
pub const CALL_LIMIT: Duration = Duration::from_secs(8);
/// The maximum number of connections of one process.
pub const MAX_CONNECTIONS: u32 = 20;

/// How long a call waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// The time limit of the ping with which each connection is tested before use. How long it was idle proves nothing: if
/// Lambda freezes the process while a connection returns to the pool, it seems fresh afterwards, and the server may have
/// closed it.
const PING_LIMIT: Duration = Duration::from_millis(500);
const MAX_IDLE: Duration = Duration::from_secs(300);
const MAX_LIFETIME: Duration = Duration::from_secs(900);
/// An IAM token can open connections for 15 minutes; it is replaced well before that.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// The server's limits for each session.
const SESSION: [(&str, &str); 3] =
    [("statement_timeout", "5s"), ("lock_timeout", "4s"), ("idle_in_transaction_session_timeout", "10s")];

/// The ledger's address and credentials.
pub(crate) struct Access {
    options: PgConnectOptions,
    connections: u32,
    iam: Option<Iam>,
}

/// An IAM token in place of a password.
struct Iam {
    /// The ledger's region: a token is signed for a region.
    region: String,
    credentials: sdk::Credentials,
    made_at: Mutex<Option<SystemTime>>,
}

impl Access {
    /// Reads the variable `name` and the other variables of the ledger.
    pub(crate) fn from_config(source: Source, name: &'static str) -> Result<Self, ConfigError> {
        let url = config::required(source, name)?;
        let why =
            "it must be postgres://user@host:5432/database, with sslmode=verify-full or without sslmode";
        // The library does not check the scheme.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(ConfigError::bad(name, why));
        }
        let mut options = PgConnectOptions::from_str(&url).map_err(|_| ConfigError::bad(name, why))?;
        if !is_this_machine(options.get_host()) {
            if !url.contains("sslmode=") {
                options = options.ssl_mode(PgSslMode::VerifyFull);
            }
            if !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
                return Err(ConfigError::bad(name, why));
            }
        }
        let file_name = "FAIRDROP_LEDGER_CA_FILE";
        if let Some(file) = config::optional(source, file_name) {
            let text = std::fs::read_to_string(&file).map_err(|error| ConfigError::bad(file_name, error))?;
            if !text.contains("BEGIN CERTIFICATE") {
                return Err(ConfigError::bad(file_name, "it holds no certificate in PEM form"));
            }
            options = options.ssl_root_cert_from_pem(text.into_bytes());
        }
        if let Some(password) = config::optional(source, "FAIRDROP_LEDGER_PASSWORD") {
            options = options.password(&password);
        }
        let iam = match config::optional(source, "FAIRDROP_LEDGER_AUTH").as_deref() {
            None | Some("password") => None,
            Some("iam") => Some(Iam {
                region: config::optional(source, "FAIRDROP_LEDGER_REGION")
                    .map_or_else(|| config::required(source, "AWS_REGION"), Ok)?,
                credentials: sdk::credentials(source).map_err(|missing| ConfigError::Missing(missing.0))?,
                made_at: Mutex::new(None),
            }),
            Some(_) => {
                return Err(ConfigError::bad("FAIRDROP_LEDGER_AUTH", "it must be password or iam"));
            }
        };
        let connections = config::number(source, "FAIRDROP_LEDGER_CONNECTIONS", 4, 1, MAX_CONNECTIONS)?;
        let options = options.application_name("fairdrop").options(SESSION);
        Ok(Self { options, connections, iam })
    }

    pub(crate) fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .idle_timeout(MAX_IDLE)
            .max_lifetime(MAX_LIFETIME)
            .test_before_acquire(false)
            .before_acquire(|connection: &mut PgConnection, _| {
                Box::pin(
                    async move { Ok(matches!(timeout(PING_LIMIT, connection.ping()).await, Ok(Ok(())))) },
                )
            })
            .connect_lazy_with(self.options.clone())
    }

    /// Replaces the token if it is older than [`TOKEN_LIFETIME`].
    fn renew_token(&self, pool: &PgPool) -> Result<(), LedgerError> {
        let Some(iam) = &self.iam else { return Ok(()) };
        let is_fresh = || {
            let made_at = *iam.made_at.lock().unwrap_or_else(PoisonError::into_inner);
            made_at.is_some_and(|at| at.elapsed().is_ok_and(|age| age < TOKEN_LIFETIME))
        };
        if is_fresh() {
            return Ok(());
        }
        let user = DatabaseUser {
            host: self.options.get_host(),
            port: self.options.get_port(),
            user: self.options.get_username(),
            region: &iam.region,
        };
        let token = user
            .database_token(iam.credentials.clone(), SystemTime::now())
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        pool.set_connect_options(self.options.clone().password(&token));
        *iam.made_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        Ok(())
    }
}

/// Only a connection to this machine may be without TLS.
fn is_this_machine(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]") || host.starts_with('/')
}

impl Ledger {
    /// Checks that the ledger answers. Waits for a connection if necessary.
    pub async fn ready(&self) -> Result<(), LedgerError> {
        self.within_limit(async {
            let mut connection = self.pool.acquire().await?;
            Ok(connection.ping().await?)
        })
        .await
    }

    /// Runs `work` within [`CALL_LIMIT`].
    pub(crate) async fn within_limit<T>(
        &self,
        work: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.access.renew_token(&self.pool)?;
        timeout(CALL_LIMIT, Box::pin(work))
            .await
            .unwrap_or_else(|_| Err(LedgerError::Unavailable("no answer in time".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(pairs: &[(&str, &str)]) -> Result<Access, ConfigError> {
        let source =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Access::from_config(&source, "FAIRDROP_LEDGER_URL")
    }

    #[test]
    fn only_connections_to_this_machine_may_be_without_tls() {
        let mode =
            |url: &str| access(&[("FAIRDROP_LEDGER_URL", url)]).map(|access| access.options.get_ssl_mode());
        assert!(matches!(mode("postgres://u@db.example/x"), Ok(PgSslMode::VerifyFull)));
        assert!(matches!(mode("postgres://u@db.example/x?sslmode=verify-full"), Ok(PgSslMode::VerifyFull)));
        assert!(mode("postgres://u@127.0.0.1:5433/x?sslmode=disable").is_ok());
        for weak in ["disable", "prefer", "require", "verify-ca"] {
            let error =
                mode(&format!("postgres://u:hunter2@db.example/x?sslmode={weak}")).unwrap_err().to_string();
            assert!(error.contains("FAIRDROP_LEDGER_URL") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_variable_that_is_missing_or_wrong() {
        assert_eq!(access(&[]).err(), Some(ConfigError::Missing("FAIRDROP_LEDGER_URL")));
        let url = ("FAIRDROP_LEDGER_URL", "postgres://u@127.0.0.1/x");
        for (name, value) in [("FAIRDROP_LEDGER_AUTH", "kerberos"), ("FAIRDROP_LEDGER_CONNECTIONS", "0")] {
            let error = access(&[url, (name, value)]).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[tokio::test]
    async fn an_iam_token_is_made_from_the_environment_s_credentials_and_kept() {
        let access = access(&[
            ("FAIRDROP_LEDGER_URL", "postgres://app@db.example:5432/x"),
            ("FAIRDROP_LEDGER_AUTH", "iam"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ])
        .unwrap();
        let iam = access.iam.as_ref().unwrap();
        let pool = access.pool();
        access.renew_token(&pool).unwrap();
        let first = *iam.made_at.lock().unwrap();
        assert!(first.is_some());
        access.renew_token(&pool).unwrap();
        assert_eq!(*iam.made_at.lock().unwrap(), first);
        *iam.made_at.lock().unwrap() = SystemTime::now().checked_sub(TOKEN_LIFETIME);
        access.renew_token(&pool).unwrap();
        assert!(*iam.made_at.lock().unwrap() > first);
    }
}
