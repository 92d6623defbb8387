//! The simulated account: what there is in each region, and what RDS would do with it.
//! States take time, copies queue up, quotas are kept, and lists are a moment old.

use rand::Rng;
use rand::rngs::SmallRng;
use rds::{Moment, RdsError, Snapshot, State, TAG_KEY};
use snapshot_copy::IN_PROGRESS_LIMIT;
use snapshot_copy::api::CopyOrder;
use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600;
pub(crate) const PREFIX: &str = "fairdrop";

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Share of calls that are throttled.
    pub(crate) throttled: f64,
    /// Share of snapshots and copies that fail.
    pub(crate) failing: f64,
    /// Share of copies that hang for days.
    pub(crate) hanging: f64,
    /// The longest that a change is missing in lists, in seconds.
    pub(crate) list_lag: i64,
    /// Copies of others in progress to each region.
    pub(crate) others_copies: usize,
    /// Snapshots of others that use up each region's quota.
    pub(crate) others_snapshots: u32,
}

/// How long things take, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    pub(crate) create: i64,
    pub(crate) copy: i64,
}

/// What the simulator knows of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) database: String,
    pub(crate) tag: Option<String>,
    /// When the data were written.
    pub(crate) taken_at: i64,
    /// When RDS was asked for it.
    pub(crate) begun_at: i64,
    /// When it is available, or has failed.
    pub(crate) ready_at: i64,
    pub(crate) fails: bool,
    /// The region of the original, for a copy.
    pub(crate) source: Option<String>,
    /// A copy that makes no progress for days.
    pub(crate) hangs: bool,
    /// A copy of what was not the newest original any more.
    pub(crate) is_late: bool,
    pub(crate) deleted_at: Option<i64>,
    pub(crate) listed_from: i64,
    pub(crate) listed_until: i64,
    pub(crate) encrypted: bool,
}

impl Made {
    pub(crate) fn is_usable(&self, now: i64) -> bool {
        self.deleted_at.is_none() && self.ready_at <= now && !self.fails
    }

    fn is_in_progress(&self, now: i64) -> bool {
        self.deleted_at.is_none() && self.ready_at > now
    }

    /// What fairdrop may touch.
    pub(crate) fn is_own(&self) -> bool {
        self.tag.as_deref() == Some(PREFIX) && self.id.starts_with("fairdrop-")
    }
}

#[derive(Debug, Default)]
pub(crate) struct RegionState {
    pub(crate) made: Vec<Made>,
    pub(crate) is_down: bool,
    pub(crate) quota: u32,
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) rng: SmallRng,
    pub(crate) start: Instant,
    pub(crate) regions: BTreeMap<&'static str, RegionState>,
    pub(crate) databases: BTreeMap<String, bool>,
    pub(crate) busy: bool,
    pub(crate) weather: Weather,
    pub(crate) durations: Durations,
    pub(crate) floor: usize,
    /// What must never happen, and did.
    pub(crate) violations: Vec<String>,
    pub(crate) calls: u64,
    /// Whether every call is printed: for the history that went wrong.
    pub(crate) is_told: bool,
    /// Of every call and its outcome.
    pub(crate) digest: DefaultHasher,
}

impl Account {
    pub(crate) fn now(&self) -> i64 {
        BEGINNING + self.start.elapsed().as_secs().cast_signed()
    }

    fn lag(&mut self) -> i64 {
        if self.weather.list_lag == 0 { 0 } else { self.rng.random_range(0..=self.weather.list_lag) }
    }

    fn violation(&mut self, what: String) {
        let now = Moment::from_unix_seconds(self.now());
        self.violations.push(format!("{now}: {what}"));
    }

    /// Forgets what nobody can see any more, so that two years stay small.
    pub(crate) fn forget(&mut self) {
        let now = self.now();
        for region in self.regions.values_mut() {
            region.made.retain(|made| made.deleted_at.is_none() || made.listed_until > now);
        }
    }

    pub(crate) fn is_anything_in_progress(&self) -> bool {
        let now = self.now();
        self.regions.values().flat_map(|region| &region.made).any(|made| made.is_in_progress(now))
    }

    pub(crate) fn used(&self, region: &str) -> u32 {
        let there = &self.regions[region].made;
        there.iter().filter(|made| made.deleted_at.is_none()).count() as u32 + self.weather.others_snapshots
    }

    fn add(&mut self, region: &'static str, mut made: Made) -> Result<(), RdsError> {
        let (now, lag) = (self.now(), self.lag());
        let is_name = |id: &str| {
            id.len() <= 255
                && id.starts_with(|first: char| first.is_ascii_alphabetic())
                && !id.ends_with('-')
                && !id.contains("--")
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_name(&made.id) || made.tag.is_none() {
            self.violation(format!("{} is no name for a snapshot, or has no tag", made.id));
        }
        let known = &self.regions[region];
        if known.made.iter().any(|other| other.id == made.id && other.deleted_at.is_none()) {
            return Err(RdsError::Exists);
        }
        if self.used(region) >= known.quota {
            return Err(RdsError::TooManySnapshots);
        }
        made.listed_from = now + lag;
        self.regions.get_mut(region).ok_or(RdsError::NotFound)?.made.push(made);
        Ok(())
    }

    pub(crate) fn create(
        &mut self,
        region: &'static str,
        database: &str,
        id: &str,
        tag: &str,
    ) -> Result<(), RdsError> {
        let now = self.now();
        let encrypted = *self.databases.get(database).ok_or(RdsError::NotFound)?;
        let being_made =
            |made: &Made| made.database == database && made.source.is_none() && made.is_in_progress(now);
        if self.busy || self.regions[region].made.iter().any(being_made) {
            return Err(RdsError::NotInState);
        }
        let takes = self.rng.random_range(self.durations.create / 4..=self.durations.create);
        let fails = self.rng.random_bool(self.weather.failing);
        self.add(
            region,
            Made {
                id: id.to_owned(),
                database: database.to_owned(),
                tag: Some(tag.to_owned()),
                taken_at: now,
                begun_at: now,
                ready_at: now + takes,
                fails,
                source: None,
                is_late: false,
                hangs: false,
                deleted_at: None,
                listed_from: now,
                listed_until: now,
                encrypted,
            },
        )
    }

    pub(crate) fn copy(&mut self, region: &'static str, order: CopyOrder<'_>) -> Result<(), RdsError> {
        let now = self.now();
        let Some((source_region, id)) = parse(order.source_arn) else {
            self.violation(format!("{} is no ARN", order.source_arn));
            return Err(RdsError::NotFound);
        };
        let Some((&source_region, there)) = self.regions.get_key_value(source_region.as_str()) else {
            return Err(RdsError::NotFound);
        };
        if there.is_down {
            return Err(RdsError::Unreachable("the source's region".into()));
        }
        let source = there.made.iter().find(|made| made.id == id && made.deleted_at.is_none());
        let source = source.ok_or(RdsError::NotFound)?.clone();
        let is_late = there.made.iter().any(|made| {
            made.database == source.database
                && made.is_own()
                && made.is_usable(now)
                && made.taken_at > source.taken_at
        });
        if !source.is_usable(now) {
            return Err(RdsError::NotInState);
        }
        if source.source.is_some() || !source.is_own() {
            self.violation(format!("{id}: a copy was copied, or another's snapshot"));
        }
        let is_of_region = |key: &str| key.starts_with(&format!("arn:aws:kms:{region}:"));
        if source.encrypted && !order.kms_key_id.is_some_and(is_of_region) {
            self.violation(format!("{id}: copied without a key of {region}"));
            return Err(RdsError::Refused {
                code: "KMSKeyNotAccessibleFault".into(),
                message: String::new(),
            });
        }
        let in_progress =
            self.regions[region].made.iter().filter(|made| made.source.is_some() && made.is_in_progress(now));
        if in_progress.clone().count() + self.weather.others_copies >= IN_PROGRESS_LIMIT {
            return Err(RdsError::TooManyCopies);
        }
        // Copies of one database wait for each other.
        let turn = in_progress
            .filter(|made| made.database == source.database && !made.hangs)
            .map(|made| made.ready_at)
            .max();
        let takes = self.rng.random_range(self.durations.copy / 4..=self.durations.copy);
        let hangs = self.rng.random_bool(self.weather.hanging);
        let takes = if hangs { 3 * 86_400 } else { takes };
        let fails = self.rng.random_bool(self.weather.failing);
        self.add(
            region,
            Made {
                id: order.id.to_owned(),
                tag: Some(order.tag.1.to_owned()).filter(|_| order.tag.0 == TAG_KEY),
                begun_at: now,
                ready_at: turn.unwrap_or(now) + takes,
                fails,
                source: Some(source_region.to_owned()),
                is_late,
                hangs,
                ..source
            },
        )
    }

    pub(crate) fn delete(&mut self, region: &'static str, id: &str) -> Result<(), RdsError> {
        let (now, lag) = (self.now(), self.lag());
        let there = &self.regions[region].made;
        let place = there.iter().position(|made| made.id == id && made.deleted_at.is_none());
        let place = place.ok_or(RdsError::NotFound)?;
        let made = there[place].clone();
        if made.is_in_progress(now) {
            return Err(RdsError::NotInState);
        }
        let usable: Vec<i64> = there
            .iter()
            .filter(|other| other.is_own() && other.database == made.database && other.is_usable(now))
            .map(|other| other.taken_at)
            .collect();
        if !made.is_own() {
            self.violation(format!("{id} in {region} is somebody else's and was deleted"));
        }
        if made.is_usable(now) {
            if usable.len() <= self.floor {
                self.violation(format!(
                    "{id} in {region}: {} were left, and one of them was deleted",
                    usable.len()
                ));
            }
            if usable.iter().max() == Some(&made.taken_at) {
                self.violation(format!("{id} in {region} was the newest"));
            }
        }
        // Nobody can say what a region does that does not answer; where the quota runs out, a
        // day is its share.
        let is_full = self.regions[region].quota.saturating_sub(self.used(region)) <= 25;
        let is_throttled = self.weather.throttled > 0.0;
        for (other, state) in &mut self.regions {
            let is_unknown = state.is_down || is_throttled;
            let is_excused = is_unknown && is_full && now - made.taken_at >= 86_400;
            for copy in &mut state.made {
                if copy.id == id && copy.source.as_deref() == Some(region) && copy.is_in_progress(now) {
                    (copy.fails, copy.ready_at) = (true, now);
                    if !is_excused {
                        self.violations.push(format!("{id} was deleted while it was copied to {other}"));
                    }
                }
            }
        }
        let made = &mut self.regions.get_mut(region).ok_or(RdsError::NotFound)?.made[place];
        (made.deleted_at, made.listed_until) = (Some(now), now + lag);
        Ok(())
    }

    pub(crate) fn list(&mut self, region: &str) -> Vec<Snapshot> {
        let now = self.now();
        // States are a moment old, too.
        let seen_at = now - self.lag();
        let seen = self.regions[region]
            .made
            .iter()
            .filter(|made| made.listed_from <= now && (made.deleted_at.is_none() || now < made.listed_until));
        seen.map(|made| show(made, region, seen_at)).collect()
    }
}

pub(crate) fn show(made: &Made, region: &str, at: i64) -> Snapshot {
    let is_ready = made.ready_at <= at;
    Snapshot {
        id: made.id.clone(),
        arn: format!("arn:aws:rds:{region}:111122223333:snapshot:{}", made.id),
        database: made.database.clone(),
        state: match (is_ready, made.fails) {
            (false, _) => State::InProgress,
            (true, false) => State::Available,
            (true, true) => State::Failed,
        },
        created: is_ready.then(|| Moment::from_unix_seconds(made.taken_at)),
        made: is_ready.then(|| Moment::from_unix_seconds(made.begun_at)),
        database_time: None,
        is_encrypted: made.encrypted,
        is_copy: made.source.is_some(),
        tag: made.tag.clone(),
    }
}

fn parse(arn: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts[..] {
        ["arn", "aws", "rds", region, _, "snapshot", id] => Some((region.to_owned(), id.to_owned())),
        _ => None,
    }
}
