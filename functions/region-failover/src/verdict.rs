//! What each step decides by what was observed. Pure: nothing here calls a server.

use crate::observation::{FailoverAction, FunctionState, Loss, Observation, Role};
use crate::run::{Mode, Run};
use crate::step::FailoverStep;
use StepVerdict::{Done, Halt, Wait};
use lease::{LeaseRecord, LeaseTiming};
use shared::stamp::Stamp;

/// No failover begins within this time of the last one, in seconds, unless the operator skips the cooldown.
const COOLDOWN_SECONDS: u64 = 3_600;
/// How long a forced failover waits for data that a main that still answers has not replicated yet, in milliseconds.
const CATCH_UP_TIMEOUT_MS: u64 = 60_000;
/// How long a forced failover waits for the lost region's functions once all others are repointed, in milliseconds.
const LOST_REGION_TIMEOUT_MS: u64 = 5_000;
/// How long sales wait for functions that are not active, in milliseconds. Lambda restores a function within minutes.
const ACTIVE_TIMEOUT_MS: u64 = 5 * 60_000;

/// What a step decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepVerdict {
    /// The step's goal is reached: the next step follows.
    Done,
    /// Do this, then observe again.
    Do(FailoverAction),
    /// The goal will be reached without an action. The text says what is missing.
    Wait(String),
    /// The goal cannot be reached. The run aborts if it still can.
    Halt(String),
}

fn wait(why: &str) -> StepVerdict {
    StepVerdict::Wait(why.into())
}

fn wrong_observation() -> StepVerdict {
    wait("the observation does not belong to this step")
}

/// What `step` decides by `observation`, which began at `now` by the executing function's clock. An observation of
/// another step's kind decides nothing: the step waits.
pub fn decide(
    step: FailoverStep,
    run: &Run,
    observation: &Observation,
    now: Stamp,
    timing: LeaseTiming,
) -> StepVerdict {
    use FailoverStep as Step;
    match (step, observation) {
        (Step::Precheck, Observation::Ready { .. }) => precheck(run, observation),
        (Step::StopSales, Observation::Lease(lease)) => stop_sales(run, lease),
        (Step::LagGate, Observation::Lag { .. }) => lag_gate(run, observation, now, timing),
        (Step::TakeLease, Observation::Lease(lease)) => take_lease(run, lease, now, timing),
        (Step::MoveRedis, Observation::Redis { role, is_settled }) => {
            move_redis(run, *role, *is_settled, now)
        }
        (Step::ScaleUp, Observation::Instance { is_settled, is_big_enough, .. }) => {
            match (is_big_enough, is_settled) {
                // RDS shows a new class only once the change is complete.
                (true, _) => Done,
                (false, false) => wait("RDS is changing the replica's instance"),
                (false, true) => StepVerdict::Do(FailoverAction::RaiseClass),
            }
        }
        (Step::Promote, Observation::Instance { follows: false, .. }) => Done,
        // RDS is asked in every state, since it decides: a refusal is shown, and is over when the state is.
        (Step::Promote, Observation::Instance { .. }) => StepVerdict::Do(FailoverAction::Promote),
        (Step::RaiseEpoch, Observation::Ledger { follows, epoch, .. }) => match (follows, *epoch) {
            (true, _) => wait("the ledger still follows main"),
            (false, epoch) if epoch == run.new_epoch() => Done,
            (false, _) => StepVerdict::Do(FailoverAction::BeginEpoch),
        },
        (Step::Reconcile, Observation::Stock { left: 0 }) => Done,
        (Step::Reconcile, Observation::Stock { .. }) => StepVerdict::Do(FailoverAction::Reconcile),
        (Step::Repoint, Observation::Pointers { left }) if left.is_empty() => Done,
        (Step::Repoint, Observation::Pointers { .. }) => StepVerdict::Do(FailoverAction::Repoint),
        (Step::OpenSales, Observation::Selling { lease, may_run, not_active }) => {
            open_sales(run, lease, *may_run, not_active, now)
        }
        (Step::SmokeTest, Observation::Canary { is_sold: true, .. }) => Done,
        (Step::SmokeTest, Observation::Canary { is_placed: true, .. }) => {
            wait("the canary's order is placed and not sold yet")
        }
        (Step::SmokeTest, Observation::Canary { .. }) => StepVerdict::Do(FailoverAction::PlaceCanary),
        (Step::FenceOldMain, Observation::Fence { is_up: true, .. }) => Done,
        (Step::FenceOldMain, Observation::Fence { is_settled: false, .. }) => {
            wait("RDS is changing the security groups of the old main's database")
        }
        (Step::FenceOldMain, Observation::Fence { .. }) => StepVerdict::Do(FailoverAction::Fence),
        _ => wrong_observation(),
    }
}

fn precheck(run: &Run, observation: &Observation) -> StepVerdict {
    let Observation::Ready { lease, replica_follows, main_answers, loss, last_run_seconds } = observation
    else {
        return wrong_observation();
    };
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
        Mode::Planned if !main_answers => {
            Halt("main does not answer; a planned failover would lose sales".into())
        }
        Mode::Forced { accepted } if !loss.is_within(accepted) => loss_not_accepted(*loss),
        Mode::Planned | Mode::Forced { .. } => Done,
    }
}

fn loss_not_accepted(loss: Loss) -> StepVerdict {
    Halt(format!(
        "up to {} sales of the last {} ms would be lost, which is more than was accepted",
        loss.sales, loss.ms
    ))
}

fn stop_sales(run: &Run, lease: &LeaseRecord) -> StepVerdict {
    let is_ours = lease.run.as_deref() == Some(&run.id);
    if is_ours && !lease.is_open {
        Done
    } else if lease.region == run.from && lease.epoch == run.epoch && lease.is_open {
        StepVerdict::Do(FailoverAction::WriteLease(lease.closed(&run.id)))
    } else {
        Halt("another failover has the main lease".into())
    }
}

fn lag_gate(run: &Run, observation: &Observation, now: Stamp, timing: LeaseTiming) -> StepVerdict {
    let Observation::Lag { lease, ledger_is_here, redis_is_here, loss } = observation else {
        return wrong_observation();
    };
    // Until the lease has ended the old main can sell more: what the standby has now proves nothing.
    if !lease.has_run_out(now, timing) {
        return wait("the old main's lease has not ended");
    }
    match (run.mode, ledger_is_here, redis_is_here) {
        (_, Some(true), Some(true)) => Done,
        // Main answers, but replication is stuck: it is waited for, and then counts as lost.
        (Mode::Forced { accepted }, Some(_), Some(_))
            if run.step_elapsed_ms(now) > CATCH_UP_TIMEOUT_MS && loss.is_within(accepted) =>
        {
            Done
        }
        (_, Some(_), Some(_)) => wait("the standby has not replicated all of main's data yet"),
        (Mode::Planned, ..) => wait("main does not answer"),
        (Mode::Forced { accepted }, ..) if loss.is_within(accepted) => Done,
        (Mode::Forced { .. }, ..) => loss_not_accepted(*loss),
    }
}

fn take_lease(run: &Run, lease: &LeaseRecord, now: Stamp, timing: LeaseTiming) -> StepVerdict {
    if lease.run.as_deref() != Some(&run.id) {
        return Halt("another failover has the main lease".into());
    }
    if lease.region == run.to && lease.epoch == run.new_epoch() {
        return Done;
    }
    match lease.taken(&run.to, &run.id, now, timing) {
        Some(taken) => StepVerdict::Do(FailoverAction::WriteLease(taken)),
        None => wait("the old main's lease has not ended"),
    }
}

fn move_redis(run: &Run, role: Role, is_settled: bool, now: Stamp) -> StepVerdict {
    let hangs = run.step_elapsed_ms(now) > run.redis_wait_ms;
    match (role, is_settled) {
        (Role::Primary | Role::Alone, true) => Done,
        (Role::Primary | Role::Alone, false) => {
            wait("ElastiCache is changing this region's replication group")
        }
        // ElastiCache is asked in every state of the datastore. Which of the two it refuses depends on the state, so
        // that they take turns.
        (Role::Secondary, _) if run.is_detaching || hangs && run.step_actions().is_multiple_of(2) => {
            StepVerdict::Do(FailoverAction::DetachRedis)
        }
        (Role::Secondary, _) => StepVerdict::Do(FailoverAction::MoveRedis),
    }
}

fn open_sales(
    run: &Run,
    lease: &LeaseRecord,
    may_run: bool,
    not_active: &[FunctionState],
    now: Stamp,
) -> StepVerdict {
    if !may_run {
        return StepVerdict::Do(FailoverAction::EnableMain);
    }
    let states = not_active.iter().map(|state| state.text.as_str()).collect::<Vec<_>>().join("; ");
    let is_one_inactive = not_active.iter().any(|state| state.is_inactive);
    // After the timeout sales open without them: drain or worker must renew the lease, and the smoke test must sell.
    if !not_active.is_empty() && run.step_elapsed_ms(now) <= ACTIVE_TIMEOUT_MS {
        if is_one_inactive {
            return StepVerdict::Do(FailoverAction::WakeFunctions);
        }
        return Wait(format!("not all functions of this region are active: {states}"));
    }
    match lease.opened(&run.to, run.new_epoch(), &run.id) {
        Some(opened) => StepVerdict::Do(FailoverAction::WriteLease(opened)),
        None if lease.region == run.to && lease.is_open && lease.expires_at > now => Done,
        // Also after the timeout: without an invocation drain and worker would stay inactive permanently.
        None if is_one_inactive => StepVerdict::Do(FailoverAction::WakeFunctions),
        None if !states.is_empty() => Wait(format!("no function has renewed the lease yet; {states}")),
        None => wait("neither drain nor worker of this region has renewed the lease yet"),
    }
}

/// The current step's timeout in this run, in milliseconds. A forced failover waits less for the functions of the
/// region that is lost.
pub(crate) fn limit_ms(run: &Run, observation: Option<&Observation>) -> Option<u64> {
    match (run.step, run.mode, observation) {
        (FailoverStep::Repoint, Mode::Forced { .. }, Some(Observation::Pointers { left }))
            if left.iter().all(|region| *region == run.from) =>
        {
            Some(LOST_REGION_TIMEOUT_MS)
        }
        (step, ..) => step.limit_ms(),
    }
}

/// Whether the new main can sell without the current step, which is then outstanding until it is done.
pub(crate) fn may_be_skipped(run: &Run, observation: Option<&Observation>) -> bool {
    match run.step {
        FailoverStep::ScaleUp | FailoverStep::SmokeTest | FailoverStep::FenceOldMain => true,
        // The new main itself must send its orders to itself.
        FailoverStep::Repoint => {
            matches!(observation, Some(Observation::Pointers { left }) if !left.contains(&run.to))
        }
        _ => false,
    }
}
