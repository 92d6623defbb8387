//! One history: sellers, executions, operators and accidents, all from one seed.

use crate::failover_histories::world::{FailoverWorld, MAIN, NAMES, SECOND, STANDBY, TIMING};
use lease::LeaseRecord;
use region_failover::{Decision, FailoverAction, Loss, Mode, Run, RunState};
use region_failover::{Observation, Obstacle};
use shared::permit::Permit;
use shared::stamp::Stamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A history that has not ended by then counts as endless. Microseconds.
const LIMIT: u64 = 3 * 3_600 * SECOND;
/// How long the simulation goes on after the end of the run. Microseconds.
const AFTERWARDS: u64 = 40 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Renew(usize),
    Renewal { seller: usize, sent: u64, delay: u64 },
    Renewed { seller: usize, record: LeaseRecord },
    Sell(usize),
    Drain { region: usize, permit: Permit },
    Record { region: usize, buyer: u64, permit: Permit },
    Copy,
    Copied { reservations: usize, sales: usize, beat: u64 },
    Start,
    Observe(usize),
    Observed { execution: usize, observed_at: Stamp, observation: Result<Observation, Obstacle> },
    Do { execution: usize, action: FailoverAction, forgotten: bool },
    Accident(u8),
    Heal,
}

/// A process that sells.
struct Seller {
    region: usize,
    clock: i64,
    known: Option<LeaseRecord>,
}

/// An execution of the failover, with the run as it has read it.
struct Execution {
    run: Run,
    version: u64,
    clock: i64,
}

/// How a history ended.
#[derive(Debug)]
pub(crate) struct HistoryEnd {
    pub(crate) faults: Vec<String>,
    pub(crate) state: RunState,
    pub(crate) kills: u32,
    /// What happened, in order: the same for the same seed.
    pub(crate) digest: u64,
    pub(crate) gap_ms: Option<u64>,
}

struct FailoverHistory {
    world: FailoverWorld,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    sellers: Vec<Seller>,
    executions: Vec<Option<Execution>>,
    /// As the table has it.
    run: Run,
    version: u64,
    kills: u32,
    ended_at: Option<u64>,
    digest: u64,
}

/// Plays the history of `seed`.
pub(crate) fn play(seed: u64) -> HistoryEnd {
    let mut world = FailoverWorld::new(seed);
    let is_planned = world.chance(0.4);
    // A datastore that hangs does so until it is asked again.
    world.hangs_for = world.chance(0.1).then_some(u64::MAX / 4);
    let accepts_all = world.chance(0.8);
    let accepted = Loss {
        ms: if accepts_all { u64::MAX } else { world.within(0, 40_000) },
        sales: if accepts_all { world.stock } else { world.within(0, 20) },
    };
    let mode = if is_planned { Mode::Planned } else { Mode::Forced { accepted } };
    let withhold = if is_planned { 0 } else { accepted.sales };
    let mut run = Run::new("run", mode, (NAMES[MAIN], NAMES[STANDBY]), 1, u32::try_from(withhold).unwrap());
    run.skip_cooldown = world.chance(0.5);
    let mut history = FailoverHistory {
        world,
        queue: BinaryHeap::new(),
        events: Vec::new(),
        sellers: Vec::new(),
        executions: Vec::new(),
        run,
        version: 1,
        kills: 0,
        ended_at: None,
        digest: seed,
    };
    history.begin();
    history.go_on();
    let mut world = history.world;
    world.judge(is_planned, withhold, history.run.state == RunState::Aborted);
    if history.ended_at.is_none() {
        world.faults.push(format!("the run never ended: {:?} at {:?}", history.run.state, history.run.step));
    }
    let gap_ms = world.first_new_sale.map(|first| (first - world.last_old_sale.min(first)) / 1_000);
    HistoryEnd {
        faults: world.faults,
        state: history.run.state,
        kills: history.kills,
        digest: history.digest,
        gap_ms,
    }
}

impl FailoverHistory {
    fn begin(&mut self) {
        for region in [MAIN, MAIN, STANDBY, STANDBY] {
            let clock = self.world.within(0, 2_000_000).cast_signed() - 1_000_000;
            self.sellers.push(Seller { region, clock, known: None });
            let seller = self.sellers.len() - 1;
            self.after(seller as u64 * 1_000, Event::Renew(seller));
            self.after(seller as u64 * 1_000 + 300_000, Event::Sell(seller));
        }
        self.after(100_000, Event::Copy);
        let accidents = self.world.within(0, 3);
        for _ in 0..accidents {
            let (at, kind) = (self.world.within(0, 60 * SECOND), self.world.within(0, 5));
            self.after(at, Event::Accident(u8::try_from(kind).unwrap()));
        }
        let start = self.world.within(SECOND, 30 * SECOND);
        self.after(start, Event::Start);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.events.push(Some(event));
        let number = self.events.len();
        self.queue.push(Reverse((self.world.now + delay, number as u64, number - 1)));
    }

    /// How long a message takes: mostly short, rarely very long.
    fn delay(&mut self) -> u64 {
        match self.world.within(0, 99) {
            0..=89 => self.world.within(500, 150_000),
            90..=97 => self.world.within(SECOND, 5 * SECOND),
            // A frozen process, thawed.
            _ => self.world.within(5 * SECOND, 90 * SECOND),
        }
    }

    fn go_on(&mut self) {
        let began = self.world.now;
        while let Some(Reverse((at, _, place))) = self.queue.pop() {
            self.world.now = at;
            if at - began > LIMIT || self.ended_at.is_some_and(|end| at > end + AFTERWARDS) {
                return;
            }
            self.world.settle();
            if let Some(event) = self.events.get_mut(place).and_then(Option::take) {
                self.digest =
                    self.digest.rotate_left(7) ^ at ^ (place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                self.happen(event);
            }
            if !self.world.faults.is_empty() {
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Renew(seller) => {
                let region = self.sellers[seller].region;
                if self.world.runs(region) && !self.world.table_cut[region] {
                    let (there, back) = (self.delay(), self.delay());
                    let sent = self.world.now;
                    self.after(there, Event::Renewal { seller, sent, delay: back });
                }
                self.after(3 * SECOND, Event::Renew(seller));
            }
            Event::Renewal { seller, sent, delay } => {
                let (region, clock) = (self.sellers[seller].region, self.sellers[seller].clock);
                let stamped = Stamp::from_micros(sent.saturating_add_signed(clock)).unwrap();
                if let Some(renewed) = self.world.table.renewed(NAMES[region], stamped, TIMING) {
                    self.world.table = renewed;
                }
                let record = self.world.table.clone();
                self.after(delay, Event::Renewed { seller, record });
            }
            Event::Renewed { seller, record } => {
                let known = &mut self.sellers[seller].known;
                if known.as_ref().is_none_or(|known| known.version < record.version) {
                    *known = Some(record);
                }
            }
            Event::Sell(seller) => self.sell(seller),
            Event::Drain { region, permit } => self.world.drain(region, permit),
            Event::Record { region, buyer, permit } => self.world.record(region, buyer, permit),
            Event::Copy => {
                let (reservations, sales) =
                    (self.world.regions[MAIN].reservations.len(), self.world.regions[MAIN].sales.len());
                if !self.world.regions[MAIN].is_dead && !self.world.cut[STANDBY] {
                    let (lag, beat) = (self.world.within(1_000, 2 * SECOND), self.world.now);
                    self.after(lag, Event::Copied { reservations, sales, beat });
                }
                self.after(500_000, Event::Copy);
            }
            Event::Copied { reservations, sales, beat } => self.world.copy(reservations, sales, beat),
            Event::Start => self.start(),
            Event::Observe(execution) => self.observe(execution),
            Event::Observed { execution, observed_at, observation } => {
                self.observed(execution, observed_at, &observation)
            }
            Event::Do { execution, action, forgotten } => {
                let withhold = u64::from(self.run.withhold);
                self.world.perform(&action, withhold);
                if !forgotten {
                    let pause = self.world.within(1_000, SECOND);
                    self.after(pause, Event::Observe(execution));
                }
            }
            Event::Accident(kind) => self.accident(kind),
            Event::Heal => {
                self.world.cut = [false; 2];
                self.world.table_cut = [false; 2];
                self.world.main_unpointable = false;
            }
        }
    }

    fn sell(&mut self, seller: usize) {
        let Seller { region, clock, .. } = self.sellers[seller];
        let now = self.world.clock(clock);
        let permit =
            self.sellers[seller].known.as_ref().and_then(|known| known.permit(NAMES[region], now, TIMING));
        if let (Some(permit), true) = (permit, self.world.runs(region)) {
            let delay = self.delay();
            self.after(delay, Event::Drain { region, permit });
            let own = &self.world.regions[region];
            let open: Vec<u64> =
                own.reservations.iter().filter(|buyer| !own.sales.contains(buyer)).take(4).copied().collect();
            for buyer in open {
                let delay = self.delay();
                self.after(delay, Event::Record { region, buyer, permit });
            }
        }
        let pause = self.world.within(SECOND, 3 * SECOND);
        self.after(pause, Event::Sell(seller));
    }

    /// The operator starts an execution: the first, or another one after a kill, or one too many.
    fn start(&mut self) {
        let is_over = self.ended_at.is_some() || matches!(self.run.state, RunState::Aborted | RunState::Done);
        if !is_over {
            let clock = self.world.within(0, 2_000_000).cast_signed() - 1_000_000;
            let mut run = self.run.clone();
            run.resume();
            self.executions.push(Some(Execution { run, version: self.version, clock }));
            let execution = self.executions.len() - 1;
            self.after(0, Event::Observe(execution));
            if self.world.chance(0.03) {
                let mut run = self.run.clone();
                if run.abort("an operator") {
                    (self.run, self.version) = (run, self.version + 1);
                }
            }
            let again = self.world.within(20 * SECOND, 200 * SECOND);
            self.after(again, Event::Start);
        }
    }

    fn observe(&mut self, execution: usize) {
        let Some(Some(one)) = self.executions.get(execution) else { return };
        let (clock, kind) = (one.clock, one.run.observation_kind());
        let Some(kind) = kind else { return };
        if self.world.chance(0.01) {
            return self.kill(execution);
        }
        let observation = self.world.observe(kind, clock, NAMES[STANDBY]);
        let delay = self.delay();
        let observed_at = self.world.clock(clock);
        self.after(delay, Event::Observed { execution, observed_at, observation });
    }

    fn kill(&mut self, execution: usize) {
        self.kills += 1;
        self.executions[execution] = None;
    }

    fn observed(
        &mut self,
        execution: usize,
        observed_at: Stamp,
        observation: &Result<Observation, Obstacle>,
    ) {
        let Some(Some(mut one)) = self.executions.get_mut(execution).map(Option::take) else { return };
        if self.world.chance(0.01) {
            return self.kill(execution);
        }
        let next = one.run.observed(observation, observed_at, TIMING);
        // Saved first, and only by an execution that has read the newest version.
        if one.version != self.version {
            self.kills += 1;
            return;
        }
        (self.run, self.version) = (one.run.clone(), self.version + 1);
        one.version = self.version;
        match next {
            Decision::Do(action) => {
                let (delay, forgotten) = (self.delay(), self.world.chance(0.02));
                if self.world.chance(0.05) {
                    // Sent twice, and the second one late.
                    let late = self.delay() + self.delay();
                    self.after(late, Event::Do { execution, action: action.clone(), forgotten: true });
                }
                self.after(delay, Event::Do { execution, action, forgotten });
                self.kills += u32::from(forgotten);
            }
            Decision::Again => self.after(1_000, Event::Observe(execution)),
            Decision::Pause => {
                let pause = self.world.within(500_000, 5 * SECOND);
                self.after(pause, Event::Observe(execution));
            }
            Decision::End => {
                let may_be_fixed = self.run.state == RunState::Degraded && self.ended_at.is_none();
                if !may_be_fixed || self.world.chance(0.5) {
                    self.ended_at.get_or_insert(self.world.now);
                }
                return;
            }
        }
        self.executions[execution] = Some(one);
    }

    fn accident(&mut self, kind: u8) {
        match kind {
            0 => self.world.regions[MAIN].is_dead = true,
            1 => self.world.cut[STANDBY] = true,
            2 => self.world.cut[MAIN] = true,
            3 => self.world.table_cut[MAIN] = true,
            4 => self.world.table_cut[STANDBY] = true,
            _ => {
                self.world.cut = [true; 2];
                self.world.table_cut[MAIN] = true;
                self.world.main_unpointable = true;
            }
        }
        let heal = self.world.within(5 * SECOND, 900 * SECOND);
        self.after(heal, Event::Heal);
    }
}
