//! The next step of a drill: a pure function of what exists, so that an invocation continues where an earlier one
//! ended.

use rds::{Snapshot, Timestamp};

/// The temporary instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillInstance {
    /// As RDS reports it.
    pub status: String,
    /// Host and port, once RDS has assigned them.
    pub endpoint: Option<(String, u16)>,
    /// Whether it has the drill's tag.
    pub is_own: bool,
    /// Identifier of the restored snapshot.
    pub snapshot: String,
    pub recovery_point: Option<Timestamp>,
    /// When the restore began.
    pub started_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillStep {
    Restore(Snapshot),
    /// RDS is changing the instance.
    Wait,
    /// Check the ledger at this host and port.
    Check(String, u16),
    Delete,
    /// The ledger was checked, and the instance is deleted.
    Done,
    /// There is no snapshot to restore.
    NoSnapshot,
    /// The instance with the drill's name lacks the drill's tag.
    Foreign,
    /// RDS could not restore the snapshot; the instance is in this status.
    RestoreFailed(String),
}

/// The next step. `newest` is the newest snapshot; `is_checked` says whether this restore of the ledger has been
/// checked.
pub fn next_step(newest: Option<&Snapshot>, instance: Option<&DrillInstance>, is_checked: bool) -> DrillStep {
    let Some(instance) = instance else {
        return match newest {
            _ if is_checked => DrillStep::Done,
            Some(newest) => DrillStep::Restore(newest.clone()),
            None => DrillStep::NoSnapshot,
        };
    };
    if !instance.is_own {
        return DrillStep::Foreign;
    }
    match (instance.status.as_str(), &instance.endpoint) {
        ("deleting", _) => DrillStep::Wait,
        (status, _) if is_usable(status) && is_checked => DrillStep::Delete,
        (status, Some((host, port))) if is_usable(status) => DrillStep::Check(host.clone(), *port),
        // An instance does not leave these states by itself.
        (status, _)
            if status == "failed"
                || status == "restore-error"
                || status == "storage-full"
                || status.starts_with("incompatible-")
                || status.starts_with("inaccessible-") =>
        {
            if is_checked {
                DrillStep::Delete
            } else {
                DrillStep::RestoreFailed(status.to_owned())
            }
        }
        _ => DrillStep::Wait,
    }
}

/// Whether the instance serves. While RDS optimises storage, which can take more than a day, it can be used and deleted.
fn is_usable(status: &str) -> bool {
    matches!(status, "available" | "storage-optimization")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds::SnapshotState;

    #[test]
    fn each_state_has_one_next_step() {
        let snapshot = Snapshot {
            id: "fairdrop-ledger-1".into(),
            arn: "arn".into(),
            database: "ledger".into(),
            state: SnapshotState::Available,
            taken_at: Some(Timestamp::from_unix_seconds(1)),
            created_at: None,
            database_time: None,
            is_encrypted: true,
            is_copy: true,
            tag: Some("fairdrop".into()),
            last_drill: None,
        };
        let instance = |status: &str| DrillInstance {
            status: status.into(),
            endpoint: Some(("host".into(), 5432)),
            is_own: true,
            snapshot: snapshot.id.clone(),
            recovery_point: None,
            started_at: None,
        };
        let of = |status: &str, is_checked| next_step(Some(&snapshot), Some(&instance(status)), is_checked);
        assert_eq!(next_step(Some(&snapshot), None, false), DrillStep::Restore(snapshot.clone()));
        assert_eq!(next_step(None, None, false), DrillStep::NoSnapshot);
        assert_eq!(next_step(Some(&snapshot), None, true), DrillStep::Done);
        for status in ["creating", "backing-up", "modifying", "rebooting", "something-new"] {
            assert_eq!(of(status, false), DrillStep::Wait, "{status}");
        }
        assert_eq!(of("available", false), DrillStep::Check("host".into(), 5432));
        assert_eq!(of("available", true), DrillStep::Delete);
        assert_eq!(of("storage-optimization", false), DrillStep::Check("host".into(), 5432));
        assert_eq!(of("deleting", true), DrillStep::Wait);
        assert_eq!(
            of("incompatible-restore", false),
            DrillStep::RestoreFailed("incompatible-restore".into())
        );
        assert_eq!(of("incompatible-restore", true), DrillStep::Delete);
        let without_endpoint = DrillInstance { endpoint: None, ..instance("available") };
        assert_eq!(next_step(Some(&snapshot), Some(&without_endpoint), false), DrillStep::Wait);
        let foreign = DrillInstance { is_own: false, ..instance("available") };
        assert_eq!(next_step(Some(&snapshot), Some(&foreign), true), DrillStep::Foreign);
    }
}
