//! What every function's `main` does if it cannot start.

use crate::config::ConfigError;

/// Logs why the function cannot start, and turns the reason into `main`'s error. The message names the variable.
pub fn start_error(error: ConfigError) -> lambda_runtime::Error {
    tracing::error!(%error, "the function cannot start: its configuration is wrong");
    error.into()
}
