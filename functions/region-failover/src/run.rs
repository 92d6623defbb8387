//! A failover, from its beginning to its end: where it stands, and what is next.

use crate::seen::{Act, Look, Loss, Seen, Trouble};
use crate::step::{REDIS_WAIT_MS, Step, Verdict, decide};
use lease::Timing;
use ledger::LastSigns;
use serde::{Deserialize, Serialize};
use shared::stamp::Stamp;

/// How long a drill's copy may take to be made, in milliseconds.
pub const DRILL_COPY_LIMIT_MS: u64 = 120 * 60_000;
/// How long a drill waits for a step that a failover waits for without end, in milliseconds.
pub const DRILL_STEP_LIMIT_MS: u64 = 30 * 60_000;

/// How it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Main answers; nothing is lost.
    Planned,
    /// Main is gone.
    Forced {
        /// What a person has accepted to lose.
        accepted: Loss,
    },
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// On its way.
    Running,
    /// On its way back: the lease is given to the old main again.
    Aborting,
    /// Nothing has changed.
    Aborted,
    /// The new main sells; some step has been left out, and is tried again when it is resumed.
    Degraded,
    /// The new main sells, and all is done.
    Done,
}

/// What became of a step. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Which one.
    pub step: Step,
    /// When it was first looked at.
    pub began_ms: u64,
    /// When it was seen to be so.
    pub ended_ms: Option<u64>,
    /// How often something was done for it.
    pub acts: u32,
    /// What was waited for, or went wrong, last.
    pub last: String,
}

/// A failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What tells it from any other.
    pub id: String,
    /// How it is meant.
    pub mode: Mode,
    /// The old main.
    pub from: String,
    /// The new one.
    pub to: String,
    /// The epoch that ends.
    pub epoch: u64,
    /// Units of each item to withhold.
    pub withhold: u32,
    /// Whether it works on throw-away copies, and moves nothing of main's.
    #[serde(default)]
    pub is_drill: bool,
    /// Whether it may come soon after the last one.
    pub may_hurry: bool,
    /// How long the Global Datastore may take, before Redis is detached from it.
    #[serde(default = "redis_wait_ms")]
    pub redis_wait_ms: u64,
    /// Seconds since the last one ended, when this one was begun; nothing where there was none.
    pub since_last_seconds: Option<u64>,
    /// When the last one ended that was not given up, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub last_ended_ms: Option<u64>,
    /// Where it stands.
    pub state: State,
    /// The step that it is at.
    pub step: Step,
    /// What was written down of each step.
    pub log: Vec<Log>,
    /// Steps that were left out.
    pub outstanding: Vec<Step>,
    /// Steps that were left out for good, by a person's word.
    #[serde(default)]
    pub waived: Vec<Step>,
    /// Why it was aborted.
    pub why: String,
    /// When the old main's lease ended: it has sold nothing since. Milliseconds since the Unix epoch.
    pub stopped_ms: Option<u64>,
    /// What was not here when the lag gate let it pass.
    pub stated: Option<Loss>,
    /// The newest that had come over of the old main, by the promoted ledger before its epoch began.
    #[serde(default)]
    pub inherited: Option<LastSigns>,
}

/// Of a run that was written down without it, too.
fn redis_wait_ms() -> u64 {
    REDIS_WAIT_MS
}

/// What is next. What the run has become is written down *before* anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Do it, and look again.
    Act(Act),
    /// Look again at once.
    Again,
    /// Look again in a while.
    Pause,
    /// It is over.
    End,
}

impl Run {
    /// At its beginning.
    pub fn new(id: &str, mode: Mode, (from, to): (&str, &str), epoch: u64, withhold: u32) -> Self {
        Self {
            id: id.into(),
            mode,
            from: from.into(),
            to: to.into(),
            epoch,
            withhold,
            is_drill: false,
            may_hurry: false,
            redis_wait_ms: redis_wait_ms(),
            since_last_seconds: None,
            last_ended_ms: None,
            state: State::Running,
            step: Step::Precheck,
            log: Vec::new(),
            outstanding: Vec::new(),
            waived: Vec::new(),
            why: String::new(),
            stopped_ms: None,
            stated: None,
            inherited: None,
        }
    }

    /// When it ended, or what is known of it so far; nothing before its first look. In milliseconds.
    pub fn last_ms(&self) -> Option<u64> {
        self.log.iter().map(|log| log.ended_ms.unwrap_or(log.began_ms)).max()
    }

    /// Follows on `last`, the newest before it: how long ago main was moved last, however many were given up since.
    pub fn follow_on(&mut self, last: Option<&Self>, now_ms: u64) {
        self.last_ended_ms = last.and_then(|last| match last.state {
            State::Aborted => last.last_ended_ms,
            _ => last.last_ms(),
        });
        self.since_last_seconds = self.last_ended_ms.map(|ended| now_ms.saturating_sub(ended) / 1_000);
    }

    /// The region that is gone, where it is forced by that: nobody waits for it longer than it takes to ask.
    pub fn lost(&self) -> Option<&str> {
        matches!(self.mode, Mode::Forced { .. }).then_some(self.from.as_str())
    }

    /// The epoch that begins.
    pub fn new_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// What is to be looked at; nothing where it is over.
    pub fn look(&self) -> Option<Look> {
        match self.state {
            State::Running => Some(self.step.look()),
            State::Aborting => Some(Look::Lease),
            State::Aborted | State::Degraded | State::Done => None,
        }
    }

    /// How long its step may take; a drill waits longer for its copy, and for nothing without end.
    fn limit_ms(&self, seen: Option<&Seen>) -> Option<u64> {
        match (self.is_drill, self.step) {
            (true, Step::Precheck) => Some(DRILL_COPY_LIMIT_MS),
            // The copy is deleted: RDS takes its time.
            (true, Step::FenceOldMain) => Some(DRILL_STEP_LIMIT_MS),
            (true, step) => step.limit_ms().or(Some(DRILL_STEP_LIMIT_MS)),
            (false, step) => step.limit_in(self, seen),
        }
    }

    /// Whether it can still be given up: nothing has been moved.
    pub fn can_abort(&self) -> bool {
        self.state == State::Running && (self.is_drill || self.step < Step::MoveRedis)
    }

    /// Gives it up, where that is possible; says whether it was.
    pub fn abort(&mut self, why: &str) -> bool {
        let can = self.can_abort();
        if can {
            // A drill has taken nothing that would have to be given back.
            self.state = if self.is_drill { State::Aborted } else { State::Aborting };
            self.why = why.into();
        }
        can
    }

    /// Goes on with what was left out.
    pub fn resume(&mut self) {
        if self.state == State::Degraded
            && let Some(first) = self.outstanding.iter().min()
        {
            self.state = State::Running;
            self.step = *first;
            let outstanding = &self.outstanding;
            self.log.retain(|log| !outstanding.contains(&log.step));
        }
    }

    /// Gives up what is outstanding of it, for good and by a person's word; says whether it was outstanding.
    pub fn waive(&mut self, step: Step, why: &str, now_ms: u64) -> bool {
        if !self.outstanding.contains(&step) {
            return false;
        }
        self.outstanding.retain(|left| *left != step);
        self.waived.push(step);
        let last = format!("given up by a person: {why}");
        match self.log.iter_mut().find(|log| log.step == step) {
            Some(log) => log.last = last,
            None => self.log.push(Log { step, began_ms: now_ms, ended_ms: None, acts: 0, last }),
        }
        if self.state == State::Degraded && self.outstanding.is_empty() {
            self.state = State::Done;
        } else if self.state == State::Running && self.step == step {
            self.go_further();
        }
        true
    }

    /// How long the step has taken so far, in milliseconds.
    pub fn in_step_ms(&self, now: Stamp) -> u64 {
        let began_ms = self.log.iter().find(|log| log.step == self.step).map(|log| log.began_ms);
        began_ms.map_or(0, |began| (now.as_micros() / 1_000).saturating_sub(began))
    }

    /// Takes note of what was seen, and says what is next. `now` is the time at which the look *began*, by the
    /// clock of who runs it: an answer that was long on its way says nothing of the time since.
    pub fn saw(&mut self, seen: &Result<Seen, Trouble>, now: Stamp, timing: Timing) -> Next {
        match self.state {
            State::Running => self.go_on(seen, now, timing),
            State::Aborting => self.go_back(seen),
            State::Aborted | State::Degraded | State::Done => Next::End,
        }
    }

    fn go_on(&mut self, seen: &Result<Seen, Trouble>, now: Stamp, timing: Timing) -> Next {
        let (step, now_ms) = (self.step, now.as_micros() / 1_000);
        if !self.log.iter().any(|log| log.step == step) {
            let (acts, last) = (0, String::new());
            self.log.push(Log { step, began_ms: now_ms, ended_ms: None, acts, last });
        }
        let verdict = match seen {
            Ok(seen) => decide(step, self, seen, now, timing),
            Err(Trouble(why)) => Verdict::Wait(why.clone()),
        };
        let is_late = self.limit_ms(seen.as_ref().ok()).is_some_and(|limit| self.in_step_ms(now) > limit);
        if verdict != Verdict::Done && is_late {
            // What a drill leaves behind is no reason to give it up: its schedule clears it away.
            if self.can_abort() && step != Step::FenceOldMain {
                return self.turn_back(format!("{step:?} took too long"));
            }
            if step.may_be_left(self, seen.as_ref().ok()) {
                if !self.outstanding.contains(&step) {
                    self.outstanding.push(step);
                }
                return self.step_done(now_ms, false);
            }
        }
        if verdict == Verdict::Done
            && let Ok(Seen::Lag { lease, ledger_is_here, redis_is_here, loss }) = seen
        {
            let is_all_here = (*ledger_is_here, *redis_is_here) == (Some(true), Some(true));
            self.stopped_ms = Some(lease.expires_at.as_micros() / 1_000);
            self.stated = Some(if is_all_here { Loss { ms: 0, sales: 0 } } else { *loss });
        }
        if step == Step::RaiseEpoch
            && let Ok(Seen::Ledger { follows: false, epoch, last }) = seen
            && *epoch == self.epoch
        {
            self.inherited = Some(*last);
        }
        match verdict {
            Verdict::Done => self.step_done(now_ms, true),
            Verdict::Act(act) => {
                self.note(|log| log.acts += 1);
                Next::Act(act)
            }
            Verdict::Wait(why) => {
                self.note(|log| log.last = why);
                Next::Pause
            }
            Verdict::Halt(why) if self.can_abort() => self.turn_back(why),
            // Past the point of no return a person has to look; it is never left half done in silence.
            Verdict::Halt(why) => {
                self.note(|log| log.last = why);
                Next::Pause
            }
        }
    }

    /// Takes note of what became of the last act.
    pub fn acted(&mut self, what: &str) {
        self.note(|log| log.last = what.into());
    }

    /// Whether `step` was seen to be so, or left out for now.
    pub fn is_done(&self, step: Step) -> bool {
        let was_seen = self.log.iter().any(|log| log.step == step && log.ended_ms.is_some());
        was_seen || self.outstanding.contains(&step) || self.waived.contains(&step)
    }

    /// Whether it is on its way, forth or back.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Running | State::Aborting)
    }

    fn turn_back(&mut self, why: String) -> Next {
        self.abort(&why);
        Next::Again
    }

    fn step_done(&mut self, now_ms: u64, is_so: bool) -> Next {
        let step = self.step;
        self.note(|log| log.ended_ms = is_so.then_some(now_ms));
        if is_so {
            self.outstanding.retain(|left| *left != step);
        }
        self.go_further()
    }

    fn go_further(&mut self) -> Next {
        match self.step.next().filter(|next| !self.is_behind(*next)) {
            Some(next) => {
                self.step = next;
                Next::Again
            }
            None => match self.outstanding.first() {
                // Those left out are tried once in each going-through.
                Some(_) => self.end(State::Degraded),
                None => self.end(State::Done),
            },
        }
    }

    /// Whether the step was done before: of one that was resumed, only what was left out is new.
    fn is_behind(&self, step: Step) -> bool {
        let was_seen = |step: Step| self.log.iter().any(|log| log.step == step && log.ended_ms.is_some());
        let is_done = |step: Step| was_seen(step) || self.waived.contains(&step);
        Step::ALL.into_iter().filter(|later| *later >= step).all(is_done)
    }

    fn go_back(&mut self, seen: &Result<Seen, Trouble>) -> Next {
        let Ok(Seen::Lease(lease)) = seen else { return Next::Pause };
        let is_marked = lease.run.as_deref() == Some(&self.id);
        match lease.opened(&self.from, self.epoch, &self.id) {
            Some(opened) => Next::Act(Act::WriteLease(opened)),
            // An execution that was killed may have sent its word to close it, which is still on its way:
            // it is made of a record that is not to be there any more.
            None if !is_marked && lease.is_open => Next::Act(Act::WriteLease(lease.marked(&self.id))),
            None => self.end(State::Aborted),
        }
    }

    fn end(&mut self, state: State) -> Next {
        self.state = state;
        Next::End
    }

    fn note(&mut self, write: impl FnOnce(&mut Log)) {
        let step = self.step;
        if let Some(log) = self.log.iter_mut().find(|log| log.step == step) {
            write(log);
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
