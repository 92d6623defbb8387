//! Simulated drills: invocations that are killed at any point, calls that fail or whose answers are lost, restores that
//! fail, and snapshots that come and go meanwhile. The result of a finished check is never lost.

use crate::platform::Platform;
use crate::step::DrillInstance;
use crate::{DrillError, DrillSettings, LedgerCheck, SavedCheck, drill, dry_run};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rds::{RdsError, Snapshot, SnapshotState, Timestamp};
use std::cell::{RefCell, RefMut};
use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SEEDS: u64 = 3_000;
const START: i64 = 1_795_000_000;
/// Lambda's limit of an invocation, less the time for its answer.
const LIMIT: Duration = Duration::from_secs(880);
/// From this invocation on nothing fails any more: the drill must end.
const CALM_FROM: u32 = 30;
const MAX_INVOCATIONS: u32 = 60;

struct World {
    draws: SmallRng,
    seconds: i64,
    is_calm: bool,
    snapshots: Vec<Snapshot>,
    /// The number of snapshots so far.
    number: i64,
    instance: Option<DrillInstance>,
    /// When the instance leaves its status.
    leaves_at: i64,
    /// RDS refuses to save a result.
    refuses_to_save: bool,
    /// Restores that a process has checked to the end: snapshot, and when the restore began.
    finished: BTreeSet<(String, Option<Timestamp>)>,
    faults: Vec<String>,
}

struct Simulation(RefCell<World>);

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            draws: SmallRng::seed_from_u64(seed),
            seconds: START,
            is_calm: false,
            snapshots: Vec::new(),
            number: 0,
            instance: None,
            leaves_at: 0,
            refuses_to_save: false,
            finished: BTreeSet::new(),
            faults: Vec::new(),
        };
        world.refuses_to_save = world.draws.random_bool(0.1);
        for _ in 0..3 {
            world.take_snapshot();
        }
        if world.draws.random_bool(0.03) {
            world.instance = Some(DrillInstance {
                status: "available".into(),
                endpoint: Some(("foreign".into(), 5432)),
                is_own: false,
                snapshot: String::new(),
                recovery_point: None,
                started_at: None,
            });
        }
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(self.seconds)
    }

    fn take_snapshot(&mut self) {
        self.number += 1;
        let state = match self.draws.random_range(0..10) {
            0 => SnapshotState::Failed,
            _ => SnapshotState::Available,
        };
        self.snapshots.push(Snapshot {
            id: format!("drops-ledger-{}", self.number),
            arn: format!("arn:{}", self.number),
            database: "ledger".into(),
            state,
            taken_at: Some(Timestamp::from_unix_seconds(self.seconds - 60 + self.number)),
            created_at: None,
            database_time: None,
            is_encrypted: true,
            is_copy: false,
            tag: Some("drops".into()),
            last_drill: None,
        });
    }

    /// Time passes: snapshots are taken and pruned, and RDS goes on.
    fn pass(&mut self, seconds: i64) {
        self.seconds += seconds;
        if self.draws.random_bool(0.02) {
            self.take_snapshot();
        }
        // The snapshot that is checked may be among them.
        if self.snapshots.len() > 2 && self.draws.random_bool(0.01) {
            self.snapshots.remove(0);
        }
        if self.leaves_at > self.seconds {
            return;
        }
        let Some(instance) = &mut self.instance else { return };
        let next = match (instance.status.as_str(), self.draws.random_range(0..10)) {
            ("deleting", _) => return self.instance = None,
            ("creating", 0) => "incompatible-restore",
            ("creating", 1) => "failed",
            ("creating", 2..=4) => "backing-up",
            // RDS user guide: the instance is fully operational, and may stay so for more than a day.
            ("creating", 5) => "storage-optimization",
            ("creating", _) | ("backing-up" | "modifying", _) => "available",
            _ => return,
        };
        next.clone_into(&mut instance.status);
        instance.endpoint = Some(("restored".into(), 5432));
        self.leaves_at = self.seconds + self.draws.random_range(0..900);
    }

    /// The saved result of the restore of `instance`.
    fn is_saved(&self, instance: &DrillInstance) -> bool {
        let of_restore = self.snapshots.iter().filter(|one| one.id == instance.snapshot);
        SavedCheck::newest(of_restore).is_some_and(|saved| Some(saved.started_at) == instance.started_at)
    }

    fn check_deletion(&mut self) {
        let Some(instance) = self.instance.clone() else { return };
        let exists = self.snapshots.iter().any(|one| one.id == instance.snapshot);
        let is_finished = self.finished.contains(&(instance.snapshot.clone(), instance.started_at));
        if !instance.is_own {
            self.faults.push("an instance that is not the drill's is deleted".into());
        } else if !is_finished && !instance.status.contains("incompatible") && instance.status != "failed" {
            self.faults.push("the instance is deleted before it was checked".into());
        } else if exists && !self.refuses_to_save && !self.is_saved(&instance) {
            self.faults.push("the instance is deleted, and its result is not saved".into());
        }
    }
}

impl Simulation {
    fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// A call of RDS. The process may be killed before or after it, it may fail, and its answer may be lost.
    async fn call<T>(&self, effect: impl FnOnce(&mut World) -> Result<T, RdsError>) -> Result<T, RdsError> {
        let (answer, is_killed) = self.fate(effect);
        if is_killed {
            std::future::pending::<()>().await;
        }
        answer
    }

    /// The answer of a call, and whether the process is killed.
    fn fate<T>(&self, effect: impl FnOnce(&mut World) -> Result<T, RdsError>) -> (Result<T, RdsError>, bool) {
        let lost = || Err(RdsError::Unreachable("the call timed out".into()));
        let mut world = self.world();
        let seconds = world.draws.random_range(0..4);
        world.pass(seconds);
        let fate = if world.is_calm { 99 } else { world.draws.random_range(0..100) };
        match fate {
            0 => (lost(), true),
            1 => (effect(&mut world), true),
            2 => (Err(RdsError::Throttled), false),
            3 => (lost(), false),
            4 => (effect(&mut world).and_then(|_| lost()), false),
            _ => (effect(&mut world), false),
        }
    }
}

impl Platform for Simulation {
    fn now(&self) -> Timestamp {
        self.world().now()
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs((self.world().seconds - START).unsigned_abs())
    }

    async fn pause(&self, time: Duration) {
        self.world().seconds += i64::try_from(time.as_secs()).unwrap();
    }

    async fn own_snapshots(&self) -> Result<Vec<Snapshot>, RdsError> {
        self.call(|world| Ok(world.snapshots.clone())).await
    }

    async fn instance(&self) -> Result<Option<DrillInstance>, RdsError> {
        self.call(|world| Ok(world.instance.clone())).await
    }

    async fn restore(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), RdsError> {
        self.call(|world| {
            if world.instance.is_some() {
                return Err(RdsError::Exists);
            }
            if world.snapshots.iter().all(|one| one.id != snapshot.id) {
                return Err(RdsError::NotFound);
            }
            world.instance = Some(DrillInstance {
                status: "creating".into(),
                endpoint: None,
                is_own: true,
                snapshot: snapshot.id.clone(),
                recovery_point: snapshot.recovery_point(),
                started_at: Some(now),
            });
            world.leaves_at = world.seconds + world.draws.random_range(300..4_000);
            Ok(())
        })
        .await
    }

    async fn check(&self, _: &str, _: u16, _: Option<Timestamp>, limit: Duration) -> LedgerCheck {
        let took = self.world().draws.random_range(1..180).min(limit.as_secs());
        self.world().seconds += i64::try_from(took).unwrap();
        // The process may be killed meanwhile.
        drop(self.call(|_| Ok(())).await);
        let mut world = self.world();
        if let Some(instance) = world.instance.clone() {
            world.finished.insert((instance.snapshot, instance.started_at));
        }
        let passed = world.draws.random_bool(0.8);
        let problems = if passed { Vec::new() } else { vec!["2 units are missing".into()] };
        LedgerCheck { passed, problems, ..LedgerCheck::default() }
    }

    async fn save(&self, snapshot: &Snapshot, saved: &SavedCheck) -> Result<(), RdsError> {
        self.call(|world| {
            if world.refuses_to_save {
                return Err(RdsError::Denied("rds:AddTagsToResource".into()));
            }
            let found = world.snapshots.iter_mut().find(|one| one.arn == snapshot.arn);
            found.ok_or(RdsError::NotFound)?.last_drill = Some(saved.tag_value());
            Ok(())
        })
        .await
    }

    async fn delete(&self) -> Result<(), RdsError> {
        self.call(|world| {
            let Some(status) = world.instance.as_ref().map(|instance| instance.status.clone()) else {
                return Ok(());
            };
            if matches!(status.as_str(), "creating" | "deleting") {
                return Err(RdsError::NotInState);
            }
            world.check_deletion();
            if let Some(instance) = &mut world.instance {
                instance.status = "deleting".into();
            }
            world.leaves_at = world.seconds + world.draws.random_range(10..900);
            Ok(())
        })
        .await
    }
}

/// The answer of an invocation; `None` if its process was killed.
fn invoke<T>(work: impl Future<Output = T>) -> Option<T> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Plays one history, and returns its faults and the number of its invocations.
fn play(seed: u64) -> (Vec<String>, u32) {
    let settings = DrillSettings {
        region: "eu-west-1".into(),
        database: "ledger".into(),
        instance_id: "drops-drill-ledger".into(),
        class: "db.t4g.medium".into(),
        poll: Duration::from_secs(10),
    };
    let simulation = Simulation(RefCell::new(World::new(seed)));
    let is_foreign = simulation.world().instance.is_some();
    let mut invocations = 0;
    let ended = loop {
        invocations += 1;
        simulation.world().is_calm = invocations >= CALM_FROM;
        match invoke(drill(&simulation, &settings, LIMIT)) {
            Some(Ok(report)) if report.state == "done" => break Some(report),
            Some(Err(DrillError::Foreign(_))) if is_foreign => break None,
            _ if invocations == MAX_INVOCATIONS => break None,
            _ => {}
        }
        let mut world = simulation.world();
        let gap = world.draws.random_range(0..3_600);
        world.pass(gap);
    };
    let mut faults = std::mem::take(&mut simulation.world().faults);
    simulation.world().is_calm = true;
    let later = invoke(dry_run(&simulation, &settings));
    let saved = later.and_then(Result::ok).and_then(|report| report.last_check);
    let world = simulation.world();
    match ended {
        None if !is_foreign => faults.push("the drill never ended".into()),
        Some(report) if report.check.is_none() => faults.push("it is done, and has no result".into()),
        Some(report) => {
            let exists = world.snapshots.iter().any(|one| Some(&one.id) == report.snapshot.as_ref());
            let is_there =
                saved.is_some_and(|saved| Some(saved.check.passed) == report.check.map(|it| it.passed));
            if exists && !world.refuses_to_save && !is_there {
                faults.push("it is done, and its result is not the newest that is saved".into());
            }
        }
        None => {}
    }
    (faults, invocations)
}

#[test]
fn no_finished_check_is_lost_whatever_is_killed_or_refused() {
    let (mut faulty, mut invocations) = (Vec::new(), 0);
    for seed in 0..SEEDS {
        let (faults, used) = play(seed);
        invocations += used;
        if !faults.is_empty() {
            faulty.push(format!("seed {seed}: {faults:?}"));
        }
    }
    println!("{SEEDS} histories with {invocations} invocations");
    assert!(faulty.is_empty(), "{}", faulty[..faulty.len().min(10)].join("\n"));
}
