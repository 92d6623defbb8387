//! How an execution in the standby observes the two regions, and how its actions arrive: late, once or twice, or not at
//! all.

use crate::failover_histories::draws::{Called, accepted, not_now};
use crate::failover_histories::order_logs::CUT;
use crate::failover_histories::stores::{ItemState, reconcile};
use crate::failover_histories::world::{FailoverWorld, MAIN, NAMES, STANDBY};
use lease::LeaseRecord;
use ledger::LastSigns;
use region_failover::{Answer, FailoverAction, Loss, Observation, ObservationKind, Obstacle, Role, Run};
use shared::item::ItemId;
use std::collections::BTreeMap;

impl FailoverWorld {
    /// What an execution of `run` observes, whose clock is `clock` microseconds ahead.
    pub(crate) fn observe(
        &mut self,
        run: &Run,
        kind: ObservationKind,
        clock: i64,
    ) -> Result<Observation, Obstacle> {
        let no_answer = || Obstacle("no answer".into());
        let needs_table = matches!(
            kind,
            ObservationKind::Readiness
                | ObservationKind::Lease
                | ObservationKind::Lag
                | ObservationKind::Selling
        );
        if self.draws.chance(0.1) || needs_table && self.network.table_cut[STANDBY] {
            return Err(no_answer());
        }
        let (now, main_answers) = (self.now, self.main_answers());
        let [main, standby] = &self.regions;
        Ok(match kind {
            ObservationKind::Readiness => Observation::Ready {
                lease: self.table.clone(),
                replica_follows: self.replica.follows,
                main_answers,
                loss: self.loss(clock),
                last_run_seconds: run.since_last_seconds,
                reasons: Vec::new(),
                unreadable_logs: self.unreadable_logs(),
            },
            ObservationKind::Lease => Observation::Lease(self.table.clone()),
            ObservationKind::Lag => Observation::Lag {
                lease: self.table.clone(),
                ledger_is_here: main_answers.then_some(main.ledger.log.len() == standby.ledger.applied),
                redis_is_here: main_answers.then_some(main.redis.log.len() == standby.redis.applied),
                loss: self.loss(clock),
            },
            // It is in no datastore.
            ObservationKind::Redis if run.redis_endpoint.is_some() => {
                Observation::Redis { role: Role::Alone, is_settled: true }
            }
            ObservationKind::Redis => {
                if self.datastore.is_left_alone(now) {
                    self.fault("ElastiCache, which may accept a failover in any state, is not asked for it");
                }
                return self.datastore.observe(&mut self.draws, now);
            }
            ObservationKind::Instance => self.replica.observe(now, main_answers),
            ObservationKind::Ledger => Observation::Ledger {
                follows: self.replica.follows,
                epoch: standby.epoch,
                last: LastSigns::default(),
            },
            ObservationKind::Stock => {
                let left = standby.items.iter().enumerate().filter(|(_, item)| item.epoch == 1);
                Observation::Stock { left: left.map(|(n, _)| item_id(n)).collect() }
            }
            ObservationKind::Restoring => {
                let waits = |(n, item): &(usize, &ItemState)| item.epoch == 1 || self.logs.waits(*n);
                let left = standby.items.iter().enumerate().filter(waits);
                let left = left.filter(|_| !self.logs.regions().is_empty());
                Observation::Restoring { left: left.map(|(n, _)| item_id(n)).collect() }
            }
            ObservationKind::Pointers => Observation::Pointers {
                left: self.functions.not_repointed(|region| region != MAIN || !self.network.main_unpointable),
            },
            ObservationKind::Selling => Observation::Selling {
                lease: self.table.clone(),
                may_run: standby.may_run,
                not_active: self.functions.not_active(now),
            },
            ObservationKind::Canary => {
                Observation::Canary { is_placed: self.canary.0, is_sold: self.canary.1 }
            }
            ObservationKind::Fence if !main_answers => return Err(no_answer()),
            ObservationKind::Fence => self.old_database.observe(&mut self.draws, now),
        })
    }

    /// What a promotion would lose: everything after the last heartbeat, and no more than what is unsold there. A drop that
    /// opens later is not at risk.
    fn loss(&self, clock: i64) -> Loss {
        let end = self.table.expires_at.as_micros().max(self.clock(clock).as_micros());
        Loss { ms: end.saturating_sub(self.last_beat) / 1_000 + 1, sales: self.units_unsold(end) }
    }

    /// An action of an execution of `run` arrives. It may arrive twice.
    pub(crate) fn perform(&mut self, action: &FailoverAction, run: &Run) -> Called {
        if self.draws.chance(0.05) {
            return not_now("no answer from AWS");
        }
        let (now, main_answers) = (self.now, self.main_answers());
        // An execution that was overtaken acts on the Redis from before; Lambda refuses its revision of a function.
        let is_on_items = matches!(
            action,
            FailoverAction::Reconcile
                | FailoverAction::Replay
                | FailoverAction::ReplayAgain { .. }
                | FailoverAction::Repoint
        );
        if is_on_items && run.redis_endpoint != self.spare {
            return not_now("it was overtaken");
        }
        match action {
            FailoverAction::WriteLease(record) => self.write_lease(record),
            FailoverAction::MoveRedis | FailoverAction::DetachRedis => {
                if self.table.region != NAMES[STANDBY] || self.table.epoch != 2 {
                    self.fault("Redis is moved before the lease is taken");
                }
                if *action == FailoverAction::DetachRedis {
                    return self.datastore.disassociate(&mut self.draws, now);
                }
                self.functions.wake(&mut self.draws, now);
                self.datastore.fail_over(&mut self.draws, now, main_answers)
            }
            FailoverAction::RaiseClass => self.replica.raise_class(&mut self.draws, now),
            FailoverAction::Promote => {
                if self.datastore.role == Role::Secondary && self.spare.is_none() {
                    self.fault("the replica is promoted before Redis is moved");
                }
                self.replica.promote(&mut self.draws, now)
            }
            FailoverAction::BeginEpoch => {
                if self.replica.follows {
                    self.fault("an epoch is begun in a ledger that follows");
                } else if self.regions[STANDBY].epoch == 1 {
                    self.regions[STANDBY].epoch = 2;
                }
                accepted()
            }
            FailoverAction::Reconcile => self.reconcile_items(u64::from(run.withhold)),
            FailoverAction::Replay => self.replay(run),
            FailoverAction::ReplayAgain { .. } => {
                self.logs.replay_again(now);
                accepted()
            }
            FailoverAction::Repoint => {
                let is_cut = self.network.main_unpointable;
                let answer = self.functions.repoint(&mut self.draws, now, |region| region != MAIN || !is_cut);
                if self.functions.names_a_useless_version() {
                    self.fault("an alias names a version that Lambda cannot invoke");
                }
                answer
            }
            FailoverAction::WakeFunctions => {
                self.functions.wake(&mut self.draws, now);
                accepted()
            }
            FailoverAction::EnableMain => {
                self.regions[STANDBY].may_run = true;
                accepted()
            }
            FailoverAction::PlaceCanary => {
                self.canary = (true, self.functions.are_active(now) && self.draws.chance(0.9));
                accepted()
            }
            FailoverAction::Fence if main_answers => self.old_database.fence(&mut self.draws, now),
            FailoverAction::EndSessions if main_answers => self.old_database.end_sessions(now),
            FailoverAction::RebootOldMain if main_answers => self.old_database.reboot(&mut self.draws, now),
            FailoverAction::Fence | FailoverAction::EndSessions | FailoverAction::RebootOldMain => {
                not_now("no answer from AWS")
            }
        }
    }

    fn write_lease(&mut self, record: &LeaseRecord) -> Called {
        if self.network.table_cut[STANDBY] || self.table.version + 1 != record.version {
            return not_now("the record was changed");
        }
        let opens_new = record.is_open && record.region == NAMES[STANDBY];
        // An item that waits for its orders is not sold yet: see the drain.
        let mut items = self.regions[STANDBY].items.iter().enumerate();
        let are_reconciled =
            items.all(|(item, state)| state.epoch == 2 || self.bad_item.is_some_and(|(bad, _)| bad == item));
        if opens_new && (self.replica.follows || !are_reconciled || !self.functions.is_repointed()) {
            self.fault("sales are opened before all is ready");
        }
        if opens_new {
            self.logs.sales_open(self.now);
        }
        self.table = record.clone();
        accepted()
    }

    fn reconcile_items(&mut self, withhold: u64) -> Called {
        if self.regions[STANDBY].epoch != 2 {
            self.fault("stock is reconciled before the epoch is begun");
        }
        let is_bad: Vec<bool> = (0..self.terms.len()).map(|item| self.is_bad(item)).collect();
        let own = &mut self.regions[STANDBY];
        let (mut set_aside, mut failed) = (BTreeMap::new(), None);
        for (item, state) in own.items.iter_mut().enumerate().filter(|(_, state)| state.epoch == 1) {
            if is_bad[item] {
                set_aside.insert(item_id(item), "its keys are malformed".to_owned());
                continue;
            }
            reconcile((&mut own.redis, &own.ledger), (item, state), self.terms[item].stock, withhold);
            // Its units are withheld, and no drain serves it yet.
            if self.more_draws.chance(CUT) {
                failed = Some("the reconciliation was cut".to_owned());
                break;
            }
            state.epoch = 2;
            self.logs.reconciled(item);
        }
        Ok(Answer::Items { text: String::new(), set_aside, failed })
    }
}

impl FailoverWorld {
    fn replay(&mut self, run: &Run) -> Called {
        if self.regions[STANDBY].epoch != 2 || !self.functions.is_repointed() {
            self.fault("orders are replayed before they come to the new main");
        }
        let unreadable = self.unreadable_logs();
        let is_bad: Vec<bool> = (0..self.terms.len()).map(|item| self.is_bad(item)).collect();
        self.logs.replay(&mut self.more_draws, run, &unreadable, |item| (item_id(item), is_bad[item]))
    }
}

fn item_id(number: usize) -> ItemId {
    format!("item-{number}").parse().unwrap()
}
