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
    let earlier = if following.begins {
        newest(functions, &status).await.map(|(_, report)| report.run.id)
    } else {
        None
    };
    let (began, mut progress) = (Instant::now(), Progress::default());
    let mut invocation = pin!(functions.invoke(call));
    // For a run that was there before: whether the command has reached it.
    let (mut has_ended, mut is_ours) = (false, false);
    while began.elapsed() < following.limit {
        tokio::select! {
            answer = &mut invocation, if !has_ended => {
                has_ended = true;
                match answer {
                    Ok(answer) => match Report::of(&answer.value) {
                        Some(report) if report.is_active() => progress.show(&report, began.elapsed()),
                        Some(report) => return Ok(ended(answer, &report, following)),
                        None => return Ok(Ended { answer, result: Ok(()) }),
                    },
                    Err(Failure::Unknown { why, .. }) => {
                        eprintln!("the invocation ended without an answer ({why}); its run goes on, and its status is asked");
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
            () = sleep(POLL_INTERVAL) => {}
        }
        let Some((answer, report)) = newest(functions, &status).await else { continue };
        is_ours |= if following.begins {
            earlier.as_ref() != Some(&report.run.id)
        } else {
            has_ended || report.is_active()
        };
        if is_ours {
            progress.show(&report, began.elapsed());
        }
        if is_ours && !report.is_active() {
            return Ok(ended(answer, &report, following));
        }
    }
    Err(Failure::Unfinished(format!(
        "the run is not over after {} minutes; it goes on without this program: `failover status`{}",
        following.limit.as_secs() / 60,
        if following.drill { " --drill" } else { "" }
    )))
}

fn status_of(drill: bool) -> Call {
    Call::new(Function::RegionFailover, "status", &json!({ "drill": drill.then_some(true) }))
}

/// The newest run. A status that fails or takes too long is asked again at the next turn.
async fn newest(functions: &impl Invoke, status: &Call) -> Option<(Answer, Report)> {
    let answer = timeout(STATUS_LIMIT, functions.invoke(status)).await.ok()?.ok()?;
    let report = Report::of(&answer.value)?;
    Some((answer, report))
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
