//! Tasks: reservations to record in the ledger.

use crate::item_work::{BatchFill, ItemWork, RoundError};
use ledger::{BuyerState, LedgerError};
use shared::queue::{
    CANCELLED_OFFSET_MICROS, MAX_BATCH, Reservation, ReservationOutcome, Settlement, Task, TaskBody,
};
use std::time::{Duration, Instant};

/// How often the worker claims idle tasks of other workers.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// A task whose data the ledger refuses is moved to the dead letters after this number of deliveries.
const MAX_DELIVERIES: u64 = 5;
/// The time limit for replicas to acknowledge.
const REPLICA_LIMIT: Duration = Duration::from_millis(100);
/// How often old tasks are trimmed from the stream.
const TRIM_INTERVAL: Duration = Duration::from_secs(60);

impl ItemWork {
    /// Takes and processes a batch of tasks.
    pub(crate) async fn work_tasks(&mut self) -> Result<BatchFill, RoundError> {
        if self.pending.is_empty() {
            self.pending = self.next_tasks().await?;
        }
        let found = BatchFill::of(self.pending.len());
        if found == BatchFill::Empty {
            return Ok(found);
        }
        let (mut done, mut reservations) = (Vec::new(), Vec::new());
        for task in self.pending.clone() {
            match task.body {
                TaskBody::Record(reservation) => reservations.push((task.id, reservation)),
                TaskBody::Notification => done.push(task.id),
                TaskBody::Malformed(field) => {
                    self.dead_letter(&task.id, &format!("malformed field {field}")).await?
                }
            }
        }
        if !reservations.is_empty() {
            self.wait_for_replicas().await?;
            done.extend(self.record(reservations).await?);
        }
        self.context.queue.acknowledge(&self.item_id, &done).await?;
        self.pending.clear();
        Ok(found)
    }

    async fn next_tasks(&mut self) -> Result<Vec<Task>, RoundError> {
        let is_due = |last: Option<Instant>, interval| last.is_none_or(|at| at.elapsed() >= interval);
        if is_due(self.claimed_at, CLAIM_INTERVAL) {
            let left = self
                .context
                .task_queue
                .claim_tasks(&self.item_id, self.context.idle_after, MAX_BATCH)
                .await?;
            if !left.is_empty() {
                return Ok(left);
            }
            self.claimed_at = Some(Instant::now());
        }
        let new = self.context.task_queue.take_tasks(&self.item_id, MAX_BATCH).await?;
        if new.is_empty() && is_due(self.trimmed_at, TRIM_INTERVAL) {
            let now = self.context.queue.main_time().await?;
            self.context.queue.trim_finished_tasks(&self.item_id, now).await?;
            self.trimmed_at = Some(Instant::now());
        }
        Ok(new)
    }

    /// Waits until replicas have the reservations. `WAIT` covers them, since they were written before their tasks
    /// were read.
    async fn wait_for_replicas(&self) -> Result<(), RoundError> {
        let wanted = self.context.wait_replicas;
        if wanted == 0 || self.context.task_queue.wait_for_replicas(wanted, REPLICA_LIMIT).await? {
            Ok(())
        } else {
            Err(RoundError::TooFewReplicas)
        }
    }

    /// Records a batch; returns the tasks that are done. If the ledger refuses the batch,
    /// each reservation is tried alone, since one may have caused the refusal.
    async fn record(&mut self, batch: Vec<(String, Reservation)>) -> Result<Vec<String>, RoundError> {
        let (ids, reservations): (Vec<String>, Vec<Reservation>) = batch.into_iter().unzip();
        match self.context.ledger.record(&self.item_id, &reservations, self.context.lease.permit()?).await {
            Ok(states) => {
                self.settle(&reservations, &states).await?;
                Ok(ids)
            }
            Err(error @ (LedgerError::Unavailable(_) | LedgerError::LeaseOver)) => Err(error.into()),
            // The whole batch has another epoch, or the ledger does not have the item.
            Err(error @ (LedgerError::StaleEpoch | LedgerError::NoSuchItem(_)))
                if have_one_epoch(&reservations) =>
            {
                self.leave_pending(ids.len(), &error);
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
                    self.leave_pending(left.len(), error);
                }
                Ok(done)
            }
        }
    }

    /// Records one reservation, or returns why the ledger refused it. If the ledger refuses its
    /// data, the task is moved to the dead letters after [`MAX_DELIVERIES`].
    async fn record_alone(
        &mut self,
        id: &str,
        reservation: Reservation,
    ) -> Result<Result<(), LedgerError>, RoundError> {
        let one = [reservation];
        match self.context.ledger.record(&self.item_id, &one, self.context.lease.permit()?).await {
            Ok(states) => Ok(Ok(self.settle(&one, &states).await?)),
            Err(error @ (LedgerError::Unavailable(_) | LedgerError::LeaseOver)) => Err(error.into()),
            Err(error) => {
                let is_refused = matches!(error, LedgerError::Refused(_));
                if is_refused && self.context.queue.deliveries(&self.item_id, id).await? >= MAX_DELIVERIES {
                    self.dead_letter(id, &error.to_string()).await?;
                }
                Ok(Err(error))
            }
        }
    }

    /// Leaves refused tasks pending, so that they are claimed again. If the epoch differs or the
    /// ledger does not have the item, the tasks are not at fault: they and their units wait for an
    /// operator.
    fn leave_pending(&self, tasks: usize, error: &LedgerError) {
        metrics::counter!("tasks_refused", "Item" => self.item_id.to_string()).increment(tasks as u64);
        tracing::error!(
            %error,
            item_id = %self.item_id,
            tasks,
            "the ledger refused reservations; their tasks stay pending"
        );
    }

    async fn settle(
        &mut self,
        reservations: &[Reservation],
        states: &[BuyerState],
    ) -> Result<(), RoundError> {
        let settlements: Vec<Settlement> =
            reservations.iter().zip(states).flat_map(|(one, state)| settlements(one, *state)).collect();
        if !settlements.is_empty() {
            self.context.queue.settle(&self.item_id, &settlements).await?;
        }
        let count = |wanted| states.iter().filter(|state| **state == wanted).count() as u64;
        let (refused, excluded) = (count(BuyerState::None), count(BuyerState::Excluded));
        let recorded = states.len() as u64 - refused - excluded;
        self.done.recorded += recorded;
        self.done.refused += refused;
        self.done.excluded += excluded;
        let item = || self.item_id.to_string();
        metrics::counter!("reservations_recorded", "Item" => item()).increment(recorded);
        if excluded > 0 {
            metrics::counter!("reservations_excluded", "Item" => item()).increment(excluded);
        }
        if refused > 0 {
            metrics::counter!("reservations_refused", "Item" => item()).increment(refused);
            tracing::error!(
                refused,
                item_id = %self.item_id,
                "the ledger has no unit for reservations of the drain; releasing their buyers"
            );
        }
        if let Some(last) = reservations.last() {
            let now = self.context.queue.main_time().await?;
            let lag_micros = now.micros_since(last.reserved_at);
            metrics::gauge!("record_lag_ms", "Item" => item()).set(lag_micros as f64 / 1_000.0);
        }
        Ok(())
    }

    async fn dead_letter(&mut self, id: &str, why: &str) -> Result<(), RoundError> {
        self.context.queue.dead_letter(&self.item_id, id, why).await?;
        self.done.dead_lettered += 1;
        metrics::counter!("dead_letters", "Item" => self.item_id.to_string()).increment(1);
        tracing::error!(item_id = %self.item_id, task = id, why, "moved a task to the dead letters");
        Ok(())
    }
}

fn have_one_epoch(reservations: &[Reservation]) -> bool {
    reservations.windows(2).all(|pair| matches!(pair, [one, other] if one.epoch == other.epoch))
}

/// What to write to Redis after the ledger has decided `state` for `reservation`.
fn settlements(reservation: &Reservation, state: BuyerState) -> Vec<Settlement> {
    let its_score = reservation.hold_until.to_string();
    let settlement = |expected: Option<&str>, outcome| Settlement {
        user_token: reservation.user_token.clone(),
        expected: expected.map(str::to_owned),
        outcome,
    };
    match state {
        BuyerState::Sold => vec![settlement(None, ReservationOutcome::Sold)],
        BuyerState::Reserved { until } if until == reservation.hold_until => Vec::new(),
        BuyerState::Reserved { until } => {
            vec![settlement(Some(&its_score), ReservationOutcome::Reserved { until })]
        }
        // Also matches if its buyer has cancelled it in the meantime. The unit of an excluded buyer is free in the ledger.
        BuyerState::Released | BuyerState::Voided | BuyerState::None | BuyerState::Excluded => {
            let outcome = match state {
                BuyerState::Released => ReservationOutcome::Released { returns_unit: true },
                BuyerState::Voided => ReservationOutcome::Voided,
                BuyerState::Excluded => ReservationOutcome::Excluded,
                _ => ReservationOutcome::Released { returns_unit: false },
            };
            let cancelled =
                reservation.hold_until.as_micros().saturating_sub(CANCELLED_OFFSET_MICROS).to_string();
            [its_score, cancelled].map(|score| settlement(Some(&score), outcome)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::stamp::Stamp;
    use shared::user_token::UserToken;

    #[test]
    fn settlements_follow_the_ledger_s_decisions() {
        let stamp = |micros| Stamp::from_micros(micros).unwrap();
        let reservation = Reservation {
            user_token: UserToken::parse("alice").unwrap(),
            placed_at: stamp(1),
            reserved_at: stamp(2),
            hold_until: stamp(CANCELLED_OFFSET_MICROS + 9),
            epoch: 1,
        };
        let settled = |state| -> Vec<(Option<String>, ReservationOutcome)> {
            settlements(&reservation, state).into_iter().map(|one| (one.expected, one.outcome)).collect()
        };
        assert_eq!(settled(BuyerState::Sold), [(None, ReservationOutcome::Sold)]);
        let (held, cancelled) = ((CANCELLED_OFFSET_MICROS + 9).to_string(), "9".to_owned());
        assert_eq!(settled(BuyerState::Reserved { until: stamp(CANCELLED_OFFSET_MICROS + 9) }), []);
        let extended = ReservationOutcome::Reserved { until: stamp(12) };
        assert_eq!(settled(BuyerState::Reserved { until: stamp(12) }), [(Some(held.clone()), extended)]);
        let back = ReservationOutcome::Released { returns_unit: true };
        let no_unit = ReservationOutcome::Released { returns_unit: false };
        let both = |outcome| [(Some(held.clone()), outcome), (Some(cancelled.clone()), outcome)];
        assert_eq!(settled(BuyerState::None), both(no_unit));
        assert_eq!(settled(BuyerState::Excluded), both(ReservationOutcome::Excluded));
        // A failover of Redis has brought the order back, and the buyer has cancelled the reservation.
        assert_eq!(settled(BuyerState::Released), both(back));
        assert_eq!(settled(BuyerState::Voided), both(ReservationOutcome::Voided));
    }
}
