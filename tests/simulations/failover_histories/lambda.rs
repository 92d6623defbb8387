//! Lambda: the functions of three regions, which send orders to main's Redis, and main's functions in the standby.

use crate::failover_histories::draws::{Called, Draws, accepted, not_now};
use crate::failover_histories::intake::Intake;
use crate::failover_histories::world::{NAMES, SECOND, STANDBY};
use region_failover::FunctionState;

/// Main's functions in the standby: nothing invokes them before a failover, so that Lambda makes them inactive.
#[derive(Debug)]
pub(crate) struct Functions {
    /// By region.
    intakes: [Intake; 3],
    /// The number of the Redis that is to get the orders. The old main's is 0.
    target: u32,
    /// When Lambda can invoke main's functions in the standby; `None` while they are inactive.
    active_at: Option<u64>,
    /// When each region last sent its orders elsewhere.
    elsewhere_at: [u64; 3],
    /// The restoration that runs fails, and they are inactive again.
    fails: bool,
}

impl Functions {
    pub(crate) fn draw(draws: &mut Draws) -> Self {
        let intakes = [(); 3].map(|()| Intake::new());
        let active_at = draws.chance(0.5).then_some(0);
        Self { intakes, target: 1, active_at, elsewhere_at: [0; 3], fails: false }
    }

    pub(crate) fn are_active(&self, now: u64) -> bool {
        !self.fails && self.active_at.is_some_and(|at| at <= now)
    }

    /// Ends a restoration that has failed, and changes of order-intake that are due.
    pub(crate) fn settle(&mut self, now: u64) {
        for (intake, elsewhere_at) in self.intakes.iter_mut().zip(&mut self.elsewhere_at) {
            intake.settle(now);
            if !intake.serves(self.target) {
                *elsewhere_at = now;
            }
        }
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
        let is_left = |region: &usize| !self.intakes[*region].serves(self.target) || !answers(*region);
        (0..NAMES.len()).filter(is_left).map(|region| NAMES[region].to_owned()).collect()
    }

    /// When a region last sent its orders elsewhere.
    pub(crate) fn last_elsewhere(&self) -> u64 {
        self.elsewhere_at.into_iter().max().unwrap_or_default()
    }

    /// Whether the new main's own region sends its orders to itself.
    pub(crate) fn is_repointed(&self) -> bool {
        self.intakes[STANDBY].serves(self.target)
    }

    /// Their orders go to a Redis that is not the new main's any more.
    pub(crate) fn send_elsewhere(&mut self) {
        self.target += 1;
    }

    /// Takes the functions of every region that answers one step further.
    pub(crate) fn repoint(&mut self, draws: &mut Draws, now: u64, answers: impl Fn(usize) -> bool) -> Called {
        let mut outcome = accepted();
        for (region, intake) in self.intakes.iter_mut().enumerate() {
            outcome = outcome.and(match answers(region) {
                true => intake.step(draws, now, self.target),
                false => not_now("the region does not answer"),
            });
        }
        outcome
    }

    /// Whether an alias has got a version that serves no order.
    pub(crate) fn names_a_useless_version(&self) -> bool {
        self.intakes.iter().any(|intake| intake.has_named_useless)
    }
}
