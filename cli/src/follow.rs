//! Follows a run of region-failover until it is over: the invocation that begins it lasts a quarter of an hour at most,
//! and a connection that is idle so long may be lost. `status` says what the run does meanwhile.

use crate::command::{Call, Function};
use crate::failure::Failure;
use crate::invoke::{Answer, Invoke};
use crate::report::{Report, State};
use serde_json::json;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Time between two requests of the status.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long one of them may take.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// How long the status before the command is asked for, and how long no run may appear after the invocation ended without an
/// answer.
const UNSEEN_LIMIT: Duration = Duration::from_secs(60);

/// What to follow, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Following {
    /// A drill instead of a failover.
    pub(crate) drill: bool,
    /// Whether the command begins a run: the run that is the newest before it is another one.
    pub(crate) begins: bool,
    /// The final state that the operator wants.
    pub(crate) goal: State,
    pub(crate) limit: Duration,
}

/// The last answer, and whether the run has reached its goal.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) answer: Answer,
    pub(crate) result: Result<(), Failure>,
}

pub(crate) fn minutes(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * 60)
}

/// Invokes `call`, and prints the progress to standard error.
pub(crate) async fn follow(
    functions: &impl Invoke,
    call: &Call,
    following: Following,
) -> Result<Ended, Failure> {
    let status = status_of(following.drill);
    let earlier = if following.begins { earlier_run(functions, &status).await? } else { None };
    let mut watch = Watch {
        following,
        earlier,
        began: Instant::now(),
        ended_at: None,
        seen: None,
        failure: None,
        progress: Progress::default(),
    };
    let mut invocation = pin!(functions.invoke(call));
    while watch.began.elapsed() < following.limit {
        tokio::select! {
            answer = &mut invocation, if watch.ended_at.is_none() => {
                watch.ended_at = Some(Instant::now());
                match answer {
                    Ok(answer) => match Report::of(&answer.value) {
                        Some(report) if report.is_active() => watch.see(&report),
                        Some(report) => return Ok(ended(answer, &report, following)),
                        None => return Ok(Ended { answer, result: Ok(()) }),
                    },
                    Err(Failure::Unknown { why, .. }) => {
                        eprintln!("the invocation ended without an answer ({why}); the status of its run is asked");
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
            () = sleep(POLL_INTERVAL) => {}
        }
        if let Some((answer, report)) = watch.take(ask(functions, &status).await)? {
            return Ok(ended(answer, &report, following));
        }
    }
    Err(watch.unfinished())
}

fn status_of(drill: bool) -> Call {
    Call::new(Function::RegionFailover, "status", &json!({ "drill": drill.then_some(true) }))
}

/// What a request of the status found.
enum Status {
    /// The newest run.
    Run(Box<(Answer, Report)>),
    /// There is no run yet.
    NoRun,
    Failed {
        cause: String,
        is_lasting: bool,
    },
}

async fn ask(functions: &impl Invoke, status: &Call) -> Status {
    let failed = |cause: String| Status::Failed { cause, is_lasting: false };
    match timeout(STATUS_LIMIT, functions.invoke(status)).await {
        Err(_) => failed(format!("no answer within {} s", STATUS_LIMIT.as_secs())),
        Ok(Ok(answer)) => match Report::of(&answer.value) {
            Some(report) => Status::Run(Box::new((answer, report))),
            None => failed("the answer is no report".into()),
        },
        Ok(Err(Failure::Refused { problem, .. })) if problem["errorType"] == "NoActiveRun" => Status::NoRun,
        Ok(Err(failure)) => {
            let is_lasting = matches!(failure, Failure::NotInvoked { is_lasting: true, .. });
            Status::Failed { cause: failure.to_string(), is_lasting }
        }
    }
}

/// The id of the newest run before the command begins one. Without it, that run could be taken for the command's own.
async fn earlier_run(functions: &impl Invoke, status: &Call) -> Result<Option<String>, Failure> {
    let began = Instant::now();
    loop {
        let (cause, is_lasting) = match ask(functions, status).await {
            Status::Run(run) => return Ok(Some(run.1.run.id)),
            Status::NoRun => return Ok(None),
            Status::Failed { cause, is_lasting } => (cause, is_lasting),
        };
        if is_lasting || began.elapsed() >= UNSEEN_LIMIT {
            let why = format!("its status before the command could not be read: {cause}");
            return Err(Failure::NotInvoked { function: status.function.name().into(), why, is_lasting });
        }
        eprintln!("could not read the status before the command: {cause}; it is asked again");
        sleep(POLL_INTERVAL).await;
    }
}

/// What was seen of the command's run.
struct Watch {
    following: Following,
    /// The run that was the newest before the command.
    earlier: Option<String>,
    began: Instant,
    /// When the invocation ended.
    ended_at: Option<Instant>,
    /// The id of the command's run, once it was seen.
    seen: Option<String>,
    /// Why the last request of the status failed.
    failure: Option<String>,
    progress: Progress,
}

impl Watch {
    fn see(&mut self, report: &Report) {
        self.seen = Some(report.run.id.clone());
        self.progress.show(report, self.began.elapsed());
    }

    /// Whether the newest run is the command's.
    fn is_ours(&self, report: &Report) -> bool {
        if self.following.begins {
            self.earlier.as_ref() != Some(&report.run.id)
        } else {
            // A run that was there before: the command has reached it.
            self.seen.is_some() || self.ended_at.is_some() || report.is_active()
        }
    }

    /// Takes a status; returns the report of a run that is over. Fails if nothing more is to be expected.
    fn take(&mut self, status: Status) -> Result<Option<(Answer, Report)>, Failure> {
        let mut lasts = false;
        match status {
            Status::Run(run) if self.is_ours(&run.1) => {
                self.failure = None;
                self.see(&run.1);
                return Ok((!run.1.is_active()).then_some(*run));
            }
            Status::Run(..) | Status::NoRun => self.failure = None,
            Status::Failed { cause, is_lasting } => {
                lasts = is_lasting;
                if self.failure.as_ref() != Some(&cause) {
                    eprintln!("{:>4} s  could not read the status: {cause}", self.began.elapsed().as_secs());
                }
                self.failure = Some(cause);
            }
        }
        // While the invocation is in progress, its answer may come.
        let Some(ended_at) = self.ended_at else { return Ok(None) };
        let is_late = self.seen.is_none() && ended_at.elapsed() >= UNSEEN_LIMIT;
        if lasts || is_late { Err(self.unfinished()) } else { Ok(None) }
    }

    /// The failure of a command whose run was not seen to its end.
    fn unfinished(&self) -> Failure {
        let minutes = self.began.elapsed().as_secs() / 60;
        let status = if self.following.drill { "failover status --drill" } else { "failover status" };
        let cause = self.failure.as_ref().map(|cause| format!("; the status cannot be read: {cause}"));
        let cause = cause.unwrap_or_default();
        match &self.seen {
            Some(run) => Failure::Unfinished(format!(
                "the run {run} was not over after {minutes} minutes{cause}. It goes on without this program: `{status}`"
            )),
            None => Failure::Unknown {
                function: Function::RegionFailover.name().into(),
                why: format!(
                    "no run of this command was seen within {minutes} minutes{cause}; see `{status}`"
                ),
            },
        }
    }
}

fn ended(answer: Answer, report: &Report, following: Following) -> Ended {
    let result = match report.run.state {
        state if state == following.goal => Ok(()),
        State::Aborted => Err(Failure::Negative(report.means.clone())),
        _ => Err(Failure::Unfinished(report.means.clone())),
    };
    Ended { answer, result }
}

/// What was printed of each step.
#[derive(Debug, Default)]
struct Progress {
    printed: BTreeMap<String, (bool, String)>,
}

impl Progress {
    fn show(&mut self, report: &Report, elapsed: Duration) {
        for line in self.lines(report) {
            eprintln!("{:>4} s  {line}", elapsed.as_secs());
        }
    }

    /// A line for each step that has begun, ended, or waits for something else than before.
    fn lines(&mut self, report: &Report) -> Vec<String> {
        let mut lines = Vec::new();
        for step in &report.steps {
            let state = (step.is_done, if step.is_done { String::new() } else { step.last.clone() });
            if self.printed.get(&step.step) == Some(&state) {
                continue;
            }
            lines.push(match &state {
                (true, _) => format!("{}: done in {:.1} s", step.step, step.took_ms as f64 / 1_000.0),
                (false, last) if last.is_empty() => step.step.clone(),
                (false, last) => format!("{}: {last}", step.step),
            });
            self.printed.insert(step.step.clone(), state);
        }
        lines
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
