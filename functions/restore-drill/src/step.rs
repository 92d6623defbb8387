//! What a drill does next: a pure function of what there is, so that an invocation goes on
//! where another one ended.

use rds::{Moment, Snapshot};

/// The throw-away instance, as RDS has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// As RDS says it.
    pub status: String,
    /// Where it answers, once it does.
    pub endpoint: Option<(String, u16)>,
    /// Whether it carries the drill's tag.
    pub is_ours: bool,
    /// What it was restored from.
    pub snapshot: String,
    /// The moment whose data that holds.
    pub recovery_point: Option<Moment>,
    /// When the restore was begun.
    pub started_at: Option<Moment>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Restore this snapshot.
    Restore(Snapshot),
    /// RDS is at work.
    Wait,
    /// Look at the ledger at this address.
    Check(String, u16),
    /// Throw the instance away.
    Delete,
    /// It is all over: the instance is gone.
    Over,
    /// There is nothing to restore.
    NoSnapshot,
    /// An instance of the drill's name is somebody else's.
    Foreign,
    /// RDS could not make a working instance of it.
    Broken(String),
}

/// What comes next, where the ledger `is_checked` and the newest snapshot is `newest`.
pub fn next(newest: Option<&Snapshot>, instance: Option<&Instance>, is_checked: bool) -> Next {
    let Some(instance) = instance else {
        return match newest {
            _ if is_checked => Next::Over,
            Some(newest) => Next::Restore(newest.clone()),
            None => Next::NoSnapshot,
        };
    };
    if !instance.is_ours {
        return Next::Foreign;
    }
    match (instance.status.as_str(), &instance.endpoint) {
        ("deleting", _) => Next::Wait,
        ("available", _) if is_checked => Next::Delete,
        ("available", Some((host, port))) => Next::Check(host.clone(), *port),
        // States out of which an instance does not come by itself.
        (status, _)
            if status == "failed"
                || status == "restore-error"
                || status == "storage-full"
                || status.starts_with("incompatible-")
                || status.starts_with("inaccessible-") =>
        {
            if is_checked {
                Next::Delete
            } else {
                Next::Broken(status.to_owned())
            }
        }
        _ => Next::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds::State;

    #[test]
    fn each_state_has_one_next_step() {
        let snapshot = Snapshot {
            id: "fairdrop-ledger-1".into(),
            arn: "arn".into(),
            database: "ledger".into(),
            state: State::Available,
            created: Some(Moment::from_unix_seconds(1)),
            made: None,
            database_time: None,
            is_encrypted: true,
            is_copy: true,
            tag: Some("fairdrop".into()),
        };
        let instance = |status: &str| Instance {
            status: status.into(),
            endpoint: Some(("host".into(), 5432)),
            is_ours: true,
            snapshot: snapshot.id.clone(),
            recovery_point: None,
            started_at: None,
        };
        let of = |status: &str, is_checked| next(Some(&snapshot), Some(&instance(status)), is_checked);
        assert_eq!(next(Some(&snapshot), None, false), Next::Restore(snapshot.clone()));
        assert_eq!(next(None, None, false), Next::NoSnapshot);
        assert_eq!(next(Some(&snapshot), None, true), Next::Over);
        for status in ["creating", "backing-up", "modifying", "rebooting", "something-new"] {
            assert_eq!(of(status, false), Next::Wait, "{status}");
        }
        assert_eq!(of("available", false), Next::Check("host".into(), 5432));
        assert_eq!(of("available", true), Next::Delete);
        assert_eq!(of("deleting", true), Next::Wait);
        assert_eq!(of("incompatible-restore", false), Next::Broken("incompatible-restore".into()));
        assert_eq!(of("incompatible-restore", true), Next::Delete);
        let without_address = Instance { endpoint: None, ..instance("available") };
        assert_eq!(next(Some(&snapshot), Some(&without_address), false), Next::Wait);
        let foreign = Instance { is_ours: false, ..instance("available") };
        assert_eq!(next(Some(&snapshot), Some(&foreign), true), Next::Foreign);
    }
}
