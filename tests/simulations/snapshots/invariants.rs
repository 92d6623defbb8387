//! What must hold all through a history: no violation, and no recovery point older than its bound.

use crate::snapshots::account::SimulatedAccount;
use crate::snapshots::history::{DAY, SOURCE, SnapshotHistory};
use crate::snapshots::simulator::Simulator;
use rds::Timestamp;
use snapshot_copy::policy::RetentionRule;
use snapshot_copy::report::SnapshotReport;
use std::collections::{BTreeMap, BTreeSet};

/// A second implementation of retention, from the words of the policy: of each kind of period the last ones that
/// have a snapshot, and of each of these the newest snapshot.
pub(crate) fn expected_by_policy(rule: RetentionRule, ever: &BTreeMap<String, i64>) -> BTreeSet<&str> {
    let mut newest_first: Vec<(&i64, &str)> =
        ever.iter().map(|(id, taken_at)| (taken_at, id.as_str())).collect();
    newest_first.sort_unstable_by(|one, other| other.cmp(one));
    let mut kept: BTreeSet<&str> = newest_first.iter().take(rule.floor as usize).map(|(_, id)| *id).collect();
    let text = |at: i64| Timestamp::from_unix_seconds(at).to_string();
    let retention = rule.retention;
    // The text of a time up to the hour, the day or the month; a week by its Monday.
    let monday = |at: i64| text(at - (at / DAY + 3) % 7 * DAY)[..10].to_owned();
    let tiers: [(u32, &dyn Fn(i64) -> String); 4] = [
        (retention.hourly, &|at| text(at)[..13].to_owned()),
        (retention.daily, &|at| text(at)[..10].to_owned()),
        (retention.weekly, &monday),
        (retention.monthly, &|at| text(at)[..7].to_owned()),
    ];
    for (count, period) in tiers {
        let mut last: BTreeMap<String, &str> = BTreeMap::new();
        for (taken_at, id) in &newest_first {
            last.entry(period(**taken_at)).or_insert(id);
        }
        kept.extend(last.values().rev().take(count as usize));
    }
    kept
}

/// A recovery point is a snapshot of the database itself, not of another instance with the same identifier.
pub(crate) fn check_recovery_points(account: &mut SimulatedAccount, report: &SnapshotReport) {
    for point in &report.recovery_points {
        let Some(id) = &point.id else { continue };
        let there = account.regions.get(point.region.as_str());
        let is_own = there.is_some_and(|there| {
            there.made.iter().any(|made| made.id == *id && made.is_own() && made.database == point.database)
        });
        if !is_own {
            account.violation(format!(
                "the recovery point of {} in {} is {id}, which fairdrop did not make of this instance",
                point.database, point.region
            ));
        }
    }
}

#[derive(Default)]
pub(crate) struct HistoryInvariants {
    /// The number of ages compared with their bound.
    pub(crate) ages_checked: u64,
    disturbed_at: i64,
    /// The ends of complete runs.
    completed: Vec<i64>,
    /// By region and database: when the last copy of an older original ended.
    late_until: BTreeMap<(&'static str, String), i64>,
    /// By region and database: every snapshot that was ever usable, and when it was taken.
    pub(crate) ever: BTreeMap<(&'static str, String), BTreeMap<String, i64>>,
}

impl HistoryInvariants {
    pub(crate) fn disturbed(&mut self, now: i64) {
        self.disturbed_at = now;
    }

    pub(crate) fn ran(&mut self, now: i64, is_complete: bool) {
        if is_complete {
            self.completed.push(now);
        }
    }

    pub(crate) fn violations(&self, simulator: &Simulator) -> Result<(), String> {
        match simulator.account().violations.first() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    /// Records what is usable. Returns the newest of each region and database.
    pub(crate) fn record(&mut self, account: &SimulatedAccount) -> BTreeMap<(&'static str, String), i64> {
        let now = account.now();
        let mut newest = BTreeMap::new();
        for (region, state) in &account.regions {
            // A stuck copy is ignored once its original is 12 hours old.
            let hanging = state.made.iter().filter(|made| made.is_own() && made.hangs && made.ready_at > now);
            let is_stuck = hanging.clone().count() >= 4;
            if let Some(last) = hanging.map(|made| made.taken_at + DAY / 2).max() {
                self.disturbed_at = self.disturbed_at.max(if is_stuck { now } else { last.min(now) });
            }
            for made in state.made.iter().filter(|made| made.is_own() && made.is_late) {
                let late = self.late_until.entry((*region, made.database.clone())).or_default();
                *late = made.ready_at.max(*late);
            }
            for made in state.made.iter().filter(|made| made.is_own() && made.ready_at <= now && !made.fails)
            {
                let key = (*region, made.database.clone());
                if made.is_usable(now) {
                    let newest = newest.entry(key.clone()).or_insert(made.taken_at);
                    *newest = made.taken_at.max(*newest);
                }
                self.ever.entry(key).or_default().entry(made.id.clone()).or_insert(made.taken_at);
            }
        }
        newest
    }

    pub(crate) fn check(&mut self, history: &SnapshotHistory, simulator: &Simulator) -> Result<(), String> {
        self.violations(simulator)?;
        let newest = self.record(&simulator.account());
        let now = simulator.account().now();
        let first = self.completed.first().copied().unwrap_or(now);
        let settling = history.settling().as_secs().cast_signed();
        let undisturbed_at = self.disturbed_at.max(first);
        let account = simulator.account();
        let gap = self.longest_gap(now, history);
        for region in [SOURCE].into_iter().chain(history.targets()) {
            for (database, _) in &history.databases {
                let refused_at = account.refused_at.get(database).copied().unwrap_or(0);
                let taken_at = account.id_taken_at.get(&(region, database.clone())).copied().unwrap_or(0);
                if now < undisturbed_at.max(refused_at).max(taken_at) + settling {
                    continue;
                }
                let late = self.late_until.get(&(region, database.clone())).copied().unwrap_or(0);
                let waits = late > now - settling;
                let bound =
                    if region == SOURCE { history.source_bound(gap) } else { history.bound(gap, waits) };
                let newest = newest.get(&(region, database.clone()));
                let age = newest.map_or(i64::MAX, |newest| now - newest);
                self.ages_checked += 1;
                if age > bound {
                    return Err(format!(
                        "{}: the newest snapshot of {database} in {region} is {age} s old, and at most {bound} s are allowed \
                         (interval {} min, a run every {} s, {:?})",
                        Timestamp::from_unix_seconds(now),
                        history.policy.interval_minutes,
                        history.run_every,
                        history.durations
                    ));
                }
            }
        }
        Ok(())
    }

    /// The longest time between two complete runs in the period that the bound depends on.
    fn longest_gap(&self, now: i64, history: &SnapshotHistory) -> i64 {
        let from = now - history.settling().as_secs().cast_signed();
        let recent: Vec<i64> = self
            .completed
            .iter()
            .rev()
            .copied()
            .take_while(|at| *at >= from - history.run_every * 6)
            .collect();
        let mut gap = history.run_every;
        let mut later = now;
        for at in recent {
            gap = gap.max(later - at);
            later = at;
        }
        gap
    }
}
