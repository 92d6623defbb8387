//! The step that puts accepted orders back into the queue, from the order logs of the regions.

use super::{
    AtLimit, Case, DRILL_WAITS_SECONDS, StepDefinition, StepLimit, StepVerdict, left_items, wrong_observation,
};
use crate::observation::{FailoverAction, Observation, ObservationKind};

pub(super) const REPLAY: StepDefinition = StepDefinition {
    needs: "this region renews the lease; orders come to this region's Redis. Each item that may have orders in a log has \
            waited to be restored since before it got the new epoch: no drain serves it",
    does: "puts the orders of every region's order log back into the queues, in the order of their stamps, the items on sale \
           first. Each item is sold as soon as its own orders are back. Without an order log the step does nothing",
    done_when: "no item is being restored: the queues have every accepted order of the regions whose log was read. If a log \
                cannot be read, its items wait, unless `without_logs` or `without_log` names its region. Items that cannot \
                be restored because of their own data are not sold",
    observes: ObservationKind::Restoring,
    // The other items sell, and neither they nor the fence must wait for a log.
    limit: StepLimit::new(AtLimit::Leave, 60).drill(AtLimit::Abort, DRILL_WAITS_SECONDS).if_outstanding(
        "items are not sold until they are restored: `last` of the step replay names them, with the reasons; \
         the schedule tries them again every minute",
    ),
    decide: replay,
};

fn replay(case: &Case<'_>, observation: &Observation) -> StepVerdict {
    match observation {
        Observation::Restoring { left } => left_items(case.run, left, FailoverAction::Replay),
        _ => wrong_observation(),
    }
}
