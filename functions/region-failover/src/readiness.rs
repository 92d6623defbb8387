//! Why a failover could not run as it should: what a planned failover is refused for, before it stops sales, and what
//! only the alarm reports. Pure: nothing here calls a server.

use crate::observation::{FunctionState, Obstacle, Role};
use ledger::{MainState, ReplicaState};
use serde::Serialize;
use shared::stamp::Stamp;
use std::collections::BTreeMap;

/// The limit of the lag of a copy, in microseconds. The lag gate waits five minutes, the lease's end included.
const LAG_LIMIT: u64 = 60_000_000;
/// WAL that the replica may lack however old it is: an idle main, too, writes some.
const MISSING_WAL_LIMIT: u64 = 1_024 * 1_024;
/// Executions that Lambda keeps unreserved.
const KEPT_UNRESERVED: i32 = 100;

/// A reason. Its text is constant; its fields say what was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub reason: &'static str,
    /// Whether a planned failover is refused for it. A forced one never is.
    pub refuses_planned: bool,
    #[serde(flatten)]
    pub fields: BTreeMap<&'static str, String>,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        match fields.is_empty() {
            true => f.write_str(self.reason),
            false => write!(f, "{} ({})", self.reason, fields.join(", ")),
        }
    }
}

impl Reason {
    pub(crate) fn refusing(reason: &'static str) -> Self {
        Self { reason, refuses_planned: true, fields: BTreeMap::new() }
    }

    pub(crate) fn noting(reason: &'static str) -> Self {
        Self { refuses_planned: false, ..Self::refusing(reason) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.insert(name, value.to_string());
        self
    }

    /// Something could not be observed.
    pub(crate) fn unobserved(reason: &'static str, Obstacle(why): Obstacle) -> Self {
        Self::noting(reason).with("why", why)
    }
}

/// What the ledgers show.
pub(crate) fn of_ledger(replica: &ReplicaState, main: Option<&MainState>) -> Vec<Reason> {
    let Some(main) = main else { return vec![Reason::refusing("main's ledger does not answer")] };
    let mut reasons = Vec::new();
    if replica.is_streaming == Some(false) {
        reasons.push(Reason::refusing("the replica has no open connection to main"));
    }
    let missing_bytes = main.written.saturating_sub(replica.received.unwrap_or(0));
    // No count: the replica lacks more heartbeats than main keeps.
    let lag = main.counted_loss.map_or(u64::MAX, |loss| loss.micros);
    if missing_bytes > MISSING_WAL_LIMIT && lag > LAG_LIMIT {
        let reason = Reason::refusing("the replica lacks WAL that main wrote more than a minute ago");
        let reason = reason.with("missing_bytes", missing_bytes);
        let is_known = main.counted_loss.is_some();
        reasons.push(if is_known { reason.with("lag_ms", lag / 1_000) } else { reason });
    }
    reasons
}

/// What ElastiCache and the servers show: the role of this region's Redis, main's newest heartbeat in it, and in main's
/// Redis (`None` if that does not answer).
pub(crate) fn of_redis(role: Role, here: Option<Stamp>, main: Option<Option<Stamp>>) -> Vec<Reason> {
    match role {
        Role::Alone => {
            return vec![Reason::refusing("this region's Redis has left the Global Datastore")];
        }
        Role::Primary => {
            return vec![Reason::refusing(
                "this region's Redis is the primary of the Global Datastore already",
            )];
        }
        Role::Secondary => {}
    }
    let reason = match (here, main) {
        (_, None) => Reason::refusing("main's Redis does not answer"),
        (_, Some(None)) => Reason::noting(
            "main has never written a heartbeat to its Redis, so that the lag of its copy is unknown",
        ),
        (None, Some(Some(_))) => Reason::refusing("this region's Redis has no heartbeat of main"),
        (Some(here), Some(Some(main))) => {
            let lag = main.micros_since(here).max(0).unsigned_abs();
            if lag <= LAG_LIMIT {
                return Vec::new();
            }
            Reason::refusing("this region's Redis is more than a minute behind main's")
                .with("lag_ms", lag / 1_000)
        }
    };
    vec![reason]
}

/// What Lambda shows: functions of this region that it cannot invoke, and regions whose functions cannot be read. An
/// inactive function is none: the failover wakes it.
pub(crate) fn of_functions(not_active: &[FunctionState], not_readable: &[String]) -> Vec<Reason> {
    let not_invocable = not_active.iter().filter(|state| !state.is_inactive).map(|state| {
        Reason::refusing("Lambda cannot invoke a function of this region").with("state", &state.text)
    });
    let not_readable = not_readable.iter().map(|region| {
        Reason::refusing("the functions of a region cannot be read, so that they could not be repointed")
            .with("region", region)
    });
    not_invocable.chain(not_readable).collect()
}

/// Regions whose order log cannot be read: a failover could not put its orders back.
pub(crate) fn of_logs(unreadable: &BTreeMap<String, String>) -> impl Iterator<Item = Reason> {
    unreadable.iter().map(|(region, why)| {
        Reason::refusing("a region's order log cannot be read").with("region", region).with("why", why)
    })
}

/// What Lambda's quota shows: `wanted` executions are to be reserved for main's functions.
pub(crate) fn of_quota(unreserved: i32, wanted: i32) -> Option<Reason> {
    (unreserved - wanted < KEPT_UNRESERVED).then(|| {
        Reason::noting("Lambda's quota of this region has no room for the reservations of main's functions")
            .with("unreserved", unreserved)
            .with("wanted", wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::CountedLoss;

    fn at(seconds: u64) -> Stamp {
        Stamp::saturating_from_micros(1_795_000_000_000_000 + seconds * 1_000_000)
    }

    fn replica(received: u64, is_streaming: bool) -> ReplicaState {
        ReplicaState {
            follows: true,
            at: at(0),
            beat_at: None,
            received: Some(received),
            replayed: Some(received),
            is_paused: false,
            is_streaming: Some(is_streaming),
            peak_sales_per_second: 0,
            units_unsold: 0,
            units_on_sale: 0,
            units_opening: 0,
        }
    }

    fn main(written: u64, lag_seconds: Option<u64>) -> MainState {
        let counted_loss = lag_seconds.map(|seconds| CountedLoss { micros: seconds * 1_000_000, sales: 0 });
        MainState { at: at(0), beat_at: None, written, slot: None, counted_loss }
    }

    fn texts(reasons: &[Reason]) -> Vec<String> {
        reasons.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_ledger_that_lacks_old_wal_refuses_and_an_idle_one_does_not() {
        let mib = 1_024 * 1_024;
        for (received, written, lag, expected) in [
            (7, 7, Some(1), ""),
            // A burst of the last minute.
            (0, 90 * mib, Some(59), ""),
            // Main writes no heartbeat, and next to nothing else.
            (0, mib, Some(9_000), ""),
            (0, mib, None, ""),
            (0, 90 * mib, Some(61), "lag_ms 61000, missing_bytes 94371840"),
            (0, 90 * mib, None, "missing_bytes 94371840"),
        ] {
            let reasons = of_ledger(&replica(received, true), Some(&main(written, lag)));
            let found = texts(&reasons).join("; ");
            assert_eq!(found.contains("lacks WAL"), !expected.is_empty(), "{found}");
            assert!(found.contains(expected) && reasons.iter().all(|one| one.refuses_planned), "{found}");
        }
        let alone = of_ledger(&replica(7, false), Some(&main(7, Some(1))));
        assert_eq!(texts(&alone), ["the replica has no open connection to main"]);
        assert_eq!(texts(&of_ledger(&replica(7, false), None)), ["main's ledger does not answer"]);
    }

    #[test]
    fn a_redis_that_is_gone_or_far_behind_refuses() {
        let follows = Role::Secondary;
        for (role, here, main, expected) in [
            (follows, Some(at(0)), Some(Some(at(60))), ""),
            // A main that has stopped writing heartbeats, hours ago.
            (follows, Some(at(0)), Some(Some(at(0))), ""),
            (follows, Some(at(0)), Some(Some(at(7_200))), "behind main's (lag_ms 7200000)"),
            (follows, None, Some(Some(at(0))), "has no heartbeat"),
            (follows, Some(at(0)), None, "main's Redis does not answer"),
            (Role::Alone, Some(at(0)), Some(Some(at(0))), "has left"),
            (Role::Primary, Some(at(0)), Some(Some(at(0))), "primary"),
        ] {
            let reasons = of_redis(role, here, main);
            let found = texts(&reasons).join("; ");
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
            assert!(found.contains(expected) && reasons.iter().all(|one| one.refuses_planned), "{found}");
        }
        assert!(!of_redis(follows, None, Some(None))[0].refuses_planned);
    }

    #[test]
    fn a_function_that_a_failover_wakes_is_no_reason() {
        let state = |is_inactive| FunctionState {
            function: "drop-admin".into(),
            text: "drop-admin is in a state".into(),
            is_inactive,
        };
        assert_eq!(of_functions(&[state(true)], &[]), []);
        let reasons = of_functions(&[state(false)], &["us-east-1".into()]);
        assert!(reasons.len() == 2 && reasons.iter().all(|one| one.refuses_planned), "{reasons:?}");
        assert_eq!(of_quota(179, 79), None);
        assert!(of_quota(178, 79).is_some_and(|reason| !reason.refuses_planned));
    }

    #[test]
    fn a_reason_is_constant_text_and_fields() {
        let reason = Reason::refusing("it is so").with("lag_ms", 5).with("a", "b");
        assert_eq!(reason.to_string(), "it is so (a b, lag_ms 5)");
        let json =
            serde_json::json!({ "reason": "it is so", "refuses_planned": true, "a": "b", "lag_ms": "5" });
        assert_eq!(serde_json::to_value(&reason).unwrap(), json);
    }
}
