//! The steps that make the standby's stores the main ones. From *move Redis* on a run cannot be aborted.

use super::{
    AtLimit, Case, FailoverStep, StepDefinition, StepLimit, StepVerdict, left_items, wait, wrong_observation,
};
use crate::observation::{FailoverAction, Observation, ObservationKind, Role};
use StepVerdict::{Do, Done, Leave};

pub(super) const MOVE_REDIS: StepDefinition = StepDefinition {
    needs: "this region has the lease; from here on the run cannot be aborted",
    does: "makes this region's Redis the primary; if the Global Datastore takes longer than redis_wait_seconds, also \
           tries to detach this region's Redis from it",
    done_when: "*point of no return.* ElastiCache and the server itself report that this region's Redis takes writes. \
                After 5 min (or `redis_wait_seconds`) the run also tries, in turn, to detach this Redis from the Global \
                Datastore",
    observes: ObservationKind::Redis,
    limit: StepLimit::new(AtLimit::Wait, 300),
    decide: move_redis,
};

pub(super) const BEGIN_SCALE_UP: StepDefinition = StepDefinition {
    needs: "the loss was accepted",
    does: "asks RDS once to raise the replica's instance class, only if it is too small; RDS changes it while lease and \
           Redis are moved",
    done_when: "RDS was asked once to raise the replica's class, or the class is big enough, or RDS is changing the \
                instance, so that *scale up* asks",
    observes: ObservationKind::Instance,
    limit: StepLimit::new(AtLimit::GoOn, 60),
    decide: begin_scale_up,
};

pub(super) const SCALE_UP: StepDefinition = StepDefinition {
    needs: "planned: main still sells; forced: this region's Redis takes writes",
    does: "raises the replica's instance class, only if it is too small",
    done_when: "the replica's class is at least `FailoverClass`, or main's class. If RDS cannot raise it, or main's class \
                is unknown, the step is left outstanding at once",
    observes: ObservationKind::Instance,
    limit: StepLimit::new(AtLimit::Leave, 900).forced(600).begun_by(FailoverStep::BeginScaleUp).if_outstanding(
        "the ledger's class is too small: the schedule raises it as soon as RDS can, which interrupts the \
         ledger for minutes; waive the step if the class suffices",
    ),
    decide: scale_up,
};

pub(super) const PROMOTE: StepDefinition = StepDefinition {
    needs: "this region's Redis takes writes; the instance class is big enough, or was left",
    does: "promotes the replica",
    done_when: "RDS reports no replication source. RDS is asked in every state, and `last` shows why it refuses",
    observes: ObservationKind::Instance,
    limit: StepLimit::new(AtLimit::Wait, 300),
    decide: promote,
};

pub(super) const RAISE_EPOCH: StepDefinition = StepDefinition {
    needs: "the promoted ledger takes writes",
    does: "begins the new epoch; the ledger refuses writes under the old one",
    done_when: "the ledger takes writes, under the new epoch",
    observes: ObservationKind::Ledger,
    limit: StepLimit::new(AtLimit::Wait, 30),
    decide: raise_epoch,
};

pub(super) const RECONCILE: StepDefinition = StepDefinition {
    needs: "the new epoch has begun",
    does: "frees a unit only if neither ledger nor Redis has it as sold or reserved; withholds units as asked; with order \
           logs, no drain serves an item before it is restored",
    done_when: "every item of the ledger is under the new epoch in Redis. If only items are left that cannot be \
                reconciled because of their own data, the step is left outstanding, and these items are not sold. If these \
                are all items that are not closed, or more than 100, the run waits",
    observes: ObservationKind::Stock,
    limit: StepLimit::new(AtLimit::Wait, 120).if_outstanding(
        "items are not sold: `last` of the step reconcile names them, with the reasons; repair their \
         keys in Redis as docs/runbook/failover.md says; the schedule tries them again every minute",
    ),
    decide: reconcile,
};

fn move_redis(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let (Observation::Redis { role, is_settled }, run) = (observation, case.run) else {
        return wrong_observation();
    };
    let hangs = case.elapsed_ms() > run.redis_wait_ms;
    match (role, is_settled) {
        (Role::Primary | Role::Alone, true) => Done,
        (Role::Primary | Role::Alone, false) => {
            wait("ElastiCache is changing this region's replication group")
        }
        // The Redis that the operator has named is in no datastore that could be moved.
        (Role::Secondary, _) if run.redis_endpoint.is_some() => {
            wait("the Redis that use_redis has named follows another one, and takes no writes")
        }
        // ElastiCache is asked in every state of the datastore. Which of the two it refuses depends on the state, so
        // that both are tried. A move that is accepted and hangs keeps the datastore in the state in which it refuses to
        // detach: after the wait the run asks to move ever more rarely.
        (Role::Secondary, _) if run.is_detaching || hangs && !(run.step_actions() + 1).is_power_of_two() => {
            Do(FailoverAction::DetachRedis)
        }
        (Role::Secondary, _) => Do(FailoverAction::MoveRedis),
    }
}

fn begin_scale_up(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        // *Scale up* asks again, and says why if RDS refuses.
        _ if case.run.step_actions() > 0 => Done,
        Observation::Instance { is_settled: true, is_big_enough: Some(false), .. } => {
            Do(FailoverAction::RaiseClass)
        }
        Observation::Instance { .. } => Done,
        _ => wrong_observation(),
    }
}

fn scale_up(_: &Case<'_>, observation: &Observation) -> StepVerdict {
    let Observation::Instance { is_settled, is_big_enough, .. } = observation else {
        return wrong_observation();
    };
    match (is_big_enough, is_settled) {
        // RDS shows a new class only once the change is complete.
        (Some(true), _) => Done,
        (Some(false), false) => wait("RDS is changing the replica's instance"),
        (Some(false), true) => Do(FailoverAction::RaiseClass),
        (None, _) => Leave(
            "the class of main's instance is unknown: FailoverClass is not set, main's region does not answer, and its \
             class was never saved"
                .into(),
        ),
    }
}

fn promote(_: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Instance { follows: false, .. } => Done,
        // RDS is asked in every state, since it decides: a refusal is shown, and is over when the state is.
        Observation::Instance { .. } => Do(FailoverAction::Promote),
        _ => wrong_observation(),
    }
}

fn raise_epoch(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Ledger { follows: true, .. } => wait("the ledger still follows main"),
        Observation::Ledger { epoch, .. } if *epoch == case.run.new_epoch() => Done,
        Observation::Ledger { .. } => Do(FailoverAction::BeginEpoch),
        _ => wrong_observation(),
    }
}

fn reconcile(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Stock { left } => left_items(case.run, left, FailoverAction::Reconcile),
        _ => wrong_observation(),
    }
}
