//! The steps before the point of no return: they stop main, and check what would be lost.

use super::{AtLimit, Case, StepDefinition, StepLimit, StepVerdict, wait, wrong_observation};
use crate::observation::{FailoverAction, Loss, Observation, ObservationKind};
use crate::run::Mode;
use StepVerdict::{Done, Halt};

/// No failover begins within this time of the last one, in seconds, unless the operator skips the cooldown.
const COOLDOWN_SECONDS: u64 = 3_600;
/// How long a forced failover waits for data that a main that still answers has not replicated yet, in milliseconds.
const CATCH_UP_TIMEOUT_MS: u64 = 60_000;

pub(super) const PRECHECK: StepDefinition = StepDefinition {
    needs: "no other failover is active, and none ended within the last hour",
    does: "checks lease, both ledgers, both Redis servers, ElastiCache, RDS and the order logs; planned: also how far the copies are \
           behind, and the functions",
    done_when: "lease, ledgers, Redis servers, ElastiCache and RDS allow a failover. Planned: none of the \
                [reasons](#alarm-failover-not-ready) that refuse one. Forced: every region's order log can be read, or \
                `without_logs` names its region",
    observes: ObservationKind::Readiness,
    // A drill waits here for its copy.
    limit: StepLimit::new(AtLimit::Abort, 60).drill(AtLimit::Abort, 2 * 3_600),
    decide: precheck,
};

pub(super) const STOP_SALES: StepDefinition = StepDefinition {
    needs: "the precheck passed",
    does: "closes the main lease, so that main cannot renew it; main sells until the lease ends",
    done_when: "main's lease is closed, so that main cannot renew it",
    observes: ObservationKind::Lease,
    limit: StepLimit::new(AtLimit::Abort, 60),
    decide: stop_sales,
};

pub(super) const LAG_GATE: StepDefinition = StepDefinition {
    needs: "the lease has ended, so that main sells nothing more",
    does: "planned: waits until the standby has all of main's data; forced: compares the loss with what was accepted",
    done_when: "the lease has ended. Planned: the standby has all of main's WAL, and a replication marker that was \
                written on main's Redis after the lease ended. Forced: the loss is within `accept`; a main that still \
                answers gets one minute to replicate the rest",
    observes: ObservationKind::Lag,
    limit: StepLimit::new(AtLimit::Abort, 300).forced(120),
    decide: lag_gate,
};

pub(super) const TAKE_LEASE: StepDefinition = StepDefinition {
    needs: "nothing is lost, or the loss was accepted",
    does: "takes the lease under the next epoch; the lease stays closed",
    done_when: "the standby has the lease, under the next epoch",
    observes: ObservationKind::Lease,
    limit: StepLimit::new(AtLimit::Abort, 60),
    decide: take_lease,
};

fn precheck(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let Observation::Ready {
        lease,
        replica_follows,
        main_answers,
        loss,
        last_run_seconds,
        reasons,
        unreadable_logs,
    } = observation
    else {
        return wrong_observation();
    };
    let run = case.run;
    if lease.region != run.from || lease.epoch != run.epoch {
        return Halt(format!("main is {} under epoch {}", lease.region, lease.epoch));
    }
    // A run that was killed here has closed the lease itself, and goes on.
    if !lease.is_open && lease.run.as_deref() != Some(&run.id) {
        return Halt("another failover has closed the main lease; resume or abort that failover".into());
    }
    if !run.skip_cooldown && last_run_seconds.is_some_and(|seconds| seconds < COOLDOWN_SECONDS) {
        return Halt("cooldown: the last failover ended less than an hour ago".into());
    }
    if !replica_follows {
        return Halt("the replica does not follow main".into());
    }
    match run.mode {
        Mode::Planned | Mode::Drill if !main_answers => {
            Halt("main does not answer; a planned failover would lose sales".into())
        }
        Mode::Forced { accepted } if !loss.is_within(accepted) => loss_not_accepted(*loss),
        // Before sales are stopped: the lag gate would wait for it, and then give up.
        Mode::Planned | Mode::Drill => match reasons.iter().find(|reason| reason.refuses_planned) {
            Some(reason) => Halt(reason.to_string()),
            None => Done,
        },
        // Before anything is moved, so that no operator has to be asked while no region sells.
        Mode::Forced { .. } => match unreadable_logs.iter().find(|(region, _)| !run.may_leave_log(region)) {
            Some((region, why)) => Halt(log_needed(region, why)),
            None => Done,
        },
    }
}

fn loss_not_accepted(loss: Loss) -> StepVerdict {
    Halt(format!(
        "up to {} sales of the last {} ms would be lost, which is more than was accepted",
        loss.sales, loss.ms
    ))
}

/// Why a run does not go on without a region's order log unless the operator says so.
pub(crate) fn log_needed(region: &str, why: &str) -> String {
    format!(
        "the order log of {region} cannot be read, so that accepted orders that only this log has would not be served: {why}"
    )
}

fn stop_sales(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let (Observation::Lease(lease), run) = (observation, case.run) else { return wrong_observation() };
    let is_ours = lease.run.as_deref() == Some(&run.id);
    if is_ours && !lease.is_open {
        Done
    } else if lease.region == run.from && lease.epoch == run.epoch && lease.is_open {
        StepVerdict::Do(FailoverAction::WriteLease(lease.closed(&run.id)))
    } else {
        Halt("another failover has the main lease".into())
    }
}

fn lag_gate(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let Observation::Lag { lease, ledger_is_here, redis_is_here, loss } = observation else {
        return wrong_observation();
    };
    // Until the lease has ended the old main can sell more: what the standby has now proves nothing.
    if !lease.has_run_out(case.now, case.timing) {
        return wait("the old main's lease has not ended");
    }
    match (case.run.mode, ledger_is_here, redis_is_here) {
        (_, Some(true), Some(true)) => Done,
        // Main answers, but replication is stuck: it is waited for, and then counts as lost.
        (Mode::Forced { accepted }, Some(_), Some(_))
            if case.elapsed_ms() > CATCH_UP_TIMEOUT_MS && loss.is_within(accepted) =>
        {
            Done
        }
        (_, Some(_), Some(_)) => wait("the standby has not replicated all of main's data yet"),
        (Mode::Planned | Mode::Drill, ..) => wait("main does not answer"),
        (Mode::Forced { accepted }, ..) if loss.is_within(accepted) => Done,
        (Mode::Forced { .. }, ..) => loss_not_accepted(*loss),
    }
}

fn take_lease(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let (Observation::Lease(lease), run) = (observation, case.run) else { return wrong_observation() };
    if lease.run.as_deref() != Some(&run.id) {
        return Halt("another failover has the main lease".into());
    }
    if lease.region == run.to && lease.epoch == run.new_epoch() {
        return Done;
    }
    match lease.taken(&run.to, &run.id, case.now, case.timing) {
        Some(taken) => StepVerdict::Do(FailoverAction::WriteLease(taken)),
        None => wait("the old main's lease has not ended"),
    }
}
