//! Logs and metrics on standard output: logs in the format of Lambda's settings, metrics in CloudWatch's embedded
//! metric format.
//!
//! Never logged: tokens, subjects, headers, bodies, whole events.

mod collector;

use crate::config::{self, ConfigError, Source};
pub use collector::MetricCollector;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing_subscriber::filter::LevelFilter;

/// The CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "fairdrop";
/// With several requests in flight, metrics are flushed after this number of requests.
const FLUSH_AFTER_REQUESTS: u32 = 50;
/// With several requests in flight, metrics are flushed at least this often.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The process's metrics.
#[derive(Clone)]
pub struct Telemetry(Arc<TelemetryState>);

struct TelemetryState {
    collector: MetricCollector,
    one_at_a_time: bool,
    unflushed: AtomicU32,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Installs logs and metrics for this process. Called once, at the start of `main`.
    pub fn start(region: &str) -> Result<Self, lambda_runtime::Error> {
        start_logs()?;
        let collector = MetricCollector::new(NAMESPACE, dimensions(region, &config::process_environment));
        metrics::set_global_recorder(collector.clone())
            .map_err(|error| format!("could not install the metrics collector: {error}"))?;
        let in_flight = std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").ok().and_then(|n| n.parse::<u32>().ok());
        let one_at_a_time = in_flight.is_none_or(|n| n <= 1);
        let telemetry =
            Self(Arc::new(TelemetryState { collector, one_at_a_time, unflushed: AtomicU32::new(0) }));
        if !one_at_a_time {
            let flushed = telemetry.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(FLUSH_INTERVAL).await;
                    flushed.flush();
                }
            });
        }
        Ok(telemetry)
    }

    /// Records the end of an invocation. A process that serves one request at a time may be frozen right afterwards, and
    /// therefore writes its metrics now.
    pub fn invocation_done(&self) {
        let unflushed = self.0.unflushed.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0.one_at_a_time || unflushed >= FLUSH_AFTER_REQUESTS {
            self.flush();
        }
    }

    /// Writes what was counted and set since the last flush.
    pub fn flush(&self) {
        self.0.unflushed.store(0, Ordering::Relaxed);
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let lines = self.0.collector.take_lines(at_ms).map_err(std::io::Error::from);
        if let Err(error) = lines.and_then(|lines| std::io::stdout().lock().write_all(&lines)) {
            tracing::error!(%error, "could not write metrics to standard output; the values since the last flush are lost");
        }
    }
}

/// The dimensions of every metric. Without a stack, as on a developer's machine, there is only the region.
fn dimensions(region: &str, source: Source) -> Vec<(&'static str, String)> {
    let stack = config::optional(source, "FAIRDROP_STACK").map(|stack| ("Stack", stack));
    std::iter::once(("Region", region.to_owned())).chain(stack).collect()
}

/// Writes logs in the format of Lambda's setting `AWS_LAMBDA_LOG_FORMAT` (`JSON` or text), from the level
/// `FAIRDROP_LOG_LEVEL` on.
///
/// Lambda's own level is not used: Lambda takes a metric's line for an `INFO` entry, and drops it above that level.
fn start_logs() -> Result<(), ConfigError> {
    let level = log_level(&config::process_environment)?;
    let logs = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    if std::env::var("AWS_LAMBDA_LOG_FORMAT").unwrap_or_default().eq_ignore_ascii_case("json") {
        logs.json().with_span_list(false).init();
    } else {
        logs.without_time().init();
    }
    Ok(())
}

fn log_level(source: Source) -> Result<LevelFilter, ConfigError> {
    let name = "FAIRDROP_LOG_LEVEL";
    match config::optional(source, name).as_deref() {
        None | Some("INFO") => Ok(LevelFilter::INFO),
        Some("TRACE") => Ok(LevelFilter::TRACE),
        Some("DEBUG") => Ok(LevelFilter::DEBUG),
        Some("WARN") => Ok(LevelFilter::WARN),
        Some("ERROR") => Ok(LevelFilter::ERROR),
        Some(_) => Err(ConfigError::bad(name, "it must be TRACE, DEBUG, INFO, WARN or ERROR")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_two_stacks_in_a_region_differ_in_a_dimension() {
        let of = |stack: Option<&'static str>| {
            dimensions("eu-west-1", &|name| stack.filter(|_| name == "FAIRDROP_STACK").map(str::to_owned))
        };
        let region = ("Region", "eu-west-1".to_owned());
        assert_eq!(of(Some("shoes")), [region.clone(), ("Stack", "shoes".to_owned())]);
        let without_stack = vec![region];
        assert_eq!(of(None), without_stack);
        assert_eq!(of(Some("")), without_stack);
    }

    #[test]
    fn the_log_level_is_a_setting_of_fairdrop() {
        for (setting, level) in [
            ("", Some(LevelFilter::INFO)),
            ("TRACE", Some(LevelFilter::TRACE)),
            ("WARN", Some(LevelFilter::WARN)),
            ("FATAL", None),
            ("off", None),
        ] {
            let found = log_level(&|name| (name == "FAIRDROP_LOG_LEVEL").then(|| setting.to_owned()));
            assert_eq!(found.ok(), level, "{setting}");
        }
    }
}
