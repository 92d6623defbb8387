//! What an operator or the schedule may ask for.

use crate::observation::Loss;
use crate::run::Mode;
use crate::steps::FailoverStep;
use lambda_runtime::Diagnostic;
use serde::Deserialize;
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
    Status {
        /// The newest drill instead of the newest failover.
        #[serde(default)]
        drill: bool,
    },
    /// Resumes a run that stopped, or retries its outstanding steps.
    Resume {
        /// The newest drill instead of the newest failover.
        #[serde(default)]
        drill: bool,
    },
    /// The schedule's command, every minute: resumes what no execution works on. It begins nothing.
    ResumePending {},
    /// Aborts a run as long as nothing has been moved.
    Abort {
        /// The newest drill instead of the newest failover.
        #[serde(default)]
        drill: bool,
    },
    /// The report of a run.
    Report {
        /// The run's id; the newest run by default.
        run: Option<String>,
        /// A drill instead of a failover.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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

    #[test]
    fn a_forced_failover_needs_an_accepted_loss() {
        assert!(refused(json!({ "command": "run", "mode": "forced" })).contains("accept"));
        let accept = json!({ "seconds": 20, "sales": 3 });
        let forced = json!({ "command": "run", "mode": "forced", "accept": accept, "withhold": 3 });
        let Ok(Command::Run(start)) = Command::parse(forced) else { panic!("it is a command") };
        assert_eq!(start.mode().unwrap(), Mode::Forced { accepted: Loss { ms: 20_000, sales: 3 } });
        let planned = json!({ "command": "run", "mode": "planned", "accept": accept });
        assert!(refused(planned).contains("loses nothing"));
        let withhold = json!({ "command": "run", "mode": "planned", "withhold": 1 });
        assert!(refused(withhold).contains("loses nothing"));
        let wait = json!({ "command": "run", "mode": "planned", "redis_wait_seconds": 60 });
        assert!(refused(wait).contains("loses nothing"));
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
        let named = |endpoint: &str| Command::parse(json!({ "command": "use_redis", "endpoint": endpoint }));
        assert!(named("spare.abc123.euw1.cache.amazonaws.com:6379").is_ok());
        for wrong in [
            "",
            "spare",
            ":6379",
            "spare:0",
            "spare:65536",
            "redis://spare:6379",
            "me@spare:6379",
            "spare:1/2",
        ] {
            assert!(named(wrong).is_err(), "{wrong}");
            let accept = json!({ "seconds": 20, "sales": 3 });
            let forced =
                json!({ "command": "run", "mode": "forced", "accept": accept, "redis_endpoint": wrong });
            assert!(refused(forced).contains("host:port"), "{wrong}");
        }
        let planned = json!({ "command": "run", "mode": "planned", "redis_endpoint": "spare:6379" });
        assert!(refused(planned).contains("loses nothing"));
        let plan = |mode, endpoint| json!({ "command": "plan", "mode": mode, "redis_endpoint": endpoint });
        assert!(Command::parse(plan("forced", "spare:6379")).is_ok());
        assert!(refused(plan("forced", "spare")).contains("host:port"));
        assert!(refused(plan("planned", "spare:6379")).contains("loses nothing"));
    }

    #[test]
    fn only_a_forced_failover_begins_without_a_region_s_order_log() {
        let accept = json!({ "seconds": 20, "sales": 3 });
        let forced =
            json!({ "command": "run", "mode": "forced", "accept": accept, "without_logs": ["main"] });
        let Ok(Command::Run(start)) = Command::parse(forced) else { panic!("it is a command") };
        assert!(start.without_logs.contains("main"));
        let planned = json!({ "command": "run", "mode": "planned", "without_logs": ["main"] });
        assert!(refused(planned).contains("loses nothing"));
    }

    #[test]
    fn the_wait_for_redis_has_bounds() {
        let forced = |seconds| {
            let accept = json!({ "seconds": 20, "sales": 3 });
            json!({ "command": "run", "mode": "forced", "accept": accept, "redis_wait_seconds": seconds })
        };
        for seconds in [9, 901] {
            assert!(refused(forced(seconds)).contains("from 10 to 900"), "{seconds}");
        }
        let Ok(Command::Run(start)) = Command::parse(forced(10)) else { panic!("it is a command") };
        assert_eq!(start.redis_wait_seconds, Some(10));
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
        for sample in [
            "region-failover.plan.json",
            "region-failover.plan-forced.json",
            "region-failover.run.json",
            "region-failover.run-forced.json",
            "region-failover.status.json",
            "region-failover.resume.json",
            "region-failover.abort.json",
            "region-failover.report.json",
            "region-failover.drill.json",
            "region-failover.compare.json",
            "region-failover.waive.json",
            "region-failover.use-redis.json",
            "region-failover.without-log.json",
            "region-failover.readiness.json",
            "region-failover.schedule.json",
        ] {
            let text = std::fs::read_to_string(folder.join(sample)).unwrap();
            let command = Command::parse(serde_json::from_str(&text).unwrap());
            assert!(command.is_ok(), "{sample}: {command:?}");
        }
    }
}
