//! DB instances of the simulated account. Their states change by themselves: backups, modifications, storage that
//! RDS grows, and storage that is full before RDS may grow it again.

use rand::Rng;
use rand::rngs::SmallRng;

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
/// RDS changes the storage again after this time at the earliest.
const STORAGE_COOLDOWN: i64 = 6 * HOUR;
/// How long storage optimization takes at most. It can exceed a day.
const LONGEST_OPTIMIZATION: i64 = 26 * HOUR;

/// One DB instance. It is `available` or in `storage-optimization` unless something interrupts that.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedInstance {
    pub(crate) is_encrypted: bool,
    /// The mean time in seconds between two interruptions.
    calm: i64,
    interruption: Option<Interruption>,
    /// The end of the interruption, or the beginning of the next one.
    until: i64,
    optimized_until: i64,
    storage_changed_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    BackingUp,
    Modifying,
    Maintenance,
    /// RDS grows the storage. `storage-optimization` follows.
    Growing,
    /// The storage filled up while RDS could not grow it.
    Full,
    /// `modifying` until the history ends.
    Frozen,
}

impl SimulatedInstance {
    pub(crate) fn new(is_encrypted: bool, calm: i64, now: i64) -> Self {
        let long_ago = now - STORAGE_COOLDOWN;
        let storage = (long_ago, long_ago);
        Self {
            is_encrypted,
            calm,
            interruption: None,
            until: now + calm,
            optimized_until: storage.0,
            storage_changed_at: storage.1,
        }
    }

    /// The state as RDS reports it. Plays everything that happened until `now`.
    pub(crate) fn status(&mut self, now: i64, rng: &mut SmallRng) -> &'static str {
        while self.until <= now && self.interruption != Some(Interruption::Frozen) {
            let at = self.until;
            match self.interruption {
                None => self.interrupt(at, rng),
                Some(Interruption::Full) => self.begin(Interruption::Growing, at, rng),
                Some(ended) => {
                    if ended == Interruption::Growing {
                        self.storage_changed_at = at;
                        let longest = [30 * MINUTE, 5 * HOUR, LONGEST_OPTIMIZATION][rng.random_range(0..3)];
                        self.optimized_until = at + rng.random_range(10 * MINUTE..=longest);
                    }
                    self.interruption = None;
                    self.until = at + rng.random_range(10 * MINUTE..=2 * self.calm);
                }
            }
        }
        match self.interruption {
            None if now < self.optimized_until => "storage-optimization",
            None => "available",
            Some(Interruption::BackingUp) => "backing-up",
            Some(Interruption::Modifying | Interruption::Growing | Interruption::Frozen) => "modifying",
            Some(Interruption::Maintenance) => "maintenance",
            Some(Interruption::Full) => "storage-full",
        }
    }

    /// From now on RDS takes no snapshot of the instance.
    pub(crate) fn freeze(&mut self) {
        self.interruption = Some(Interruption::Frozen);
    }

    fn interrupt(&mut self, at: i64, rng: &mut SmallRng) {
        let may_grow = at >= self.may_grow_at();
        let next = match rng.random_range(0..10) {
            0..5 => Interruption::BackingUp,
            5 => Interruption::Modifying,
            6 => Interruption::Maintenance,
            // Space runs low.
            _ if may_grow => Interruption::Growing,
            _ => Interruption::Full,
        };
        self.begin(next, at, rng);
    }

    fn begin(&mut self, next: Interruption, at: i64, rng: &mut SmallRng) {
        let ends_after = match next {
            Interruption::BackingUp => rng.random_range(MINUTE..=30 * MINUTE),
            Interruption::Modifying | Interruption::Growing => rng.random_range(MINUTE..=20 * MINUTE),
            Interruption::Maintenance => rng.random_range(5 * MINUTE..=HOUR),
            // RDS grows the storage as soon as it may, or an operator raises the upper limit.
            Interruption::Full | Interruption::Frozen => {
                (self.may_grow_at() - at).max(0) + rng.random_range(5 * MINUTE..=2 * HOUR)
            }
        };
        (self.interruption, self.until) = (Some(next), at + ends_after);
    }

    fn may_grow_at(&self) -> i64 {
        self.optimized_until.max(self.storage_changed_at + STORAGE_COOLDOWN)
    }
}
