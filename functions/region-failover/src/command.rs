//! What an operator or the schedule may ask for.

use crate::observation::Loss;
use crate::run::Mode;
use crate::steps::FailoverStep;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Limit of units withheld of each item.
const MAX_WITHHOLD: u32 = 10_000_000;

/// Limit of a waiver's reason, in bytes.
const MAX_WHY: usize = 500;

/// How long a forced failover waits for the Global Datastore before it detaches this region's Redis, in seconds.
const REDIS_WAIT: std::ops::RangeInclusive<u64> = 10..=900;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Reports what a failover would do now and what would be lost. Changes nothing.
    Plan {
        mode: FailoverKind,
        /// Another Redis of this region, as in [`Start`].
        #[serde(default)]
        redis_endpoint: Option<String>,
    },
    /// Reports whether a failover could run now, and writes that as a metric. The schedule's command, every half hour.
    /// Changes nothing.
    Readiness {},
    /// Begins a failover, and executes it until it ends or the invocation's time is up.
    Run(Start),
    /// Executes the steps against a temporary copy of the ledger, and measures them. Main goes on selling.
    Drill {},
    /// Reports the newest run. Changes nothing.
    Status(RunKind),
    /// Resumes a run that stopped, or retries its outstanding steps.
    Resume(RunKind),
    /// The schedule's command, every minute: resumes what no execution works on. It begins nothing.
    ResumePending {},
    /// Aborts a run as long as nothing has been moved.
    Abort(RunKind),
    /// The report of a run.
    Report {
        /// The run's id; the newest run by default.
        run: Option<String>,
        /// As in [`RunKind`].
        #[serde(default)]
        drill: bool,
    },
    /// Lists what the old main has committed and the new main does not have.
    Compare {
        /// The number of entries that an earlier answer has listed.
        #[serde(default)]
        skip: u64,
    },
    /// Goes on with another Redis of this region, while a failover waits for the Global Datastore.
    UseRedis {
        /// `host:port`.
        endpoint: String,
    },
    /// Goes on without the order log of a region, while a failover cannot read it.
    WithoutLog { region: String },
    /// Gives up an outstanding step permanently: it is not tried again.
    Waive {
        step: FailoverStep,
        /// The reason, for the report.
        why: String,
    },
}

/// The newest failover, or the newest drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunKind {
    #[serde(default)]
    pub drill: bool,
}

/// How a failover begins.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub mode: FailoverKind,
    /// What may be lost; required for a forced failover, refused for a planned one.
    #[serde(default)]
    pub accept: Option<AcceptedLoss>,
    /// Units of each item that a forced failover withholds until an operator has reconciled.
    #[serde(default)]
    pub withhold: u32,
    /// Whether it may begin within an hour of the last failover.
    #[serde(default)]
    pub skip_cooldown: bool,
    /// How long a forced failover waits for the Global Datastore before it detaches this region's Redis: 10 to 900
    /// seconds, 300 by default.
    #[serde(default)]
    pub redis_wait_seconds: Option<u64>,
    /// Another Redis of this region, `host:port`, for a forced failover whose standby has lost its own.
    #[serde(default)]
    pub redis_endpoint: Option<String>,
    /// Regions without whose order log a forced failover may go on.
    #[serde(default)]
    pub without_logs: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// Main answers, and nothing is lost.
    Planned,
    /// Main is lost.
    Forced,
}

/// The loss that the operator accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedLoss {
    /// Seconds of main's time.
    pub seconds: u64,
    pub sales: u64,
}

/// Why a payload is not a valid command.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCommandError {
    #[error(
        "not a command: {0}; commands are plan, readiness, run, drill, status, resume, abort, report, compare, waive, use_redis, without_log and resume_pending"
    )]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "a forced failover loses what the standby has not replicated: give the loss that you accept, \
         \"accept\": {{\"seconds\": ..., \"sales\": ...}}; `plan` shows how much would be lost"
    )]
    NothingAccepted,
    #[error(
        "a planned failover loses nothing: `accept`, `withhold`, `redis_wait_seconds`, `redis_endpoint` and `without_logs` are for a forced failover"
    )]
    NothingToAccept,
    #[error("withhold must be at most {MAX_WITHHOLD} units")]
    Withhold,
    #[error("redis_wait_seconds must be from {} to {}", REDIS_WAIT.start(), REDIS_WAIT.end())]
    RedisWait,
    #[error("endpoint must be host:port, with a name of letters, digits, dots and hyphens")]
    Endpoint,
    #[error("why must have 1 to {MAX_WHY} bytes")]
    Why,
}

impl From<InvalidCommandError> for Diagnostic {
    fn from(error: InvalidCommandError) -> Self {
        Diagnostic { error_type: "InvalidCommand".into(), error_message: error.to_string() }
    }
}

impl Command {
    /// Reads a payload.
    pub fn parse(payload: Value) -> Result<Self, InvalidCommandError> {
        let command: Self = serde_json::from_value(payload)?;
        match &command {
            Self::Run(start) => drop(start.mode()?),
            Self::Waive { why, .. } if !(1..=MAX_WHY).contains(&why.len()) => {
                return Err(InvalidCommandError::Why);
            }
            Self::Plan { mode: FailoverKind::Planned, redis_endpoint: Some(_) } => {
                return Err(InvalidCommandError::NothingToAccept);
            }
            Self::Plan { redis_endpoint: Some(endpoint), .. } if !is_endpoint(endpoint) => {
                return Err(InvalidCommandError::Endpoint);
            }
            Self::UseRedis { endpoint } if !is_endpoint(endpoint) => {
                return Err(InvalidCommandError::Endpoint);
            }
            _ => {}
        }
        Ok(command)
    }
}

/// Whether `text` is `host:port`. No user, no path and no scheme: the scheme is that of this region's own Redis.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = host.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '.' | '-'));
    is_name && (1..=253).contains(&host.len()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Start {
    /// The mode, with the accepted loss. Refuses options that do not fit it.
    pub fn mode(&self) -> Result<Mode, InvalidCommandError> {
        let is_plain = self.withhold == 0
            && self.redis_wait_seconds.is_none()
            && self.redis_endpoint.is_none()
            && self.without_logs.is_empty();
        match (self.mode, self.accept) {
            _ if self.redis_endpoint.as_deref().is_some_and(|endpoint| !is_endpoint(endpoint)) => {
                Err(InvalidCommandError::Endpoint)
            }
            _ if self.withhold > MAX_WITHHOLD => Err(InvalidCommandError::Withhold),
            _ if self.redis_wait_seconds.is_some_and(|wait| !REDIS_WAIT.contains(&wait)) => {
                Err(InvalidCommandError::RedisWait)
            }
            (FailoverKind::Planned, None) if is_plain => Ok(Mode::Planned),
            (FailoverKind::Planned, _) => Err(InvalidCommandError::NothingToAccept),
            (FailoverKind::Forced, None) => Err(InvalidCommandError::NothingAccepted),
            (FailoverKind::Forced, Some(accepted)) => {
                let ms = accepted.seconds.saturating_mul(1_000);
                Ok(Mode::Forced { accepted: Loss { ms, sales: accepted.sales } })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(payload: Value) -> String {
        Command::parse(payload).unwrap_err().to_string()
    }

    /// A forced failover with `option`.
    fn forced(option: &str, value: impl Into<Value>) -> Value {
        let accept = json!({ "seconds": 20, "sales": 3 });
        json!({ "command": "run", "mode": "forced", "accept": accept, option: value.into() })
    }

    fn started(payload: Value) -> Start {
        let Ok(Command::Run(start)) = Command::parse(payload) else { panic!("it is a command") };
        start
    }

    #[test]
    fn a_forced_failover_needs_an_accepted_loss() {
        assert!(refused(json!({ "command": "run", "mode": "forced" })).contains("accept"));
        let start = started(forced("withhold", 3));
        assert_eq!(start.mode().unwrap(), Mode::Forced { accepted: Loss { ms: 20_000, sales: 3 } });
        assert!(started(forced("without_logs", vec!["main"])).without_logs.contains("main"));
    }

    #[test]
    fn a_planned_failover_loses_nothing_and_has_no_option_of_a_forced_one() {
        for (option, value) in [
            ("accept", json!({ "seconds": 20, "sales": 3 })),
            ("withhold", json!(1)),
            ("redis_wait_seconds", json!(60)),
            ("redis_endpoint", json!("spare:6379")),
            ("without_logs", json!(["main"])),
        ] {
            let planned = json!({ "command": "run", "mode": "planned", option: value });
            assert!(refused(planned).contains("loses nothing"), "{option}");
        }
        let plan = json!({ "command": "plan", "mode": "planned", "redis_endpoint": "spare:6379" });
        assert!(refused(plan).contains("loses nothing"));
    }

    #[test]
    fn a_waiver_needs_a_reason() {
        let waive = |why: &str| json!({ "command": "waive", "step": "fence_old_main", "why": why });
        assert!(refused(waive("")).contains("1 to 500"));
        assert!(refused(waive(&"x".repeat(501))).contains("1 to 500"));
        assert!(Command::parse(waive("the instance is deleted")).is_ok());
    }

    #[test]
    fn another_redis_is_named_by_host_and_port() {
        let named = |endpoint: &str| {
            let plan = json!({ "command": "plan", "mode": "forced", "redis_endpoint": endpoint });
            let uses = json!({ "command": "use_redis", "endpoint": endpoint });
            [plan, uses, forced("redis_endpoint", endpoint)]
        };
        let known = "spare.abc123.euw1.cache.amazonaws.com:6379";
        assert!(named(known).into_iter().all(|payload| Command::parse(payload).is_ok()));
        let wrong = [
            "",
            "spare",
            ":6379",
            "spare:0",
            "spare:65536",
            "redis://spare:6379",
            "me@spare:6379",
            "spare:1/2",
        ];
        for payload in wrong.into_iter().flat_map(named) {
            assert!(refused(payload.clone()).contains("host:port"), "{payload}");
        }
    }

    #[test]
    fn the_wait_for_redis_has_bounds() {
        for seconds in [9, 901] {
            assert!(refused(forced("redis_wait_seconds", seconds)).contains("from 10 to 900"), "{seconds}");
        }
        assert_eq!(started(forced("redis_wait_seconds", 10)).redis_wait_seconds, Some(10));
    }

    #[test]
    fn an_invalid_payload_is_refused() {
        for wrong in [
            json!(null),
            json!({}),
            json!({ "command": "failover" }),
            json!({ "command": "plan" }),
            json!({ "command": "status", "run": "x" }),
            json!({ "command": "drill", "mode": "planned" }),
            json!({ "command": "run", "mode": "forced", "accept": { "seconds": -1, "sales": 0 } }),
            json!({ "command": "run", "mode": "forced", "accept": { "seconds": 1 } }),
            json!({ "command": "run", "mode": "planned", "why": "x" }),
            json!({ "command": "waive", "step": "win", "why": "x" }),
            json!({ "command": "report", "format": "page" }),
            json!({ "command": "waive", "step": "fence_old_main" }),
            json!({ "command": "compare", "skip": -1 }),
        ] {
            assert!(refused(wrong.clone()).contains("not a command"), "{wrong}");
        }
    }

    #[test]
    fn every_sample_is_a_command() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_own = |path: &std::path::PathBuf| path.to_string_lossy().contains("/region-failover.");
        let samples: Vec<_> = paths.filter(is_own).collect();
        assert!(samples.len() >= 15, "{samples:?}");
        for sample in samples {
            let text = std::fs::read_to_string(&sample).unwrap();
            let command = Command::parse(serde_json::from_str(&text).unwrap());
            assert!(command.is_ok(), "{}: {command:?}", sample.display());
        }
    }
}
