//! How AWS, the ledgers and the Redis servers of the simulation answer an execution and do its actions: late, once or
//! twice, or not at all.

use crate::failover_histories::world::{FailoverWorld, MAIN, NAMES, SECOND, STANDBY};
use ledger::LastSigns;
use region_failover::{FailoverAction, FunctionState, Loss, Observation, ObservationKind, Obstacle, Role};
use std::collections::BTreeSet;

impl FailoverWorld {
    /// What an execution in the standby observes.
    pub(crate) fn observe(
        &mut self,
        kind: ObservationKind,
        clock: i64,
        run_to: &str,
    ) -> Result<Observation, Obstacle> {
        let no_answer = || Obstacle("no answer".into());
        let main_answers = !self.regions[MAIN].is_dead && !self.cut[STANDBY];
        let needs_table = matches!(
            kind,
            ObservationKind::Readiness
                | ObservationKind::Lease
                | ObservationKind::Lag
                | ObservationKind::Selling
        );
        if self.chance(0.1) || needs_table && self.table_cut[STANDBY] {
            return Err(no_answer());
        }
        let (now, standby) = (self.now, &self.standby);
        let known: BTreeSet<&u64> =
            self.regions[STANDBY].sales.iter().chain(&self.regions[STANDBY].reservations).collect();
        let end = self.table.expires_at.as_micros().max(self.clock(clock).as_micros());
        let loss = Loss {
            ms: end.saturating_sub(self.last_beat) / 1_000 + 1,
            sales: self.stock.saturating_sub(known.len() as u64),
        };
        let is_settled = standby.instance_settles_at <= now;
        Ok(match kind {
            ObservationKind::Readiness => Observation::Ready {
                lease: self.table.clone(),
                replica_follows: standby.follows,
                main_answers,
                loss,
                last_run_seconds: None,
            },
            ObservationKind::Lease => Observation::Lease(self.table.clone()),
            ObservationKind::Lag => Observation::Lag {
                lease: self.table.clone(),
                ledger_is_here: main_answers
                    .then(|| self.regions[MAIN].sales.len() == self.regions[STANDBY].sales.len()),
                redis_is_here: main_answers.then(|| {
                    self.regions[MAIN].reservations.len() == self.regions[STANDBY].reservations.len()
                }),
                loss,
            },
            ObservationKind::Redis => {
                Observation::Redis { role: standby.role, is_settled: standby.redis_settles_at <= now }
            }
            ObservationKind::Instance => {
                let follows = standby.follows || standby.shown_follows_until > now;
                let status = if is_settled { standby.usable_status } else { "modifying" };
                Observation::instance(status, follows, standby.is_big)
            }
            ObservationKind::Ledger => Observation::Ledger {
                follows: standby.follows,
                epoch: self.regions[STANDBY].epoch,
                last: LastSigns::default(),
            },
            ObservationKind::Stock => {
                Observation::Stock { left: u64::from(self.regions[STANDBY].item_epoch == 1) }
            }
            ObservationKind::Pointers => {
                let mut left = Vec::new();
                if !self.pointed {
                    left.push(run_to.to_owned());
                }
                if self.main_unpointable || !self.pointed {
                    left.push(NAMES[MAIN].to_owned());
                }
                Observation::Pointers { left }
            }
            ObservationKind::Selling => Observation::Selling {
                lease: self.table.clone(),
                may_run: self.regions[STANDBY].may_run,
                not_active: self.not_active(),
            },
            ObservationKind::Canary => {
                Observation::Canary { is_placed: self.canary.0, is_sold: self.canary.1 }
            }
            ObservationKind::Fence if !main_answers => return Err(no_answer()),
            ObservationKind::Fence => Observation::Fence {
                is_up: self.fence_settles_at.is_some_and(|at| at <= now),
                is_settled: self.fence_settles_at.is_none_or(|at| at <= now),
            },
        })
    }

    /// An action of an execution arrives. It may arrive twice.
    pub(crate) fn perform(&mut self, action: &FailoverAction, withhold: u64) {
        if self.chance(0.05) {
            return;
        }
        let is_taken = self.table.region == NAMES[STANDBY] && self.table.epoch == 2;
        match action {
            FailoverAction::WriteLease(record) => {
                if self.table_cut[STANDBY] || self.table.version + 1 != record.version {
                    return;
                }
                let opens_new = record.is_open && record.region == NAMES[STANDBY];
                let is_ready = self.regions[STANDBY].item_epoch == 2 && !self.standby.follows && self.pointed;
                if opens_new && !is_ready {
                    self.fault("sales are opened before all is ready");
                }
                self.table = record.clone();
            }
            FailoverAction::MoveRedis | FailoverAction::DetachRedis => {
                self.wake_functions();
                if !is_taken {
                    self.fault("Redis is moved before the lease is taken");
                }
                if self.standby.role == Role::Secondary {
                    self.change_redis(action);
                }
            }
            FailoverAction::RaiseClass
                if self.standby.instance_settles_at <= self.now && !self.standby.is_big =>
            {
                let takes = self.within(60 * SECOND, 600 * SECOND);
                self.standby.instance_settles_at = self.now + takes;
                self.standby.grows_at = Some(self.now + takes);
            }
            FailoverAction::RaiseClass => {}
            FailoverAction::Promote => {
                if self.standby.role == Role::Secondary {
                    self.fault("the replica is promoted before Redis is moved");
                }
                if self.standby.instance_settles_at <= self.now && self.standby.follows {
                    let takes = self.within(20 * SECOND, 300 * SECOND);
                    // For a while its description does not show that the promotion has begun.
                    self.standby.instance_settles_at = self.now + takes;
                    self.standby.promotes_at = Some(self.now + takes);
                    self.standby.shown_follows_until = self.now + takes + self.within(0, 20 * SECOND);
                }
            }
            FailoverAction::BeginEpoch => {
                if self.standby.follows {
                    self.fault("an epoch is begun in a ledger that follows");
                } else if self.regions[STANDBY].epoch == 1 {
                    self.regions[STANDBY].epoch = 2;
                }
            }
            FailoverAction::Reconcile => {
                if self.regions[STANDBY].epoch != 2 {
                    self.fault("stock is reconciled before the epoch is begun");
                }
                let stock = self.stock;
                let own = &mut self.regions[STANDBY];
                if own.item_epoch == 1 {
                    own.withheld = withhold.min(stock.saturating_sub(own.sales.len() as u64));
                    own.item_epoch = 2;
                }
            }
            FailoverAction::Repoint => self.pointed = true,
            FailoverAction::WakeFunctions => self.wake_functions(),
            FailoverAction::EnableMain => self.regions[STANDBY].may_run = true,
            FailoverAction::PlaceCanary => {
                self.canary = (true, self.functions_are_active() && self.chance(0.9))
            }
            FailoverAction::Fence => {
                // Each call starts the change over.
                if !self.cut[STANDBY] && !self.regions[MAIN].is_dead {
                    self.fence_settles_at = Some(self.now + self.within(SECOND / 4, 20 * SECOND));
                }
            }
        }
    }

    /// What ElastiCache does when it is asked to move Redis, or to detach it. While the datastore changes, it refuses to
    /// detach, and may accept a move.
    fn change_redis(&mut self, action: &FailoverAction) {
        let is_changing = self.standby.redis_settles_at > self.now;
        match action {
            FailoverAction::DetachRedis if is_changing => {}
            FailoverAction::DetachRedis => {
                self.standby.role = Role::Alone;
                self.standby.redis_settles_at = self.now;
            }
            _ if is_changing && self.chance(0.8) => {}
            _ => {
                let hangs = self.hangs_for.filter(|_| !is_changing);
                let takes = hangs.unwrap_or_else(|| self.within(SECOND, 60 * SECOND));
                self.standby.redis_settles_at = self.now + takes;
                self.standby.moves_at = Some(self.now + takes);
            }
        }
    }
}

/// Lambda in the standby region.
impl FailoverWorld {
    /// Whether the schedules of `region` start drain and worker.
    pub(crate) fn runs(&self, region: usize) -> bool {
        self.regions[region].may_run && (region == MAIN || self.functions_are_active())
    }

    fn functions_are_active(&self) -> bool {
        self.standby.functions_active_at.is_some_and(|at| at <= self.now)
    }

    fn not_active(&self) -> Vec<FunctionState> {
        let is_inactive = self.standby.functions_active_at.is_none();
        let state = if is_inactive { "Inactive" } else { "Pending" };
        let text = format!("checkout-drain is {state}");
        let function = "checkout-drain".to_owned();
        if self.functions_are_active() {
            return Vec::new();
        }
        vec![FunctionState { function, text, is_inactive }]
    }

    /// An invocation of inactive functions fails. They are pending for up to minutes, and then active or inactive again.
    fn wake_functions(&mut self) {
        if self.standby.functions_active_at.is_none() && self.chance(0.9) {
            self.standby.functions_active_at = Some(self.now + self.within(SECOND, 120 * SECOND));
        }
    }
}
