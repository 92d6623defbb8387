//! One history: sellers, executions, operators and accidents, all from one seed.

use crate::failover_histories::draws::Draws;
use crate::failover_histories::executions::{Execution, Sent};
use crate::failover_histories::sellers::{Seller, Work};
use crate::failover_histories::world::{FailoverWorld, MAIN, NAMES, SECOND, STANDBY, START, TIMING};
use lease::LeaseRecord;
use region_failover::run::StepLog;
use region_failover::{FailoverStep, Loss, Mode, Observation, Obstacle, Run, RunState};
use shared::permit::Permit;
use shared::stamp::Stamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A history that has not ended by then counts as endless. Microseconds.
const LIMIT: u64 = 4 * 3_600 * SECOND;
/// How long the simulation goes on after the end of the run. Microseconds.
const AFTERWARDS: u64 = 40 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Renew(usize),
    Renewal { seller: usize, sent: u64, delay: u64 },
    Renewed { seller: usize, record: LeaseRecord },
    Sell(usize),
    Drain { region: usize, permit: Permit },
    Work { region: usize, buyer: usize, permit: Permit, work: Work },
    Copy,
    Copied { written: (usize, usize), beat: u64 },
    Start,
    Command,
    Observe(usize),
    Observed { execution: usize, observed_at: Stamp, observation: Result<Observation, Obstacle> },
    Do(Box<Sent>),
    Accident(u64),
    Heal,
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

pub(crate) struct FailoverHistory {
    pub(crate) world: FailoverWorld,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// Places of `events` that are free again.
    free: Vec<usize>,
    number: u64,
    sellers: Vec<Seller>,
    /// What the operator does, in draws of its own.
    pub(crate) operator: Draws,
    /// Whether the operator has another Redis.
    pub(crate) has_spare: bool,
    pub(crate) executions: Vec<Option<Execution>>,
    /// As the table has it.
    pub(crate) run: Run,
    pub(crate) version: u64,
    pub(crate) kills: u32,
    /// How often the run has ended; a degraded run is resumed.
    pub(crate) passes: u32,
    /// Definite refusals of AWS.
    pub(crate) refusals: u32,
    pub(crate) ended_at: Option<u64>,
    digest: u64,
}

/// Plays the history of `seed`.
pub(crate) fn play(seed: u64) -> HistoryEnd {
    let mut world = FailoverWorld::new(seed);
    let accepted = (!world.draws.chance(0.4)).then(|| draw_accepted(&mut world));
    let mode = accepted.map_or(Mode::Planned, |accepted| Mode::Forced { accepted });
    let withhold = accepted.map_or(0, |accepted| u32::try_from(accepted.sales).unwrap());
    let mut run = Run::new("run", mode, (NAMES[MAIN], NAMES[STANDBY]), 1, withhold);
    run.skip_cooldown = world.draws.chance(0.5);
    let mut operator = Draws::new(seed.rotate_left(41) ^ 0x6F70_6572);
    let moved_before = draw_previous(&mut operator);
    run.set_previous(moved_before.map(|seconds| previous(seconds, START)).as_ref(), START / 1_000);
    run.order_logs = world.logs.regions();
    // An operator whose plan has named a log that cannot be read goes on without it.
    if run.mode.is_forced() {
        run.without_logs = world.unreadable_logs().into_keys().collect();
    }
    let mut history = FailoverHistory {
        world,
        queue: BinaryHeap::new(),
        events: Vec::new(),
        free: Vec::new(),
        number: 0,
        sellers: Vec::new(),
        has_spare: operator.chance(0.4),
        operator,
        executions: Vec::new(),
        run,
        version: 1,
        kills: 0,
        passes: 0,
        refusals: 0,
        ended_at: None,
        digest: seed,
    };
    history.begin();
    history.go_on();
    let mut world = history.world;
    world.judge(accepted.map(|accepted| accepted.sales), history.run.state == RunState::Aborted);
    if history.run.state == RunState::Done && world.old_database.has_open_connections(world.now) {
        world.fault("the run is done, and open connections to the old main's database go on");
    }
    if !world.logs.left_out().is_subset(&history.run.without_logs) {
        world.fault("an item was restored without a log, and no operator has decided that");
    }
    let waiting = (0..world.terms.len()).any(|item| world.logs.waits(item));
    if history.run.state == RunState::Done && waiting {
        world.fault("the run is done, and an item waits to be restored");
    }
    if history.run.state == RunState::Done && !world.logs.are_replayed_after(world.functions.last_elsewhere())
    {
        world.fault(
            "the run is done, and the last orders that a region sent to the old Redis are not replayed",
        );
    }
    if history.ended_at.is_none() && world.faults.is_empty() {
        world.fault(format!("the run never ended: {:?} at {:?}", history.run.state, history.run.step));
    }
    check_cooldown(&mut world, &history.run, moved_before);
    let gap_ms = world.first_new_sale.map(|first| (first - world.last_old_sale.min(first)) / 1_000);
    HistoryEnd {
        faults: world.faults,
        state: history.run.state,
        kills: history.kills,
        digest: history.digest,
        gap_ms,
    }
}

/// How long ago another failover has moved main, in seconds, if one has.
fn draw_previous(operator: &mut Draws) -> Option<u64> {
    operator.chance(0.2).then(|| operator.within(0, 3 * 3_600))
}

/// A run that moved main so long ago, whose outstanding step was tried a moment ago, and that an aborted run may have
/// followed.
fn previous(seconds: u64, now: u64) -> Run {
    let now_ms = now / 1_000;
    let mut run = Run::new("previous", Mode::Planned, (NAMES[STANDBY], NAMES[MAIN]), 0, 0);
    run.state = RunState::Degraded;
    for (step, ended_ms) in
        [(FailoverStep::OpenSales, now_ms - seconds * 1_000), (FailoverStep::FenceOldMain, now_ms - 1_000)]
    {
        let (began_ms, ended_ms) = (ended_ms - 1, Some(ended_ms));
        run.log.push(StepLog { step, began_ms, ended_ms, actions: 1, last: String::new() });
    }
    if seconds.is_multiple_of(2) {
        return run;
    }
    let mut aborted = Run::new("aborted", Mode::Planned, (NAMES[MAIN], NAMES[STANDBY]), 1, 0);
    aborted.set_previous(Some(&run), now_ms - 1_000);
    aborted.state = RunState::Aborted;
    aborted
}

/// A run is refused for the cooldown if main was moved within the last hour, and not because a run is degraded or was aborted.
fn check_cooldown(world: &mut FailoverWorld, run: &Run, moved_before: Option<u64>) {
    let is_due = !run.skip_cooldown && moved_before.is_some_and(|seconds| seconds < 3_600);
    let is_refused = run.why.contains("cooldown");
    let is_checked = |log: &StepLog| log.step == FailoverStep::Precheck && log.ended_ms.is_some();
    let has_begun = run.log.iter().any(is_checked);
    if is_due && has_begun || is_refused && !is_due {
        world.fault(format!("the cooldown is due: {is_due}, and it refuses the run: {is_refused}"));
    }
}

fn draw_accepted(world: &mut FailoverWorld) -> Loss {
    if world.draws.chance(0.8) {
        return Loss { ms: u64::MAX, sales: world.units_unsold(START + 60 * SECOND) };
    }
    Loss { ms: world.draws.within(0, 40_000), sales: world.draws.within(0, 20) }
}

impl FailoverHistory {
    fn begin(&mut self) {
        for region in [MAIN, MAIN, STANDBY, STANDBY] {
            let clock = self.world.draws.clock();
            self.sellers.push(Seller { region, clock, known: None });
            let seller = self.sellers.len() - 1;
            self.after(seller as u64 * 1_000, Event::Renew(seller));
            self.after(seller as u64 * 1_000 + 300_000, Event::Sell(seller));
        }
        self.after(100_000, Event::Copy);
        // Most accidents come before the run or at its beginning, some at any point of it.
        let latest = if self.world.draws.chance(0.3) { 1_200 * SECOND } else { 60 * SECOND };
        for _ in 0..self.world.draws.within(0, 3) {
            let (at, kind) = (self.world.draws.within(0, latest), self.world.draws.within(0, 5));
            self.after(at, Event::Accident(kind));
        }
        let start = self.world.draws.within(SECOND, 30 * SECOND);
        self.after(start, Event::Start);
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.events.push(None);
                self.events.len() - 1
            }
        };
        self.events[place] = Some(event);
        self.number += 1;
        self.queue.push(Reverse((self.world.now + delay, self.number, place)));
    }

    fn go_on(&mut self) {
        let began = self.world.now;
        while let Some(Reverse((at, number, place))) = self.queue.pop() {
            self.world.now = at;
            if at - began > LIMIT || self.ended_at.is_some_and(|end| at > end + AFTERWARDS) {
                return;
            }
            self.world.settle();
            self.free.push(place);
            if let Some(event) = self.events[place].take() {
                self.digest = self.digest.rotate_left(7) ^ at ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                self.happen(event);
            }
            if !self.world.faults.is_empty() {
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Renew(seller) => self.renew(seller),
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
            Event::Work { region, buyer, permit, work } => self.world.work(region, buyer, permit, work),
            Event::Copy => {
                if self.world.main_answers() {
                    let (lag, beat) = (self.world.draws.within(1_000, 2 * SECOND), self.world.now);
                    let written = self.world.written();
                    self.after(lag, Event::Copied { written, beat });
                }
                self.after(500_000, Event::Copy);
            }
            Event::Copied { written, beat } => self.world.replicate(written, beat),
            Event::Start => self.start(),
            Event::Command => self.command(),
            Event::Observe(execution) => self.observe(execution),
            Event::Observed { execution, observed_at, observation } => {
                self.observed(execution, observed_at, &observation)
            }
            Event::Do(sent) => self.arrive(&sent),
            Event::Accident(kind) => self.accident(kind),
            Event::Heal => self.world.network = Default::default(),
        }
    }

    fn renew(&mut self, seller: usize) {
        let region = self.sellers[seller].region;
        if self.world.runs(region) && !self.world.network.table_cut[region] {
            let (there, delay) = (self.world.draws.delay(), self.world.draws.delay());
            let sent = self.world.now;
            self.after(there, Event::Renewal { seller, sent, delay });
        }
        self.after(3 * SECOND, Event::Renew(seller));
    }

    fn sell(&mut self, seller: usize) {
        let Seller { region, clock, .. } = self.sellers[seller];
        let now = self.world.clock(clock);
        let permit =
            self.sellers[seller].known.as_ref().and_then(|known| known.permit(NAMES[region], now, TIMING));
        if let (Some(permit), true) = (permit, self.world.runs(region)) {
            let delay = self.world.draws.delay();
            self.after(delay, Event::Drain { region, permit });
            let held = &self.world.regions[region].redis.held;
            for buyer in held.iter().take(4).copied().collect::<Vec<_>>() {
                let work = if self.world.draws.chance(0.3) { Work::Pay } else { Work::Record };
                let delay = self.world.draws.delay();
                self.after(delay, Event::Work { region, buyer, permit, work });
            }
        }
        let pause = self.world.draws.within(SECOND, 3 * SECOND);
        self.after(pause, Event::Sell(seller));
    }

    fn accident(&mut self, kind: u64) {
        let network = &mut self.world.network;
        match kind {
            0 => self.world.regions[MAIN].is_dead = true,
            1 => network.cut[STANDBY] = true,
            2 => network.cut[MAIN] = true,
            3 => network.table_cut[MAIN] = true,
            4 => network.table_cut[STANDBY] = true,
            _ => {
                network.cut = [true; 2];
                network.table_cut[MAIN] = true;
                network.main_unpointable = true;
            }
        }
        let heal = self.world.draws.within(5 * SECOND, 900 * SECOND);
        self.after(heal, Event::Heal);
    }
}
