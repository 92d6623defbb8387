//! Random histories: quiet periods and periods with faults, runs that overlap, die and are late. At the end
//! exactly what the policy keeps must exist.

use crate::snapshots::account::{Durations, PREFIX, RdsFaults};
use crate::snapshots::instance::SimulatedInstance;
use crate::snapshots::invariants::{HistoryInvariants, check_recovery_points, expected_by_policy};
use crate::snapshots::simulator::Simulator;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use snapshot_copy::action::ActionKind;
use snapshot_copy::policy::{Policy, RetentionRule};
use snapshot_copy::report::{ActionOutcome, ActionReport};
use snapshot_copy::run::Regions;
use snapshot_copy::snapshot::snapshot_id;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(crate) const SOURCE: &str = "us-east-1";
const TARGETS: [&str; 2] = ["ap-southeast-2", "eu-west-1"];
/// As in the function.
const RUN_LIMIT: Duration = Duration::from_secs(100);
pub(crate) const DAY: i64 = 86_400;
/// The longest time in seconds until lists show a change.
const LIST_LAG: i64 = 90;

/// What is drawn at random before a history begins.
pub(crate) struct SnapshotHistory {
    seed: u64,
    pub(crate) policy: Policy,
    pub(crate) databases: Vec<(String, bool)>,
    /// The mean time in seconds between two changes of an instance's state.
    calm: i64,
    /// The share of runs before which the stack of a target region takes a snapshot of an instance with the same
    /// identifier.
    namesakes: f64,
    pub(crate) durations: Durations,
    pub(crate) run_every: i64,
    days: i64,
}

/// The result of one or more histories.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HistoryResult {
    pub(crate) digest: u64,
    pub(crate) runs: u64,
    /// The number of ages compared with their bound.
    pub(crate) ages_checked: u64,
    pub(crate) days: i64,
}

/// Runs the histories of `seeds` one after the other, up to the first that fails.
pub(crate) fn run_histories(seeds: &[u64]) -> Result<HistoryResult, (u64, String)> {
    let mut all = HistoryResult::default();
    for seed in seeds {
        let one = SnapshotHistory::of(*seed).run().map_err(|why| (*seed, why))?;
        all.runs += one.runs;
        all.ages_checked += one.ages_checked;
        all.days += one.days;
    }
    Ok(all)
}

impl SnapshotHistory {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        // Every tenth history covers two years, the others some weeks.
        let is_long = seed.is_multiple_of(10);
        let interval_minutes = if is_long {
            1_440
        } else {
            *[15, 60, 120, 360, 1_440].get(rng.random_range(0..5)).unwrap_or(&60)
        };
        let interval = i64::from(interval_minutes) * 60;
        let run_every = (interval / rng.random_range(1..=4)).max(900);
        let runs = if is_long { 730 * DAY / run_every } else { rng.random_range(150..500) };
        // A third of the policies keep almost nothing: what is not needed any more is deleted at once.
        let is_tight = rng.random_bool(0.33);
        let tier = |rng: &mut SmallRng| match rng.random_range(0..3) {
            0 => 0,
            _ if is_tight => rng.random_range(0..2),
            _ => rng.random_range(1..8),
        };
        let floor = |rng: &mut SmallRng| if is_tight { 1 } else { rng.random_range(1..4) };
        let retention = |rng: &mut SmallRng| json!({ "hourly": tier(rng), "daily": tier(rng), "weekly": tier(rng), "monthly": tier(rng) });
        let targets = &TARGETS[..rng.random_range(0..=2)];
        let targets: Vec<_> = targets
            .iter()
            .map(|region| {
                let key = format!("arn:aws:kms:{region}:111122223333:key/drops");
                json!({ "region": region, "kms_key_id": key, "retention": retention(&mut rng), "floor": floor(&mut rng) })
            })
            .collect();
        let databases: Vec<(String, bool)> =
            (0..rng.random_range(1..4)).map(|n| (format!("db{n}"), rng.random_bool(0.5))).collect();
        let ids: Vec<&String> = databases.iter().map(|(id, _)| id).collect();
        let policy = json!({
            "databases": { "ids": ids },
            "interval_minutes": interval_minutes,
            "retention": retention(&mut rng),
            "floor": floor(&mut rng),
            "targets": targets,
            "limits": { "deletes": rng.random_range(3..20) },
        });
        let policy: Policy = serde_json::from_value(policy).expect("a policy");
        let policy = Policy { id_prefix: PREFIX.into(), ..policy };
        policy.check(SOURCE).expect("a valid policy");
        let slowest = interval * *[1, 1, 2, 6].get(rng.random_range(0..4)).unwrap_or(&1);
        let durations = Durations {
            create: rng.random_range(60..=(interval / 3).min(6 * 3_600)),
            copy: rng.random_range(60..=slowest.min(10 * 3_600)),
        };
        let calm = [6 * 3_600, DAY, 7 * DAY][rng.random_range(0..3)];
        let namesakes = [0.0, 0.0, 0.01][rng.random_range(0..3)];
        let days = runs * run_every / DAY + 1;
        Self { seed, policy, databases, calm, namesakes, durations, run_every, days }
    }

    pub(crate) fn run(&self) -> Result<HistoryResult, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.map_err(|error| error.to_string())?.block_on(self.run_all())
    }

    async fn run_all(&self) -> Result<HistoryResult, String> {
        let regions: Vec<&'static str> = [SOURCE].into_iter().chain(self.targets()).collect();
        let simulator = Simulator::new(self.seed, &regions, 1_000);
        {
            let mut account = simulator.account();
            let now = account.now();
            let instance = |(id, is_encrypted): &(String, bool)| {
                (id.clone(), SimulatedInstance::new(*is_encrypted, self.calm, now))
            };
            account.databases = self.databases.iter().map(instance).collect();
            account.durations = self.durations;
            let floors = self.policy.targets.iter().filter_map(|target| target.floor);
            account.floor = floors.chain([self.policy.floor]).min().unwrap_or(1) as usize;
        }
        self.add_foreign(&simulator, &regions);
        let rds = Regions {
            source_region: SOURCE.to_owned(),
            source: simulator.rds(SOURCE),
            targets: self.targets().map(|region| (region.to_owned(), simulator.rds(region))).collect(),
        };
        let mut result = HistoryResult { days: self.days, ..HistoryResult::default() };
        let mut invariants = HistoryInvariants::default();
        let end = Instant::now() + Duration::from_secs((self.days * DAY).unsigned_abs());
        let mut next = Instant::now();
        let mut faulty_until = Instant::now();
        let mut quiet_until = Instant::now() + self.seconds(20 * self.run_every);
        while Instant::now() < end {
            let is_faulty = Instant::now() < faulty_until;
            if !is_faulty && Instant::now() >= quiet_until {
                let faulty = self.seconds(self.run_every * simulator.chance(|rng| rng.random_range(1..12)));
                let quiet = self.settling()
                    + self.seconds(self.run_every * simulator.chance(|rng| rng.random_range(5..60)));
                faulty_until = Instant::now() + faulty;
                quiet_until = faulty_until + quiet;
            }
            self.set_faults(&simulator, Instant::now() < faulty_until);
            if Instant::now() < faulty_until {
                invariants.disturbed(simulator.account().now());
            }
            self.take_namesakes(&simulator);
            let is_complete = self.run_or_two(&simulator, &rds).await?;
            result.runs += 1;
            invariants.ran(simulator.account().now(), is_complete);
            // Checked between two runs, at a random time.
            next += self.seconds(self.run_every);
            let late = simulator.chance(|rng| rng.random_range(0..60));
            let in_between = simulator.chance(|rng| rng.random_range(0.0..1.0));
            sleep_until(
                Instant::now() + (next.saturating_duration_since(Instant::now())).mul_f64(in_between),
            )
            .await;
            invariants.check(self, &simulator)?;
            sleep_until(next + Duration::from_secs(late)).await;
            invariants.check(self, &simulator)?;
            simulator.account().drop_deleted();
        }
        self.end(&simulator, &rds, &mut invariants).await?;
        result.ages_checked = invariants.ages_checked;
        result.digest = simulator.account().digest.finish();
        Ok(result)
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = &'static str> {
        TARGETS.into_iter().take(self.policy.targets.len())
    }

    fn seconds(&self, seconds: i64) -> Duration {
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// How long after the last fault the bound holds again.
    pub(crate) fn settling(&self) -> Duration {
        self.seconds(self.bound(self.run_every, true) + 2 * self.run_every)
    }

    /// The delay of a run that finds a change only at the next run: the list is old, the run takes time, and the
    /// schedule is not exact to the second.
    const SLACK: i64 = LIST_LAG + RUN_LIMIT.as_secs().cast_signed() + 60;

    /// The greatest allowed age in seconds of the newest usable copy: interval + copy time + one run. The copy time
    /// is from taking the snapshot to the end of its copy. It may wait for another copy of the same database, if
    /// copies take longer than the interval or an older one was missing. Lost runs are added.
    pub(crate) fn bound(&self, longest_gap: i64, waits_for_another: bool) -> i64 {
        let interval = i64::from(self.policy.interval_minutes) * 60;
        let Durations { create, copy } = self.durations;
        let lost = 2 * (longest_gap - self.run_every);
        let is_overtaken = create + copy + self.run_every + lost + 3 * Self::SLACK > interval;
        let copies = if waits_for_another || is_overtaken { 2 } else { 1 };
        let waiting_runs = if is_overtaken { self.run_every } else { 0 };
        interval + create + copies * copy + self.run_every + waiting_runs + lost + 3 * Self::SLACK
    }

    /// The same for the source region.
    pub(crate) fn source_bound(&self, longest_gap: i64) -> i64 {
        let interval = i64::from(self.policy.interval_minutes) * 60;
        interval + self.durations.create + 2 * (longest_gap - self.run_every) + 2 * Self::SLACK
    }

    fn add_foreign(&self, simulator: &Simulator, regions: &[&'static str]) {
        for region in regions {
            for (database, _) in &self.databases {
                // The prefix without the tag, the tag without the prefix, and the prefix of another stack.
                simulator.add_foreign(region, &format!("fairdrop-{database}-before-upgrade"), database, None);
                simulator.add_foreign(region, &format!("kept-{database}"), database, Some(PREFIX));
                simulator.add_foreign(region, &format!("fairdropped-{database}"), database, Some(PREFIX));
                simulator.add_foreign(
                    region,
                    &format!("fairdrop-eu-{database}-1"),
                    database,
                    Some("fairdrop-eu"),
                );
            }
        }
        // A copy from a time when another region was main: fairdrop made it, and it is no original.
        for (database, _) in &self.databases {
            let id = format!("fairdrop-{database}-20251231-0000");
            simulator.add_known(SOURCE, &id, database, Some(PREFIX), Some("eu-west-1"));
            for target in self.targets() {
                // Some are newer than everything that this stack has made at first.
                for (number, age) in [60 * DAY, 7 * DAY, DAY, 3_600, 0].into_iter().enumerate() {
                    let id = format!("fairdrop-{database}-20251230-000{number}");
                    simulator.add_namesake(target, &id, database, age);
                }
            }
        }
    }

    fn take_namesakes(&self, simulator: &Simulator) {
        for region in self.targets() {
            for (database, _) in &self.databases {
                if simulator.chance(|rng| rng.random_bool(self.namesakes)) {
                    let slot = simulator.now().slot(self.policy.interval_minutes);
                    simulator.take_namesake(region, &snapshot_id(&self.policy, database, slot), database);
                }
            }
        }
    }

    fn set_faults(&self, simulator: &Simulator, is_faulty: bool) {
        let mut drawn = simulator.chance(|rng| RdsFaults {
            throttled: 0.0,
            failing: 0.0,
            hanging: 0.0,
            list_lag: rng.random_range(0..=LIST_LAG),
            others_copies: rng.random_range(0..8),
            others_snapshots: rng.random_range(0..50),
        });
        let mut down = BTreeSet::new();
        if is_faulty {
            drawn.throttled =
                *[0.0, 0.1, 0.6].get(simulator.chance(|rng| rng.random_range(0..3))).unwrap_or(&0.0);
            drawn.failing =
                *[0.0, 0.3, 1.0].get(simulator.chance(|rng| rng.random_range(0..3))).unwrap_or(&0.0);
            if simulator.chance(|rng| rng.random_bool(0.1)) {
                drawn.hanging = 0.3;
            }
            if simulator.chance(|rng| rng.random_bool(0.3)) {
                drawn.others_copies = 20;
            }
            if simulator.chance(|rng| rng.random_bool(0.2)) {
                drawn.others_snapshots = 1_000;
            }
            let regions: Vec<&'static str> = simulator.account().regions.keys().copied().collect();
            down.extend(regions.into_iter().filter(|_| simulator.chance(|rng| rng.random_bool(0.3))));
        }
        let mut account = simulator.account();
        account.faults = drawn;
        for (region, state) in &mut account.regions {
            state.is_down = down.contains(region);
        }
    }

    /// One run or two concurrent runs, of which some are killed. Returns whether one of them was complete.
    async fn run_or_two<R: snapshot_copy::api::Rds>(
        &self,
        simulator: &Simulator,
        rds: &Regions<R>,
    ) -> Result<bool, String> {
        let one = async |after: Duration, lives: Duration| {
            sleep(after).await;
            let run = rds.run(&self.policy, simulator.now(), Instant::now() + RUN_LIMIT, false);
            let Ok(Ok(report)) = timeout(lives, run).await else { return false };
            check_recovery_points(&mut simulator.account(), &report);
            report.actions.iter().all(|one| one.outcome.name() != "failed")
        };
        let draw = |share: f64| simulator.chance(|rng| rng.random_bool(share));
        let life = |is_killed: bool| {
            let ms = simulator.chance(|rng| rng.random_range(0..8_000));
            if is_killed { Duration::from_millis(ms) } else { RUN_LIMIT * 2 }
        };
        let first = one(Duration::ZERO, life(draw(0.15)));
        if !draw(0.15) {
            return Ok(first.await);
        }
        let after = Duration::from_millis(simulator.chance(|rng| rng.random_range(0..20_000)));
        let second = one(after, life(draw(0.15)));
        let (first, second) = tokio::join!(first, second);
        Ok(first || second)
    }

    /// The end of a history: no new snapshot is taken, all copies end, and some runs later exactly what the policy
    /// keeps exists.
    async fn end<R: snapshot_copy::api::Rds>(
        &self,
        simulator: &Simulator,
        rds: &Regions<R>,
        invariants: &mut HistoryInvariants,
    ) -> Result<(), String> {
        self.set_faults(simulator, false);
        simulator.account().databases.values_mut().for_each(SimulatedInstance::freeze);
        // Older copies are made one by one, and each run limits its deletes.
        let mut quiet = 0;
        for _ in 0..2_000 {
            sleep(self.seconds(self.durations.copy + 300)).await;
            invariants.record(&simulator.account());
            let report = rds.run(&self.policy, simulator.now(), Instant::now() + RUN_LIMIT, false).await;
            let report = report.map_err(|error| error.to_string())?;
            // RDS is asked for a new snapshot, and refuses.
            let is_refused = |one: &ActionReport| {
                one.action.kind == ActionKind::Create && matches!(one.outcome, ActionOutcome::Deferred { .. })
            };
            let is_quiet =
                report.actions.iter().all(is_refused) && !simulator.account().is_anything_in_progress();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet > 3 {
                break;
            }
        }
        invariants.violations(simulator)?;
        if quiet <= 3 {
            return Err("runs still find something to do after 2,000 runs without faults".into());
        }
        let account = simulator.account();
        let now = account.now();
        for (region, rule) in self.retention_rules() {
            for (database, _) in &self.databases {
                let there = &account.regions[region].made;
                let own = there.iter().filter(|made| made.is_own() && made.database == *database);
                let usable = own.clone().filter(|made| made.is_usable(now)).map(|made| made.id.as_str());
                let left: BTreeSet<&str> = usable.collect();
                if let Some(made) = own.clone().find(|made| made.deleted_at.is_none() && !made.is_usable(now))
                {
                    return Err(format!("{} in {region} is neither usable nor deleted", made.id));
                }
                let none = BTreeMap::new();
                let ever = invariants.ever.get(&(region, database.clone())).unwrap_or(&none);
                let expected = expected_by_policy(rule, ever);
                // Originals stay while one of them cannot be copied, until an operator renames the other snapshot.
                let waits = region == SOURCE && left.iter().any(|id| account.is_taken_by_namesake(id));
                if !left.is_superset(&expected) || (left != expected && !waits) {
                    return Err(format!(
                        "{database} in {region}: usable are {left:?}, and the policy keeps {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn retention_rules(&self) -> Vec<(&'static str, RetentionRule)> {
        let targets = self
            .targets()
            .zip(&self.policy.targets)
            .map(|(region, target)| (region, self.policy.retention_in(target)));
        [(SOURCE, self.policy.source_retention())].into_iter().chain(targets).collect()
    }
}
