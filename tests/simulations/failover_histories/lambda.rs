//! Lambda: the functions of three regions, which send orders to main's Redis, and main's functions in the standby.

use crate::failover_histories::draws::{Called, Draws, accepted, not_now};
use crate::failover_histories::world::{NAMES, SECOND, STANDBY};
use region_failover::FunctionState;

/// What an update or a publication may be refused with, by Lambda's service model in botocore: another operation is in
/// progress, a changed revision, too many requests, a fault of Lambda.
const REFUSALS: [&str; 4] = [
    "ResourceConflictException",
    "PreconditionFailedException",
    "TooManyRequestsException",
    "ServiceException",
];

/// How far a region's order-intake is repointed. Each step is one call, and each change takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pointing {
    /// It sends orders to the old main.
    Old,
    /// The configuration is being updated: `LastUpdateStatus` is `InProgress`, and may become `Failed`.
    Updated,
    /// A version is published; it is `Pending`, and then `Active` or `Failed`.
    Published,
    /// The alias names the new version.
    Done,
}

/// A region's functions that send orders.
#[derive(Debug)]
struct Pointer {
    pointing: Pointing,
    /// Until then Lambda works on the last change.
    busy_until: u64,
}

/// Main's functions in the standby: nothing invokes them before a failover, so that Lambda makes them inactive.
#[derive(Debug)]
pub(crate) struct Functions {
    pointers: [Pointer; 3],
    /// When Lambda can invoke main's functions in the standby; `None` while they are inactive.
    active_at: Option<u64>,
    /// The restoration that runs fails, and they are inactive again.
    fails: bool,
}

impl Functions {
    pub(crate) fn draw(draws: &mut Draws) -> Self {
        let pointers = [(); 3].map(|()| Pointer { pointing: Pointing::Old, busy_until: 0 });
        Self { pointers, active_at: draws.chance(0.5).then_some(0), fails: false }
    }

    pub(crate) fn are_active(&self, now: u64) -> bool {
        !self.fails && self.active_at.is_some_and(|at| at <= now)
    }

    /// Ends a restoration that has failed.
    pub(crate) fn settle(&mut self, now: u64) {
        if self.fails && self.active_at.is_some_and(|at| at <= now) {
            (self.active_at, self.fails) = (None, false);
        }
    }

    pub(crate) fn not_active(&self, now: u64) -> Vec<FunctionState> {
        if self.are_active(now) {
            return Vec::new();
        }
        let is_inactive = self.active_at.is_none();
        let state = if is_inactive { "Inactive (Idle)" } else { "Pending (Restoring)" };
        let text = format!("checkout-drain is {state}");
        vec![FunctionState { function: "checkout-drain".into(), text, is_inactive }]
    }

    /// An invocation of inactive functions fails. They are pending for up to minutes, and then active or inactive again.
    pub(crate) fn wake(&mut self, draws: &mut Draws, now: u64) {
        if self.active_at.is_none() && draws.chance(0.9) {
            self.active_at = Some(now + draws.within(SECOND, 120 * SECOND));
            self.fails = draws.chance(0.15);
        }
    }

    /// Regions that do not send their orders to the new main yet.
    pub(crate) fn not_repointed(&self, answers: impl Fn(usize) -> bool) -> Vec<String> {
        let is_left = |region: &usize| self.pointers[*region].pointing != Pointing::Done || !answers(*region);
        (0..NAMES.len()).filter(is_left).map(|region| NAMES[region].to_owned()).collect()
    }

    /// Whether the new main's own region sends its orders to itself.
    pub(crate) fn is_repointed(&self) -> bool {
        self.pointers[STANDBY].pointing == Pointing::Done
    }

    /// Their orders go to a Redis that is not the new main's any more.
    pub(crate) fn send_elsewhere(&mut self) {
        self.pointers.iter_mut().for_each(|pointer| pointer.pointing = Pointing::Old);
    }

    /// Takes the functions of every region that answers one step further.
    pub(crate) fn repoint(&mut self, draws: &mut Draws, now: u64, answers: impl Fn(usize) -> bool) -> Called {
        let mut outcome = accepted();
        for (region, pointer) in self.pointers.iter_mut().enumerate() {
            if !answers(region) {
                outcome = not_now("the region does not answer");
            } else if pointer.busy_until <= now && pointer.pointing != Pointing::Done {
                outcome = outcome.and(pointer.step(draws, now));
            }
        }
        outcome
    }
}

impl Pointer {
    fn step(&mut self, draws: &mut Draws, now: u64) -> Called {
        if draws.chance(0.1) {
            return not_now(draws.one_of(&REFUSALS));
        }
        // A failed update has changed nothing; a failed version is never invoked, and needs a new configuration.
        let has_failed = self.pointing != Pointing::Old && draws.chance(0.1);
        (self.pointing, self.busy_until) = match self.pointing {
            _ if has_failed => (Pointing::Old, now),
            Pointing::Old => (Pointing::Updated, now + draws.within(SECOND, 60 * SECOND)),
            Pointing::Updated => (Pointing::Published, now + draws.within(SECOND, 120 * SECOND)),
            Pointing::Published | Pointing::Done => (Pointing::Done, now),
        };
        accepted()
    }
}
