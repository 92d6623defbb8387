//! Tasks: reservations that are to be recorded.

use crate::item_work::{Found, ItemWork, Unfinished};
use ledger::{LedgerError, Standing};
use shared::queue::{GIVEN_BACK_MICROS, MAX_BATCH, Outcome, Reservation, Settlement, Task, What};
use std::time::{Duration, Instant};

/// How often tasks that another worker left are looked for.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// A task that the ledger refuses for its own sake is put aside after so many tries.
const MAX_TRIES: u64 = 5;
/// How long replicas may take to acknowledge.
const REPLICA_LIMIT: Duration = Duration::from_millis(100);
/// How often old tasks are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

impl ItemWork {
    /// Takes a batch of tasks and does them.
    pub(crate) async fn work_tasks(&mut self) -> Result<Found, Unfinished> {
        if self.unfinished.is_empty() {
            self.unfinished = self.next_tasks().await?;
        }
        let found = Found::of(self.unfinished.len());
        if found == Found::Nothing {
            return Ok(found);
        }
        let (mut done, mut reservations) = (Vec::new(), Vec::new());
        for task in self.unfinished.clone() {
            match task.what {
                What::Record(reservation) => reservations.push((task.id, reservation)),
                What::News => done.push(task.id),
                What::Nonsense(field) => {
                    self.bury(&task.id, &format!("the field {field} makes no sense")).await?
                }
            }
        }
        if !reservations.is_empty() {
            self.wait_for_replicas().await?;
            done.extend(self.record(reservations).await?);
        }
        self.desk.queue.acknowledge(&self.item_id, &done).await?;
        self.unfinished.clear();
        Ok(found)
    }

    async fn next_tasks(&mut self) -> Result<Vec<Task>, Unfinished> {
        let is_due = |last: Option<Instant>, interval| last.is_none_or(|at| at.elapsed() >= interval);
        if is_due(self.claimed_at, CLAIM_INTERVAL) {
            let left = self.desk.taking.claim_tasks(&self.item_id, self.desk.left_after, MAX_BATCH).await?;
            if !left.is_empty() {
                return Ok(left);
            }
            self.claimed_at = Some(Instant::now());
        }
        let new = self.desk.taking.take_tasks(&self.item_id, MAX_BATCH).await?;
        if new.is_empty() && is_due(self.forgot_at, FORGET_INTERVAL) {
            let now = self.desk.queue.main_time().await?;
            self.desk.queue.forget_old_tasks(&self.item_id, now).await?;
            self.forgot_at = Some(Instant::now());
        }
        Ok(new)
    }

    /// Over the connection that may be blocked: what the tasks speak of was written before.
    async fn wait_for_replicas(&self) -> Result<(), Unfinished> {
        let wanted = self.desk.wait_replicas;
        if wanted == 0 || self.desk.taking.wait_for_replicas(wanted, REPLICA_LIMIT).await? {
            Ok(())
        } else {
            Err(Unfinished::TooFewReplicas)
        }
    }

    /// Records a batch; returns the tasks that are done. Where the ledger refuses the
    /// batch for the sake of one, each is tried alone.
    async fn record(&mut self, batch: Vec<(String, Reservation)>) -> Result<Vec<String>, Unfinished> {
        let (ids, reservations): (Vec<String>, Vec<Reservation>) = batch.into_iter().unzip();
        match self.desk.ledger.record(&self.item_id, &reservations, self.desk.lease.permit()?).await {
            Ok(standings) => {
                self.settle(&reservations, &standings).await?;
                Ok(ids)
            }
            Err(away @ (LedgerError::Away(_) | LedgerError::LeaseOver)) => Err(away.into()),
            // All of it belongs to another reign, or its item is none of the ledger's.
            Err(error @ (LedgerError::StaleEpoch | LedgerError::NoSuchItem(_)))
                if is_of_one_reign(&reservations) =>
            {
                self.leave(ids.len(), &error);
                Ok(Vec::new())
            }
            Err(_) => {
                let (mut done, mut left) = (Vec::new(), Vec::new());
                for (id, reservation) in ids.into_iter().zip(reservations) {
                    match self.record_alone(&id, reservation).await? {
                        Ok(()) => done.push(id),
                        Err(error) => left.push(error),
                    }
                }
                if let Some(error) = left.last() {
                    self.leave(left.len(), error);
                }
                Ok(done)
            }
        }
    }

    /// Records one reservation, or says why the ledger does not take it. One that it
    /// refuses for its data is put aside after [`MAX_TRIES`].
    async fn record_alone(
        &mut self,
        id: &str,
        reservation: Reservation,
    ) -> Result<Result<(), LedgerError>, Unfinished> {
        let one = [reservation];
        match self.desk.ledger.record(&self.item_id, &one, self.desk.lease.permit()?).await {
            Ok(standings) => Ok(Ok(self.settle(&one, &standings).await?)),
            Err(away @ (LedgerError::Away(_) | LedgerError::LeaseOver)) => Err(away.into()),
            Err(error) => {
                let is_refused = matches!(error, LedgerError::Refused(_));
                if is_refused && self.desk.queue.tries(&self.item_id, id).await? >= MAX_TRIES {
                    self.bury(id, &error.to_string()).await?;
                }
                Ok(Err(error))
            }
        }
    }

    /// Leaves tasks that the ledger does not take: they rest, and are claimed again. Under
    /// another epoch, or without the item in the ledger, the fault is not the tasks': they
    /// wait for a person, and their units with them.
    fn leave(&self, tasks: usize, error: &LedgerError) {
        metrics::counter!("tasks_refused", "Item" => self.item_id.to_string()).increment(tasks as u64);
        tracing::error!(%error, item_id = %self.item_id, tasks, "the ledger does not take reservations");
    }

    async fn settle(
        &mut self,
        reservations: &[Reservation],
        standings: &[Standing],
    ) -> Result<(), Unfinished> {
        let settlements: Vec<Settlement> = reservations
            .iter()
            .zip(standings)
            .flat_map(|(one, standing)| settlements(one, *standing))
            .collect();
        if !settlements.is_empty() {
            self.desk.queue.settle(&self.item_id, &settlements).await?;
        }
        let refused = standings.iter().filter(|standing| **standing == Standing::Nothing).count() as u64;
        let recorded = standings.len() as u64 - refused;
        self.done.recorded += recorded;
        self.done.refused += refused;
        let item = || self.item_id.to_string();
        metrics::counter!("reservations_recorded", "Item" => item()).increment(recorded);
        if refused > 0 {
            metrics::counter!("reservations_refused", "Item" => item()).increment(refused);
            tracing::error!(refused, item_id = %self.item_id, "the ledger has no unit for what the drain promised");
        }
        if let Some(last) = reservations.last() {
            let now = self.desk.queue.main_time().await?;
            let lag_micros = now.micros_since(last.reserved_at);
            metrics::gauge!("record_lag_ms", "Item" => item()).set(lag_micros as f64 / 1_000.0);
        }
        Ok(())
    }

    async fn bury(&mut self, id: &str, why: &str) -> Result<(), Unfinished> {
        self.desk.queue.bury(&self.item_id, id, why).await?;
        self.done.buried += 1;
        metrics::counter!("dead_letters", "Item" => self.item_id.to_string()).increment(1);
        tracing::error!(item_id = %self.item_id, task = id, why, "a task was put aside");
        Ok(())
    }
}

fn is_of_one_reign(reservations: &[Reservation]) -> bool {
    reservations.windows(2).all(|pair| matches!(pair, [one, other] if one.epoch == other.epoch))
}

/// What Redis is told after `standing` has come of `reservation`.
fn settlements(reservation: &Reservation, standing: Standing) -> Vec<Settlement> {
    let its_score = reservation.hold_until.as_micros().to_string();
    let settlement = |expected: Option<&str>, outcome| Settlement {
        user_token: reservation.user_token.clone(),
        expected: expected.map(str::to_owned),
        outcome,
    };
    match standing {
        Standing::Sold => vec![settlement(None, Outcome::Sold)],
        Standing::Reserved { until } if until == reservation.hold_until => Vec::new(),
        Standing::Reserved { until } => vec![settlement(Some(&its_score), Outcome::Reserved { until })],
        Standing::Released => vec![settlement(Some(&its_score), Outcome::Released { returns_unit: true })],
        // Also where its buyer gave it back meanwhile.
        Standing::Nothing => {
            let given_back = reservation.hold_until.as_micros().saturating_sub(GIVEN_BACK_MICROS).to_string();
            [its_score, given_back]
                .map(|score| settlement(Some(&score), Outcome::Released { returns_unit: false }))
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::stamp::Stamp;
    use shared::user_token::UserToken;

    #[test]
    fn redis_is_told_what_the_ledger_decided_and_nothing_else() {
        let stamp = |micros| Stamp::from_micros(micros).unwrap();
        let reservation = Reservation {
            user_token: UserToken::parse("alice").unwrap(),
            placed_at: stamp(1),
            reserved_at: stamp(2),
            hold_until: stamp(GIVEN_BACK_MICROS + 9),
            epoch: 1,
        };
        let told = |standing| -> Vec<(Option<String>, Outcome)> {
            settlements(&reservation, standing).into_iter().map(|one| (one.expected, one.outcome)).collect()
        };
        assert_eq!(told(Standing::Sold), [(None, Outcome::Sold)]);
        let (held, given_back) = ((GIVEN_BACK_MICROS + 9).to_string(), "9".to_owned());
        assert_eq!(told(Standing::Reserved { until: stamp(GIVEN_BACK_MICROS + 9) }), []);
        let extended = Outcome::Reserved { until: stamp(12) };
        assert_eq!(told(Standing::Reserved { until: stamp(12) }), [(Some(held.clone()), extended)]);
        let back = Outcome::Released { returns_unit: true };
        assert_eq!(told(Standing::Released), [(Some(held.clone()), back)]);
        let no_unit = Outcome::Released { returns_unit: false };
        assert_eq!(told(Standing::Nothing), [(Some(held), no_unit), (Some(given_back), no_unit)]);
    }
}
