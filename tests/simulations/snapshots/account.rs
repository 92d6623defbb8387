//! The simulated account: what exists in each region, and what RDS does with it. Changes of state take time,
//! copies wait for each other, quotas hold, and lists are slightly old.

use crate::snapshots::instance::SimulatedInstance;
use rand::Rng;
use rand::rngs::SmallRng;
use rds::{RdsError, Snapshot, SnapshotState, TAG_KEY, Timestamp};
use snapshot_copy::IN_PROGRESS_LIMIT;
use snapshot_copy::api::CopyRequest;
use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600;
pub(crate) const PREFIX: &str = "fairdrop";
/// The states of an instance in which RDS takes a snapshot: botocore's service model, `CreateDBSnapshot`.
const SNAPSHOT_STATES: [&str; 2] = ["available", "storage-optimization"];

/// The faults that the simulator injects, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RdsFaults {
    /// The share of calls that RDS throttles.
    pub(crate) throttled: f64,
    /// The share of snapshots and copies that fail.
    pub(crate) failing: f64,
    /// The share of copies that make no progress for days.
    pub(crate) hanging: f64,
    /// The longest time in seconds until lists show a change.
    pub(crate) list_lag: i64,
    /// Copies of other programs in progress to each region.
    pub(crate) others_copies: usize,
    /// Snapshots of other programs that count against each region's quota.
    pub(crate) others_snapshots: u32,
}

/// How long RDS takes at most, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    pub(crate) create: i64,
    pub(crate) copy: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct SimulatedSnapshot {
    pub(crate) id: String,
    pub(crate) database: String,
    pub(crate) tag: Option<String>,
    /// When the data was read.
    pub(crate) taken_at: i64,
    /// When the call was made.
    pub(crate) begun_at: i64,
    /// When it becomes available or fails.
    pub(crate) ready_at: i64,
    pub(crate) fails: bool,
    /// The region of the original, for a copy.
    pub(crate) source: Option<String>,
    /// A copy that makes no progress for days.
    pub(crate) hangs: bool,
    /// A copy of an original that was not the newest any more.
    pub(crate) is_late: bool,
    /// Taken by the same stack when this region was main, of an instance with the same identifier.
    pub(crate) is_of_another_instance: bool,
    pub(crate) deleted_at: Option<i64>,
    pub(crate) listed_from: i64,
    pub(crate) listed_until: i64,
    pub(crate) encrypted: bool,
}

impl SimulatedSnapshot {
    pub(crate) fn is_usable(&self, now: i64) -> bool {
        self.deleted_at.is_none() && self.ready_at <= now && !self.fails
    }

    fn is_in_progress(&self, now: i64) -> bool {
        self.deleted_at.is_none() && self.ready_at > now
    }

    /// Whether fairdrop may copy and delete it.
    pub(crate) fn is_own(&self) -> bool {
        !self.is_of_another_instance
            && self.tag.as_deref() == Some(PREFIX)
            && self.id.starts_with("fairdrop-")
    }
}

#[derive(Debug, Default)]
pub(crate) struct SimulatedRegion {
    pub(crate) made: Vec<SimulatedSnapshot>,
    pub(crate) is_down: bool,
    pub(crate) quota: u32,
}

#[derive(Debug)]
pub(crate) struct SimulatedAccount {
    pub(crate) rng: SmallRng,
    pub(crate) start: Instant,
    pub(crate) regions: BTreeMap<&'static str, SimulatedRegion>,
    pub(crate) databases: BTreeMap<String, SimulatedInstance>,
    /// By database: when RDS last refused a snapshot for the state of the instance.
    pub(crate) refused_at: BTreeMap<String, i64>,
    /// By region and database: when an original of another instance last took the identifier of a copy.
    pub(crate) id_taken_at: BTreeMap<(&'static str, String), i64>,
    pub(crate) faults: RdsFaults,
    pub(crate) durations: Durations,
    pub(crate) floor: usize,
    /// Violated invariants.
    pub(crate) violations: Vec<String>,
    pub(crate) calls: u64,
    /// Whether every call is printed: to replay a failed history.
    pub(crate) is_verbose: bool,
    /// A hash of every call and its outcome.
    pub(crate) digest: DefaultHasher,
}

impl SimulatedAccount {
    pub(crate) fn now(&self) -> i64 {
        BEGINNING + self.start.elapsed().as_secs().cast_signed()
    }

    fn lag(&mut self) -> i64 {
        if self.faults.list_lag == 0 { 0 } else { self.rng.random_range(0..=self.faults.list_lag) }
    }

    /// The state of a database as RDS reports it. While RDS takes a snapshot it is `backing-up`.
    pub(crate) fn status(&mut self, database: &str) -> &'static str {
        let now = self.now();
        if self.is_being_taken(database) {
            return "backing-up";
        }
        let Some(instance) = self.databases.get_mut(database) else { return "deleting" };
        instance.status(now, &mut self.rng)
    }

    /// Whether RDS is taking a snapshot of the database.
    fn is_being_taken(&self, database: &str) -> bool {
        let now = self.now();
        self.regions.values().flat_map(|region| &region.made).any(|made| {
            made.database == database
                && made.source.is_none()
                && !made.is_of_another_instance
                && made.is_in_progress(now)
        })
    }

    pub(crate) fn violation(&mut self, what: String) {
        let now = Timestamp::from_unix_seconds(self.now());
        self.violations.push(format!("{now}: {what}"));
    }

    /// Drops snapshots that no list shows any more, to limit memory over two simulated years.
    pub(crate) fn drop_deleted(&mut self) {
        let now = self.now();
        for region in self.regions.values_mut() {
            region.made.retain(|made| made.deleted_at.is_none() || made.listed_until > now);
        }
    }

    pub(crate) fn is_anything_in_progress(&self) -> bool {
        let now = self.now();
        self.regions.values().flat_map(|region| &region.made).any(|made| made.is_in_progress(now))
    }

    /// Whether an original of another instance has the identifier in any region.
    pub(crate) fn is_taken_by_namesake(&self, id: &str) -> bool {
        let mut made = self.regions.values().flat_map(|region| &region.made);
        made.any(|made| made.id == id && made.is_of_another_instance)
    }

    pub(crate) fn used(&self, region: &str) -> u32 {
        let there = &self.regions[region].made;
        there.iter().filter(|made| made.deleted_at.is_none()).count() as u32 + self.faults.others_snapshots
    }

    pub(crate) fn add(&mut self, region: &'static str, mut made: SimulatedSnapshot) -> Result<(), RdsError> {
        let (now, lag) = (self.now(), self.lag());
        let is_identifier = |id: &str| {
            id.len() <= 255
                && id.starts_with(|first: char| first.is_ascii_alphabetic())
                && !id.ends_with('-')
                && !id.contains("--")
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_identifier(&made.id) || made.tag.is_none() {
            self.violation(format!(
                "{} is no valid identifier of a snapshot, or the snapshot has no tag",
                made.id
            ));
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
        let encrypted = self.databases.get(database).ok_or(RdsError::NotFound)?.is_encrypted;
        if self.is_being_taken(database) {
            return Err(RdsError::NotInState);
        }
        if !SNAPSHOT_STATES.contains(&self.status(database)) {
            self.refused_at.insert(database.to_owned(), now);
            return Err(RdsError::NotInState);
        }
        let takes = self.rng.random_range(self.durations.create / 4..=self.durations.create);
        let fails = self.rng.random_bool(self.faults.failing);
        self.add(
            region,
            SimulatedSnapshot {
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
                is_of_another_instance: false,
                deleted_at: None,
                listed_from: now,
                listed_until: now,
                encrypted,
            },
        )
    }

    pub(crate) fn copy(&mut self, region: &'static str, request: CopyRequest<'_>) -> Result<(), RdsError> {
        let now = self.now();
        let Some((source_region, id)) = parse(request.source_arn) else {
            self.violation(format!("{} is no ARN", request.source_arn));
            return Err(RdsError::NotFound);
        };
        let Some((&source_region, there)) = self.regions.get_key_value(source_region.as_str()) else {
            return Err(RdsError::NotFound);
        };
        if there.is_down {
            return Err(RdsError::Unreachable("the source region is down".into()));
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
            self.violation(format!("{id}: the source is a copy, or fairdrop did not make it"));
        }
        let is_of_region = |key: &str| key.starts_with(&format!("arn:aws:kms:{region}:"));
        if source.encrypted && !request.kms_key_id.is_some_and(is_of_region) {
            self.violation(format!("{id}: copied without a key of {region}"));
            return Err(RdsError::Refused {
                code: "KMSKeyNotAccessibleFault".into(),
                message: String::new(),
            });
        }
        let in_progress =
            self.regions[region].made.iter().filter(|made| made.source.is_some() && made.is_in_progress(now));
        if in_progress.clone().count() + self.faults.others_copies >= IN_PROGRESS_LIMIT {
            return Err(RdsError::TooManyCopies);
        }
        // Copies of one database wait for each other.
        let turn = in_progress
            .filter(|made| made.database == source.database && !made.hangs)
            .map(|made| made.ready_at)
            .max();
        let takes = self.rng.random_range(self.durations.copy / 4..=self.durations.copy);
        let hangs = self.rng.random_bool(self.faults.hanging);
        let takes = if hangs { 3 * 86_400 } else { takes };
        let fails = self.rng.random_bool(self.faults.failing);
        self.add(
            region,
            SimulatedSnapshot {
                id: request.id.to_owned(),
                tag: Some(request.tag.1.to_owned()).filter(|_| request.tag.0 == TAG_KEY),
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
            self.violation(format!("{id} in {region} was deleted, and fairdrop did not make it"));
        }
        if made.is_usable(now) {
            if usable.len() <= self.floor {
                self.violation(format!(
                    "{id} in {region} was deleted with only {} usable snapshots remaining",
                    usable.len()
                ));
            }
            if usable.iter().max() == Some(&made.taken_at) {
                self.violation(format!("{id} in {region} was deleted, and it was the newest"));
            }
        }
        // A region that does not answer may be copying any original. If the quota runs out, originals older than
        // a day may go.
        let is_full = self.regions[region].quota.saturating_sub(self.used(region)) <= 25;
        let is_throttled = self.faults.throttled > 0.0;
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
        // States in lists are old, too.
        let listed_at = now - self.lag();
        let listed = self.regions[region]
            .made
            .iter()
            .filter(|made| made.listed_from <= now && (made.deleted_at.is_none() || now < made.listed_until));
        listed.map(|made| show(made, region, listed_at)).collect()
    }
}

pub(crate) fn show(made: &SimulatedSnapshot, region: &str, at: i64) -> Snapshot {
    let is_ready = made.ready_at <= at;
    Snapshot {
        id: made.id.clone(),
        arn: format!("arn:aws:rds:{region}:111122223333:snapshot:{}", made.id),
        database: made.database.clone(),
        state: match (is_ready, made.fails) {
            (false, _) => SnapshotState::InProgress,
            (true, false) => SnapshotState::Available,
            (true, true) => SnapshotState::Failed,
        },
        taken_at: is_ready.then(|| Timestamp::from_unix_seconds(made.taken_at)),
        created_at: is_ready.then(|| Timestamp::from_unix_seconds(made.begun_at)),
        database_time: None,
        is_encrypted: made.encrypted,
        is_copy: made.source.is_some(),
        tag: made.tag.clone(),
        last_drill: None,
    }
}

fn parse(arn: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts[..] {
        ["arn", "aws", "rds", region, _, "snapshot", id] => Some((region.to_owned(), id.to_owned())),
        _ => None,
    }
}
