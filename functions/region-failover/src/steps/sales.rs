//! The steps that let the new main sell, and close the old one.

use super::{
    AtLimit, Case, DRILL_WAITS_SECONDS, FailoverStep, StepDefinition, StepLimit, StepVerdict, wait,
    wrong_observation,
};
use crate::fence;
use crate::observation::{FailoverAction, Observation, ObservationKind};
use StepVerdict::{Do, Done, Leave, Wait};

/// How long a failover waits for the functions of other regions, in milliseconds.
const OTHER_REGIONS_TIMEOUT_MS: u64 = 2 * 60_000;
/// The same for a forced failover, once only the lost region is left.
const LOST_REGION_TIMEOUT_MS: u64 = 5_000;
/// How long sales wait for functions that are not active, in milliseconds. Lambda restores a function within minutes.
const ACTIVE_TIMEOUT_MS: u64 = 4 * 60_000;

pub(super) const REPOINT: StepDefinition = StepDefinition {
    needs: "every item is reconciled",
    does: "repoints the functions of every region to this region's Redis. With order logs: if a region is repointed after sales \
           have opened, the worker replays every item again 30 s later",
    done_when: "the functions of every region send their orders to this region's Redis. After 2 min the step is left \
                outstanding if this region's own functions are repointed. Forced, if only the old main's region is left: \
                after 5 s, and each call to that region ends after 2 s",
    observes: ObservationKind::Pointers,
    limit: StepLimit::new(AtLimit::Wait, OTHER_REGIONS_TIMEOUT_MS / 1_000).if_outstanding(
        "a region still sends its orders to the old main: see the step `repoint`; deploy that region with \
         the new MainRegion",
    ),
    decide: repoint,
};

pub(super) const OPEN_SALES: StepDefinition = StepDefinition {
    needs: "this region's own functions are repointed. An item that waits for its orders (`replay`) is not sold before they \
            are back",
    does: "lets drain, worker, confirm and admin run here, waits until Lambda reports all functions as active, and opens \
           the lease",
    done_when: "drain, worker, confirm and admin may run here, Lambda reports all functions as active (waited for at most \
                4 min), and drain or worker has renewed the lease",
    observes: ObservationKind::Selling,
    limit: StepLimit::new(AtLimit::Wait, 300),
    decide: open_sales,
};

pub(super) const SMOKE_TEST: StepDefinition = StepDefinition {
    needs: "this region renews the lease",
    does: "sells one canary order through queue, drain, worker and ledger",
    done_when: "the ledger has the canary order as sold",
    observes: ObservationKind::Canary,
    limit: StepLimit::new(AtLimit::Leave, 180).if_outstanding(
        "the canary order was not sold: check whether this region sells; the schedule retries it every minute",
    ),
    decide: smoke_test,
};

pub(super) const FENCE_OLD_MAIN: StepDefinition = StepDefinition {
    needs: "this region sells",
    does: "puts the old main's database behind a security group without rules, and ends its open connections; retried \
           every minute until both are confirmed",
    done_when: "the fence is the only security group of the old main's database, and no session is left that could \
                write, or its instance was rebooted",
    observes: ObservationKind::Fence,
    // A drill is not aborted because of its own copy: its schedule deletes that.
    limit: StepLimit::new(AtLimit::Leave, 120).drill(AtLimit::Leave, DRILL_WAITS_SECONDS).if_outstanding(
        "fence old main is not confirmed; the schedule retries it every minute; the old main sells nothing \
         meanwhile, because it has no lease",
    ),
    decide: fence_old_main,
};

fn repoint(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let (Observation::Pointers { left }, run) = (observation, case.run) else { return wrong_observation() };
    let is_only_lost = left.iter().all(|region| Some(region.as_str()) == run.lost_region());
    let limit_ms = if is_only_lost { LOST_REGION_TIMEOUT_MS } else { OTHER_REGIONS_TIMEOUT_MS };
    // Items may have been replayed before: what these regions have sent to the old Redis since then is only in their logs.
    let late: Vec<String> =
        run.not_repointed.iter().filter(|region| !left.contains(region)).cloned().collect();
    if run.has_ended(FailoverStep::OpenSales) && !late.is_empty() {
        Do(FailoverAction::ReplayAgain { regions: late })
    } else if left.is_empty() {
        Done
    } else if case.elapsed_ms() > limit_ms && !left.contains(&run.to) {
        // The new main itself must send its orders to itself.
        Leave(format!("not repointed: {}", left.join(", ")))
    } else {
        Do(FailoverAction::Repoint)
    }
}

fn open_sales(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    let Observation::Selling { lease, may_run, not_active } = observation else {
        return wrong_observation();
    };
    let run = case.run;
    if !may_run {
        return Do(FailoverAction::EnableMain);
    }
    let states = not_active.iter().map(|state| state.text.as_str()).collect::<Vec<_>>().join("; ");
    let is_one_inactive = not_active.iter().any(|state| state.is_inactive);
    // After the timeout sales open without them: drain or worker must renew the lease, and the smoke test must sell.
    if !not_active.is_empty() && case.elapsed_ms() <= ACTIVE_TIMEOUT_MS {
        if is_one_inactive {
            return Do(FailoverAction::WakeFunctions);
        }
        return Wait(format!("not all functions of this region are active: {states}"));
    }
    match lease.opened(&run.to, run.new_epoch(), &run.id) {
        Some(opened) => Do(FailoverAction::WriteLease(opened)),
        None if lease.region == run.to && lease.is_open && lease.expires_at > case.now => Done,
        // Also after the timeout: without an invocation drain and worker would stay inactive permanently.
        None if is_one_inactive => Do(FailoverAction::WakeFunctions),
        None if !states.is_empty() => Wait(format!("no function has renewed the lease yet; {states}")),
        None => wait("neither drain nor worker of this region has renewed the lease yet"),
    }
}

fn smoke_test(_: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Canary { is_sold: true, .. } => Done,
        Observation::Canary { is_placed: true, .. } => wait("the canary's order is placed and not sold yet"),
        Observation::Canary { .. } => Do(FailoverAction::PlaceCanary),
        _ => wrong_observation(),
    }
}

fn fence_old_main(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Fence(found) => fence::decide(case.run, found, case.now),
        _ => wrong_observation(),
    }
}
