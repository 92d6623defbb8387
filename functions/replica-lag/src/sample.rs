//! What is seen at one moment. What could not be seen is absent, and is never guessed.

use ledger::AtRisk;
use serde::{Deserialize, Serialize};

/// How long a heart may be silent before its beats say nothing of a lag any more, in seconds.
pub const HEART_STALE_SECONDS: f64 = 10.0;
/// A replica that lacks no more of main's log than this has caught up, in bytes: what main writes
/// between two questions, and not what a drop writes in a second.
const CAUGHT_UP_BYTES: u64 = 256 * 1024;

/// What is seen at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// When, by the function's clock, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What the replica says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
    /// What main's ledger says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main: Option<Main>,
    /// What RDS says of the replica's instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// What RDS says of main's instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_instance: Option<Instance>,
    /// CloudWatch's figures of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// What a promotion would lose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_risk: Option<AtRisk>,
}

/// The replica's own word. Positions are bytes of main's log since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// Whether it follows main; once promoted it does not.
    pub follows: bool,
    /// Whether replaying is paused by hand.
    pub is_paused: bool,
    /// Whether its line to main is open, where that may be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_streaming: Option<bool>,
    /// The age of the newest heartbeat replayed, by its own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beat_age_seconds: Option<f64>,
    /// That heartbeat, in milliseconds since the Unix epoch, by main's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beat_at_ms: Option<i64>,
    /// How far main's log is received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// How far it is replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<u64>,
    /// Reservations in the busiest second of the last minute that is replayed.
    pub peak_sales_per_second: u64,
    /// Units that nobody had bought by then.
    pub units_unsold: u64,
}

/// Main's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Main {
    /// How long ago its heart beat last, by its own clock; nothing where it never has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heart_age_seconds: Option<f64>,
    /// Its newest heartbeat, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beat_at_ms: Option<i64>,
    /// How far its log is written.
    pub written: u64,
    /// Whether the replica's slot is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_active: Option<bool>,
    /// How much of its log main keeps for the replica, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_bytes: Option<u64>,
}

/// An instance, as RDS describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Whether there is one of that name.
    pub exists: bool,
    /// RDS's word for its state, such as `available`.
    pub status: String,
    /// Its class, such as `db.r6g.large`.
    pub class: String,
    /// Whom it is a replica of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<String>,
    /// RDS's word for its replication, such as `replicating` or `terminated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<String>,
    /// Whether RDS finds its replication in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_is_normal: Option<bool>,
    /// Its resource id, by which main's slot is named.
    pub resource_id: String,
}

/// CloudWatch's newest figures; each is absent where there is no datapoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// `ReplicaLag` in seconds; -1 where replication is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_lag: Option<f64>,
    /// The replica.
    pub replica: Load,
    /// Main.
    pub main: Load,
    /// `OldestReplicationSlotLag` of main, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_lag_bytes: Option<f64>,
    /// `TransactionLogsDiskUsage` of main, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<f64>,
    /// `FreeStorageSpace` of main, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_free_bytes: Option<f64>,
    /// `GlobalDatastoreReplicationLag`, in seconds: how far this region's Redis is behind main's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_lag: Option<f64>,
}

/// How busy an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Processor, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Reads and writes of its disk a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<f64>,
    /// What waits for its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_queue: Option<f64>,
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<f64>,
}

impl Sample {
    /// How far the replica is behind main, in seconds: the age of the newest heartbeat that it has
    /// replayed. Where main's heart itself is silent that would say nothing; then what is missing
    /// of main's log says whether the replica has it all.
    pub fn lag_seconds(&self) -> Option<f64> {
        let replica = self.replica.filter(|replica| replica.follows)?;
        match self.main {
            Some(main) if main.heart_age_seconds.is_none_or(|age| age > HEART_STALE_SECONDS) => {
                let missing = main.written.saturating_sub(replica.replayed?);
                if missing <= CAUGHT_UP_BYTES {
                    return Some(0.0);
                }
                let behind_ms = main.beat_at_ms? - replica.beat_at_ms?;
                (behind_ms > 0).then_some(behind_ms as f64 / 1_000.0)
            }
            _ => replica.beat_age_seconds,
        }
    }

    /// Whether main's log reaches the replica and is replayed, as far as can be seen.
    pub fn follows_freely(&self) -> bool {
        let Some(replica) = self.replica else { return false };
        let slot = self.main.and_then(|main| main.slot_active);
        replica.follows && !replica.is_paused && replica.is_streaming != Some(false) && slot != Some(false)
    }

    /// Main's log that the replica has not replayed yet, in bytes.
    pub fn backlog_bytes(&self) -> Option<u64> {
        Some(self.main?.written.saturating_sub(self.replica?.replayed?))
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
