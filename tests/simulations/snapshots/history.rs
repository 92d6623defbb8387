//! Random histories: calm weather and storms, runs that overlap, die and are late, and
//! after all of it what must be true.

use crate::snapshots::account::{Durations, PREFIX, Weather};
use crate::snapshots::simulator::Simulator;
use crate::snapshots::watch::{Watch, kept_by_hand};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use snapshot_copy::policy::{Keeping, Policy};
use snapshot_copy::round::Regions;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(crate) const HERE: &str = "us-east-1";
const FAR: [&str; 2] = ["ap-southeast-2", "eu-west-1"];
/// The function's own limit of a run.
const RUN_LIMIT: Duration = Duration::from_secs(100);
pub(crate) const DAY: i64 = 86_400;
/// The longest that a change is missing in lists, in seconds.
const LIST_LAG: i64 = 90;

/// What is drawn for a history before it begins.
pub(crate) struct History {
    seed: u64,
    pub(crate) policy: Policy,
    pub(crate) databases: Vec<(String, bool)>,
    pub(crate) durations: Durations,
    pub(crate) run_every: i64,
    days: i64,
}

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lived {
    pub(crate) digest: u64,
    pub(crate) runs: u64,
    /// Ages held against the bound.
    pub(crate) looks: u64,
    pub(crate) days: i64,
}

/// Lives the histories of `seeds` one after the other, up to the first that goes wrong.
pub(crate) fn histories(seeds: &[u64]) -> Result<Lived, (u64, String)> {
    let mut all = Lived::default();
    for seed in seeds {
        let one = History::of(*seed).live().map_err(|why| (*seed, why))?;
        all.runs += one.runs;
        all.looks += one.looks;
        all.days += one.days;
    }
    Ok(all)
}

impl History {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        // Every tenth lives for two years, the others for some weeks.
        let is_long = seed.is_multiple_of(10);
        let interval_minutes = if is_long {
            1_440
        } else {
            *[15, 60, 120, 360, 1_440].get(rng.random_range(0..5)).unwrap_or(&60)
        };
        let interval = i64::from(interval_minutes) * 60;
        let run_every = (interval / rng.random_range(1..=4)).max(900);
        let runs = if is_long { 730 * DAY / run_every } else { rng.random_range(150..500) };
        // A third keep next to nothing: what is not needed any more goes at once.
        let is_tight = rng.random_bool(0.33);
        let tier = |rng: &mut SmallRng| match rng.random_range(0..3) {
            0 => 0,
            _ if is_tight => rng.random_range(0..2),
            _ => rng.random_range(1..8),
        };
        let floor = |rng: &mut SmallRng| if is_tight { 1 } else { rng.random_range(1..4) };
        let retention = |rng: &mut SmallRng| json!({ "hourly": tier(rng), "daily": tier(rng), "weekly": tier(rng), "monthly": tier(rng) });
        let far = &FAR[..rng.random_range(0..=2)];
        let targets: Vec<_> = far
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
        policy.check(HERE).expect("a policy that makes sense");
        let slowest = interval * *[1, 1, 2, 6].get(rng.random_range(0..4)).unwrap_or(&1);
        let durations = Durations {
            create: rng.random_range(60..=(interval / 3).min(6 * 3_600)),
            copy: rng.random_range(60..=slowest.min(10 * 3_600)),
        };
        Self { seed, policy, databases, durations, run_every, days: runs * run_every / DAY + 1 }
    }

    pub(crate) fn live(&self) -> Result<Lived, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.map_err(|error| error.to_string())?.block_on(self.pass())
    }

    async fn pass(&self) -> Result<Lived, String> {
        let regions: Vec<&'static str> = [HERE].into_iter().chain(self.far()).collect();
        let simulator = Simulator::new(self.seed, &regions, 1_000);
        {
            let mut account = simulator.account();
            account.databases = self.databases.iter().cloned().collect();
            account.durations = self.durations;
            let floors = self.policy.targets.iter().filter_map(|target| target.floor);
            account.floor = floors.chain([self.policy.floor]).min().unwrap_or(1) as usize;
        }
        self.add_foreign(&simulator, &regions);
        let rds = Regions {
            own: HERE.to_owned(),
            source: simulator.rds(HERE),
            targets: self.far().map(|region| (region.to_owned(), simulator.rds(region))).collect(),
        };
        let mut lived = Lived { days: self.days, ..Lived::default() };
        let mut watch = Watch::default();
        let end = Instant::now() + Duration::from_secs((self.days * DAY).unsigned_abs());
        let mut next = Instant::now();
        let mut storm_until = Instant::now();
        let mut calm_until = Instant::now() + self.seconds(20 * self.run_every);
        while Instant::now() < end {
            let is_storm = Instant::now() < storm_until;
            if !is_storm && Instant::now() >= calm_until {
                let storm = self.seconds(self.run_every * simulator.chance(|rng| rng.random_range(1..12)));
                let calm = self.settling()
                    + self.seconds(self.run_every * simulator.chance(|rng| rng.random_range(5..60)));
                storm_until = Instant::now() + storm;
                calm_until = storm_until + calm;
            }
            self.set_weather(&simulator, Instant::now() < storm_until);
            if Instant::now() < storm_until {
                watch.disturbed(simulator.account().now());
            }
            let is_complete = self.run_or_two(&simulator, &rds).await?;
            lived.runs += 1;
            watch.ran(simulator.account().now(), is_complete);
            // Looked at between two runs, at a moment that nobody has chosen.
            next += self.seconds(self.run_every);
            let late = simulator.chance(|rng| rng.random_range(0..60));
            let in_between = simulator.chance(|rng| rng.random_range(0.0..1.0));
            sleep_until(
                Instant::now() + (next.saturating_duration_since(Instant::now())).mul_f64(in_between),
            )
            .await;
            watch.look(self, &simulator)?;
            sleep_until(next + Duration::from_secs(late)).await;
            watch.look(self, &simulator)?;
            simulator.account().forget();
        }
        self.end(&simulator, &rds, &mut watch).await?;
        lived.looks = watch.looks;
        lived.digest = simulator.account().digest.finish();
        Ok(lived)
    }

    pub(crate) fn far(&self) -> impl Iterator<Item = &'static str> {
        FAR.into_iter().take(self.policy.targets.len())
    }

    fn seconds(&self, seconds: i64) -> Duration {
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// After so long a calm the bound holds again.
    pub(crate) fn settling(&self) -> Duration {
        self.seconds(self.bound(self.run_every, true) + 2 * self.run_every)
    }

    /// What one run costs that sees too late what it waits for: the list is behind, the run
    /// itself takes its time, and the schedule is not to the second.
    const SLACK: i64 = LIST_LAG + RUN_LIMIT.as_secs().cast_signed() + 60;

    /// The oldest that the newest usable copy may be: interval + copy time + one run. The copy
    /// time is that from taking the snapshot to the end of its copy; another copy of the same
    /// database may be before it, where copies take longer than the interval or an older one
    /// was missing. Runs that were lost are counted on top.
    pub(crate) fn bound(&self, longest_gap: i64, waits_for_another: bool) -> i64 {
        let interval = i64::from(self.policy.interval_minutes) * 60;
        let Durations { create, copy } = self.durations;
        let lost = 2 * (longest_gap - self.run_every);
        let is_overtaken = create + copy + self.run_every + lost + 3 * Self::SLACK > interval;
        let copies = if waits_for_another || is_overtaken { 2 } else { 1 };
        let waiting_runs = if is_overtaken { self.run_every } else { 0 };
        interval + create + copies * copy + self.run_every + waiting_runs + lost + 3 * Self::SLACK
    }

    /// The same for the databases' own region.
    pub(crate) fn bound_here(&self, longest_gap: i64) -> i64 {
        let interval = i64::from(self.policy.interval_minutes) * 60;
        interval + self.durations.create + 2 * (longest_gap - self.run_every) + 2 * Self::SLACK
    }

    fn add_foreign(&self, simulator: &Simulator, regions: &[&'static str]) {
        for region in regions {
            for (database, _) in &self.databases {
                // The prefix without the tag, the tag without the prefix, another stack's.
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
        // A copy from a time when another region was main: fairdrop's own, and no original.
        for (database, _) in &self.databases {
            let id = format!("fairdrop-{database}-20251231-0000");
            simulator.add_known(HERE, &id, database, Some(PREFIX), Some("eu-west-1"));
        }
    }

    fn set_weather(&self, simulator: &Simulator, is_storm: bool) {
        let mut drawn = simulator.chance(|rng| Weather {
            throttled: 0.0,
            failing: 0.0,
            hanging: 0.0,
            list_lag: rng.random_range(0..=LIST_LAG),
            others_copies: rng.random_range(0..8),
            others_snapshots: rng.random_range(0..50),
        });
        let mut down = BTreeSet::new();
        if is_storm {
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
        account.weather = drawn;
        for (region, state) in &mut account.regions {
            state.is_down = down.contains(region);
        }
    }

    /// A run, sometimes two at once, and sometimes one that is killed. Whether one of them
    /// came to its end.
    async fn run_or_two<R: snapshot_copy::api::Rds>(
        &self,
        simulator: &Simulator,
        rds: &Regions<R>,
    ) -> Result<bool, String> {
        let one = async |after: Duration, lives: Duration| {
            sleep(after).await;
            let run = rds.run(&self.policy, simulator.now(), Instant::now() + RUN_LIMIT, false);
            matches!(timeout(lives, run).await, Ok(Ok(report)) if report.actions.iter().all(|one| one.outcome.name() != "failed"))
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

    /// Nothing new is taken any more, all copies come to their end, and some runs later
    /// exactly what the policy keeps is there.
    async fn end<R: snapshot_copy::api::Rds>(
        &self,
        simulator: &Simulator,
        rds: &Regions<R>,
        watch: &mut Watch,
    ) -> Result<(), String> {
        simulator.account().busy = true;
        self.set_weather(simulator, false);
        // Older copies are made one by one, and deletes are limited in each run.
        let mut quiet = 0;
        for _ in 0..2_000 {
            sleep(self.seconds(self.durations.copy + 300)).await;
            watch.see(&simulator.account());
            let report = rds.run(&self.policy, simulator.now(), Instant::now() + RUN_LIMIT, false).await;
            let report = report.map_err(|error| error.to_string())?;
            let is_quiet = report.actions.is_empty() && !simulator.account().is_anything_in_progress();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet > 3 {
                break;
            }
        }
        watch.violations(simulator)?;
        if quiet <= 3 {
            return Err("it does not come to rest".into());
        }
        let account = simulator.account();
        let now = account.now();
        for (region, keeping) in self.keepings() {
            for (database, _) in &self.databases {
                let there = &account.regions[region].made;
                let own = there.iter().filter(|made| made.is_own() && made.database == *database);
                let left: BTreeSet<&str> =
                    own.clone().filter(|made| made.is_usable(now)).map(|made| made.id.as_str()).collect();
                if let Some(made) = own.clone().find(|made| made.deleted_at.is_none() && !made.is_usable(now))
                {
                    return Err(format!("{} in {region} is neither usable nor gone", made.id));
                }
                let none = BTreeMap::new();
                let ever = watch.ever.get(&(region, database.clone())).unwrap_or(&none);
                let expected = kept_by_hand(keeping, ever);
                if left != expected {
                    return Err(format!(
                        "{database} in {region}: there are {left:?}, and the policy keeps {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn keepings(&self) -> Vec<(&'static str, Keeping)> {
        let far = self
            .far()
            .zip(&self.policy.targets)
            .map(|(region, target)| (region, self.policy.keeping_in(target)));
        [(HERE, self.policy.keeping())].into_iter().chain(far).collect()
    }
}
