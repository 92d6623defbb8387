//! When the old main's database is closed: a security group lets no new connection in, and open connections, which
//! outlive it, are ended.
//!
//! They are ended over a connection that was open before the group. Without such a connection the instance is rebooted:
//! the old main has no lease and an old epoch, so that it loses no sale by that.

use crate::observation::FailoverAction;
use crate::run::Run;
use crate::steps::StepVerdict;
use ledger::OtherWriters;
use serde::{Deserialize, Serialize};
use shared::stamp::Stamp;

/// How long after it was accepted a reboot that RDS has never shown counts as done, in milliseconds.
const UNSEEN_REBOOT_MS: u64 = 5 * 60_000;

/// The old main's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldDatabase {
    /// The fence is its only security group, and is in effect.
    pub is_closed: bool,
    /// RDS is not changing its security groups. Another change would start that over.
    pub is_settled: bool,
    /// RDS shows the instance as rebooting.
    pub is_rebooting: bool,
    /// Open sessions that could write a sale, once it is closed; `None` if no connection to it can be had.
    pub writers: Option<OtherWriters>,
    /// Sessions that this process has ended.
    pub ended: u64,
}

/// A reboot of the old main's instance, which ends all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reboot {
    /// RDS has accepted it.
    Accepted,
    /// It was observed since then, and RDS did not show it yet: descriptions are stale for a while.
    Unseen { since_ms: u64 },
    /// RDS has shown it.
    Seen,
}

/// What the step decides.
pub(crate) fn decide(run: &Run, found: &OldDatabase, now: Stamp) -> StepVerdict {
    let wait = |why: &str| StepVerdict::Wait(why.into());
    match (found.is_closed, found.writers) {
        (false, _) if found.is_settled => StepVerdict::Do(FailoverAction::Fence),
        (false, _) => wait("RDS is changing the security groups of the old main's database"),
        (true, Some(OtherWriters { open: 0, .. })) => StepVerdict::Done,
        (true, Some(OtherWriters { own: 1.., .. })) => StepVerdict::Do(FailoverAction::EndSessions),
        // Sessions of other users, or sessions that cannot be counted.
        (true, _) => match run.reboot {
            None => StepVerdict::Do(FailoverAction::RebootOldMain),
            Some(_) if found.is_rebooting => wait("RDS is rebooting the old main's instance"),
            Some(Reboot::Seen) => StepVerdict::Done,
            Some(Reboot::Unseen { since_ms })
                if now.as_millis().saturating_sub(since_ms) > UNSEEN_REBOOT_MS =>
            {
                StepVerdict::Done
            }
            Some(Reboot::Accepted | Reboot::Unseen { .. }) => {
                wait("RDS has accepted the reboot of the old main's instance and does not show it yet")
            }
        },
    }
}

impl Run {
    /// Notes what the fence's observation shows of a reboot. Returns the step's last words once it is done.
    pub(crate) fn note_fence(&mut self, found: &OldDatabase, is_done: bool, now_ms: u64) -> Option<String> {
        match self.reboot {
            Some(_) if found.is_rebooting => self.reboot = Some(Reboot::Seen),
            Some(Reboot::Accepted) => self.reboot = Some(Reboot::Unseen { since_ms: now_ms }),
            _ => {}
        }
        is_done.then(|| {
            let how = match found.writers {
                Some(OtherWriters { open: 0, .. }) => format!("{} sessions ended; 0 left", found.ended),
                _ => "the instance was rebooted".into(),
            };
            format!("the fence is the only security group; {how}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Answer, Loss, Observation};
    use crate::run::Mode;
    use crate::steps::FailoverStep;
    use lease::LeaseTiming;
    use std::time::Duration;

    const CLOSED: OldDatabase =
        OldDatabase { is_closed: true, is_settled: true, is_rebooting: false, writers: None, ended: 0 };

    fn run() -> Run {
        let mode = Mode::Forced { accepted: Loss { ms: 0, sales: 0 } };
        let mut run = Run::new("r", mode, ("us-east-1", "eu-west-1"), 1, 0);
        run.step = FailoverStep::FenceOldMain;
        run
    }

    fn at(seconds: u64) -> Stamp {
        Stamp::saturating_from_micros(1_795_000_000_000_000 + seconds * 1_000_000)
    }

    fn counted(open: u64, own: u64, ended: u64) -> OldDatabase {
        OldDatabase { writers: Some(OtherWriters { open, own }), ended, ..CLOSED }
    }

    /// The run takes an observation; returns the verdict and the step's last words.
    fn observed(run: &mut Run, found: OldDatabase, seconds: u64) -> (StepVerdict, String) {
        let timing = LeaseTiming { lasts: Duration::from_secs(12), tolerance: Duration::from_secs(1) };
        let verdict = decide(run, &found, at(seconds));
        run.observed(&Ok(Observation::Fence(found)), at(seconds), timing);
        (verdict, run.log.last().unwrap().last.clone())
    }

    #[test]
    fn the_group_comes_first_and_then_the_sessions_that_outlive_it() {
        let mut run = run();
        let open = OldDatabase { is_closed: false, ..CLOSED };
        assert_eq!(observed(&mut run, open, 0).0, StepVerdict::Do(FailoverAction::Fence));
        let changing = OldDatabase { is_settled: false, ..open };
        assert!(matches!(observed(&mut run, changing, 1).0, StepVerdict::Wait(_)));
        let ends = observed(&mut run, counted(3, 3, 0), 2).0;
        assert_eq!(ends, StepVerdict::Do(FailoverAction::EndSessions));
        let (verdict, last) = observed(&mut run, counted(0, 0, 3), 3);
        assert_eq!(verdict, StepVerdict::Done);
        assert_eq!(last, "the fence is the only security group; 3 sessions ended; 0 left");
    }

    #[test]
    fn without_a_connection_or_with_another_user_s_session_the_instance_is_rebooted() {
        for found in [CLOSED, counted(1, 0, 2)] {
            let mut run = run();
            assert_eq!(observed(&mut run, found, 0).0, StepVerdict::Do(FailoverAction::RebootOldMain));
            run.performed(&FailoverAction::RebootOldMain, &Ok(Answer::Done(String::new())));
            // The description is stale.
            assert!(matches!(observed(&mut run, CLOSED, 1).0, StepVerdict::Wait(_)));
            let rebooting = OldDatabase { is_rebooting: true, ..CLOSED };
            assert!(matches!(observed(&mut run, rebooting, 2).0, StepVerdict::Wait(_)));
            let (verdict, last) = observed(&mut run, CLOSED, 30);
            assert_eq!(verdict, StepVerdict::Done);
            assert_eq!(last, "the fence is the only security group; the instance was rebooted");
        }
    }

    #[test]
    fn a_reboot_that_was_never_shown_counts_after_five_minutes() {
        let mut run = run();
        run.reboot = Some(Reboot::Accepted);
        assert!(matches!(observed(&mut run, CLOSED, 0).0, StepVerdict::Wait(_)));
        assert!(matches!(decide(&run, &CLOSED, at(299)), StepVerdict::Wait(_)));
        assert_eq!(decide(&run, &CLOSED, at(301)), StepVerdict::Done);
        let rebooting = OldDatabase { is_rebooting: true, ..CLOSED };
        assert!(matches!(decide(&run, &rebooting, at(301)), StepVerdict::Wait(_)));
    }
}
