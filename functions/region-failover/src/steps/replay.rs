//! The step that puts accepted orders back into the queue, from the order logs of the regions.

use super::{AtLimit, Case, StepDefinition, StepLimit, StepVerdict, left_items, wrong_observation};
use crate::observation::{FailoverAction, Observation, ObservationKind};

pub(super) const REPLAY: StepDefinition = StepDefinition {
    needs: "every item is reconciled and waits to be restored; orders come to this region's Redis",
    does: "puts the orders of every region's order log back into the queues, in the order of their stamps; without an \
           order log it does nothing",
    done_when: "no item is being restored: the queues have every accepted order of the regions whose log was read. If a log \
                cannot be read, the run waits, unless `without_logs` or `without_log` names its region. Items that cannot \
                be restored because of their own data are not sold, and the step is left outstanding",
    observes: ObservationKind::Restoring,
    limit: StepLimit::new(AtLimit::Wait, 60).if_outstanding(
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
