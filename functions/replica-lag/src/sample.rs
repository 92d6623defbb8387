//! The state of both sides at one moment. What could not be read is absent, and is never guessed.
//!
//! WAL positions (LSN) are in bytes since the beginning of main's WAL.

use ledger::AtRisk;
use serde::{Deserialize, Serialize};

/// If main's newest heartbeat is older than this, heartbeats do not measure the lag any more, in seconds.
pub const HEARTBEAT_STALE_SECONDS: f64 = 10.0;
/// A replica that lacks no more of main's WAL than this has caught up, in bytes. Main writes this much between two
/// questions; a drop writes more in a second.
const CAUGHT_UP_BYTES: u64 = 256 * 1024;
/// A query on the replica holds replay for up to `max_standby_streaming_delay`, 30 s by default. Replay that stands
/// still for longer than this is not held by a query, in seconds.
const HELD_AT_MOST_SECONDS: f64 = 120.0;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandbySample {
    /// By the function's clock, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What the replica's ledger returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaSample>,
    /// What main's ledger returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main: Option<MainSample>,
    /// What RDS reports of the replica's instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceSample>,
    /// What RDS reports of main's instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_instance: Option<InstanceSample>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// What a promotion would lose. It is reported, and no later verdict needs it.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub at_risk: Option<AtRisk>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaSample {
    /// Whether it follows main. A promoted replica does not.
    pub follows: bool,
    /// Whether an operator has paused WAL replay.
    pub is_paused: bool,
    /// Whether its connection to main is open. Absent if the database user may not read this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_streaming: Option<bool>,
    /// The age of the newest replayed heartbeat, by the replica's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_age_seconds: Option<f64>,
    /// The newest replayed heartbeat, in milliseconds since the Unix epoch, by main's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MainSample {
    /// The age of the newest heartbeat, by main's clock. Absent if there has never been one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_age_seconds: Option<f64>,
    /// The newest heartbeat, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_at_ms: Option<i64>,
    pub written_lsn: u64,
    /// Whether the replica's slot is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_active: Option<bool>,
    /// The WAL that main retains for the replica, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSample {
    pub exists: bool,
    /// RDS's status, such as `available`.
    pub status: String,
    /// Such as `db.r6g.large`.
    pub class: String,
    /// The instance that it is a replica of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<String>,
    /// RDS's status of its replication, such as `replicating` or `terminated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_is_normal: Option<bool>,
    /// The resource id, which names the slot on main.
    pub resource_id: String,
}

/// CloudWatch's newest figures. A figure without a data point is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// `ReplicaLag` in seconds; -1 if replication is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_lag: Option<f64>,
    /// `GlobalDatastoreReplicationLag`: how far this region's Redis is behind main's, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_lag: Option<f64>,
}

impl StandbySample {
    /// How far the replica is behind main, in seconds: the age of the newest heartbeat that it has replayed. If main
    /// writes no heartbeats, that age measures nothing. Then the missing WAL decides whether the replica has caught up.
    pub fn lag_seconds(&self) -> Option<f64> {
        let replica = self.replica.filter(|replica| replica.follows)?;
        match self.main {
            Some(main) if main.heartbeat_age_seconds.is_none_or(|age| age > HEARTBEAT_STALE_SECONDS) => {
                let missing = main.written_lsn.saturating_sub(replica.replayed_lsn?);
                if missing <= CAUGHT_UP_BYTES {
                    return Some(0.0);
                }
                let behind_ms = main.heartbeat_at_ms? - replica.heartbeat_at_ms?;
                (behind_ms > 0).then_some(behind_ms as f64 / 1_000.0)
            }
            _ => replica.heartbeat_age_seconds,
        }
    }

    /// Whether a query on the replica holds the replay of next to nothing: the heartbeat's age grows, and a promotion,
    /// which ends the query, would lose nothing and replay for no time.
    pub fn is_replay_held(&self) -> bool {
        let Some(replica) = self.replica.filter(|replica| replica.follows && !replica.is_paused) else {
            return false;
        };
        let (Some(received), Some(replayed)) = (replica.received_lsn, replica.replayed_lsn) else {
            return false;
        };
        let written = self.main.map_or(received, |main| main.written_lsn);
        replayed < received
            && written.max(received) - replayed <= CAUGHT_UP_BYTES
            && replica.heartbeat_age_seconds.is_some_and(|age| age <= HELD_AT_MOST_SECONDS)
    }

    /// The lag as far as it says something about the replica: none while a query holds the replay of next to nothing.
    pub fn lag_that_counts(&self) -> Option<f64> {
        self.lag_seconds().map(|lag| if self.is_replay_held() { 0.0 } else { lag })
    }

    /// Whether the replica has replayed nothing from this sample to `later`, for at least `for_ms`, although it has received
    /// more.
    pub fn has_same_replay(&self, later: &Self, for_ms: i64) -> bool {
        let (Some(earlier), Some(replica)) = (self.replica, later.replica) else { return false };
        later.at_ms - self.at_ms >= for_ms
            && earlier.replayed_lsn == replica.replayed_lsn
            && replica.received_lsn > replica.replayed_lsn
    }

    /// Whether main's WAL does not reach the replica or is not replayed, as far as the sample shows. A replica that gave
    /// no answer shows nothing.
    pub fn is_obstructed(&self) -> bool {
        let slot = self.main.and_then(|main| main.slot_active);
        let is_stopped = |replica: ReplicaSample| {
            !replica.follows || replica.is_paused || replica.is_streaming == Some(false)
        };
        self.replica.is_some_and(is_stopped) || slot == Some(false)
    }

    /// Main's WAL that the replica has not replayed yet, in bytes.
    pub fn backlog_bytes(&self) -> Option<u64> {
        Some(self.main?.written_lsn.saturating_sub(self.replica?.replayed_lsn?))
    }

    /// The names of the inputs that could not be read.
    pub fn unknown(&self) -> Vec<&'static str> {
        let inputs = [
            ("replica-ledger", self.replica.is_none()),
            ("main-ledger", self.main.is_none()),
            ("replica-instance", self.instance.is_none()),
            ("main-instance", self.main_instance.is_none()),
            ("figures", self.figures.is_none()),
        ];
        inputs.into_iter().filter(|(_, is_unknown)| *is_unknown).map(|(name, _)| name).collect()
    }
}
