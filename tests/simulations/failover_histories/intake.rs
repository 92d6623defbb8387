//! A region's order-intake in Lambda: its configuration, the versions published from it, and the alias by which it is
//! invoked. What is done next is decided by the failover's own code.

use crate::failover_histories::draws::{Called, Draws, accepted, not_now};
use crate::failover_histories::world::SECOND;
use region_failover::servers::{
    Described, PublishedStep, Readiness, RepointingStep, after_publishing, next_step, serves_orders,
};

/// What an update or a publication may be refused with, by Lambda's service model in botocore: another operation is in
/// progress, a changed revision, too many requests, a fault of Lambda.
const REFUSALS: [&str; 4] = [
    "ResourceConflictException",
    "PreconditionFailedException",
    "TooManyRequestsException",
    "ServiceException",
];
/// What Lambda may make of a version. One that was published long ago and never invoked is inactive.
const BECOMES: [Readiness; 10] = [
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Active,
    Readiness::Inactive,
    Readiness::Broken,
];

#[derive(Clone, Copy, Debug)]
struct Version {
    /// The Redis to which it sends orders.
    redis: u32,
    readiness: Readiness,
    /// When it leaves the state `Pending`, and for which.
    becomes: Option<(u64, Readiness)>,
}

#[derive(Debug)]
pub(crate) struct Intake {
    redis: u32,
    /// When the update ends that is in progress, and the Redis that it sets; `None` if it fails.
    update: Option<(u64, Option<u32>)>,
    has_failed: bool,
    /// Whether it was changed since its last version was published.
    is_changed: bool,
    versions: Vec<Version>,
    /// The version that serves orders.
    alias: usize,
    pub(crate) has_named_useless: bool,
}

impl Intake {
    /// It sends orders to the old main.
    pub(crate) fn new() -> Self {
        Self {
            redis: 0,
            update: None,
            has_failed: false,
            is_changed: false,
            versions: vec![Version { redis: 0, readiness: Readiness::Active, becomes: None }],
            alias: 0,
            has_named_useless: false,
        }
    }

    pub(crate) fn settle(&mut self, now: u64) {
        if let Some((_, redis)) = self.update.take_if(|(at, _)| *at <= now) {
            self.has_failed = redis.is_none();
            self.is_changed |= redis.is_some();
            self.redis = redis.unwrap_or(self.redis);
        }
        for version in &mut self.versions {
            if let Some((_, readiness)) = version.becomes.take_if(|(at, _)| *at <= now) {
                version.readiness = readiness;
            }
        }
    }

    fn own(&self, target: u32) -> Described {
        Described {
            readiness: Readiness::Active,
            is_changing: self.update.is_some(),
            has_failed: self.has_failed,
            finds_main: self.redis == target,
        }
    }

    fn named(&self, target: u32) -> Described {
        let Version { redis, readiness, .. } = self.versions[self.alias];
        Described { readiness, is_changing: false, has_failed: false, finds_main: redis == target }
    }

    /// Whether its orders go to the Redis `target`.
    pub(crate) fn serves(&self, target: u32) -> bool {
        serves_orders(self.named(target))
    }

    /// The next call that repoints it to the Redis `target`.
    pub(crate) fn step(&mut self, draws: &mut Draws, now: u64, target: u32) -> Called {
        match next_step(self.own(target), Some(self.named(target))) {
            RepointingStep::Done | RepointingStep::Wait | RepointingStep::Wake => accepted(),
            _ if draws.chance(0.1) => not_now(draws.one_of(&REFUSALS)),
            RepointingStep::Update => self.change(draws, now, target),
            RepointingStep::Publish => self.publish(draws, now),
        }
    }

    /// `UpdateFunctionConfiguration`. A failed update changes nothing.
    fn change(&mut self, draws: &mut Draws, now: u64, redis: u32) -> Called {
        let sets = (!draws.chance(0.1)).then_some(redis);
        self.update = Some((now + draws.within(SECOND, 60 * SECOND), sets));
        accepted()
    }

    /// `PublishVersion`, and `UpdateAlias` if that follows.
    fn publish(&mut self, draws: &mut Draws, now: u64) -> Called {
        if self.is_changed {
            let becomes = Some((now + draws.within(0, 120 * SECOND), draws.one_of(&BECOMES)));
            self.versions.push(Version { redis: self.redis, readiness: Readiness::Pending, becomes });
            self.is_changed = false;
        }
        let newest = self.versions.len() - 1;
        let readiness = self.versions[newest].readiness;
        match after_publishing(readiness) {
            PublishedStep::Wait => return accepted(),
            PublishedStep::Change => return self.change(draws, now, self.redis),
            _ if draws.chance(0.1) => return not_now(draws.one_of(&REFUSALS)),
            PublishedStep::Name => {}
            PublishedStep::NameAndWake => {
                let wakes = (now + draws.within(SECOND, 120 * SECOND), Readiness::Active);
                let version = &mut self.versions[newest];
                (version.readiness, version.becomes) = (Readiness::Pending, Some(wakes));
            }
        }
        self.has_named_useless |= matches!(readiness, Readiness::Pending | Readiness::Broken);
        self.alias = newest;
        accepted()
    }
}
