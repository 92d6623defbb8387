//! What a run did, how long it took, and what was lost.

use crate::compare::Comparison;
use crate::observation::Loss;
use crate::run::{Mode, Run, RunState};
use crate::steps::FailoverStep;
use crate::store::RunRecord;
use ledger::LastSigns;
use serde::Serialize;

/// A report. Durations are milliseconds; times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailoverReport {
    pub run: Run,
    /// From the beginning of the run until the new main sold.
    pub rto_ms: Option<u64>,
    /// From the end of the old main's lease until the new main sold: no region could sell.
    pub pause_ms: Option<u64>,
    pub steps: Vec<StepReport>,
    /// The old main's newest heartbeat and sale in the promoted ledger.
    pub inherited: Option<LastSigns>,
    /// The loss with which the lag gate let the run pass.
    pub stated: Option<Loss>,
    /// What the comparison with the old main has found.
    pub measured: Option<Comparison>,
    /// The state of the run in one sentence.
    pub means: String,
    /// What the operator does next.
    pub to_do: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    pub step: FailoverStep,
    /// How long it took, or has taken so far.
    pub took_ms: u64,
    pub is_done: bool,
    /// The number of actions taken for it.
    pub actions: u32,
    /// What it waited for last, or what failed last.
    pub last: String,
}

impl FailoverReport {
    /// The report of a run, at `now_ms`.
    pub fn of(record: &RunRecord, now_ms: u64) -> Self {
        let run = &record.run;
        let steps = run.log.iter().map(|log| StepReport {
            step: log.step,
            took_ms: log.ended_ms.unwrap_or(now_ms).saturating_sub(log.began_ms),
            is_done: log.ended_ms.is_some(),
            actions: log.actions,
            last: log.last.clone(),
        });
        let began_ms = run.log.iter().map(|log| log.began_ms).min();
        let opened_ms =
            run.log.iter().find(|log| log.step == FailoverStep::OpenSales).and_then(|log| log.ended_ms);
        let since = |from: Option<u64>| Some(opened_ms?.saturating_sub(from?));
        Self {
            rto_ms: since(began_ms),
            pause_ms: since(run.stopped_ms),
            steps: steps.collect(),
            inherited: run.inherited,
            stated: run.stated,
            measured: record.compared.clone(),
            means: means(run),
            to_do: to_do(run, record.compared.as_ref(), run.is_active() && run.is_late(now_ms)),
            run: run.clone(),
        }
    }
}

fn means(run: &Run) -> String {
    let kind = match run.mode {
        Mode::Planned => "planned",
        Mode::Forced { .. } => "forced",
        Mode::Drill => {
            let done = run.log.iter().filter(|log| log.ended_ms.is_some()).count();
            let steps = FailoverStep::order(run.mode).len();
            let from = &run.from;
            return format!("A drill: {done} of {steps} steps are done, on a copy. {from} goes on selling.");
        }
    };
    let (from, to, step, epoch) = (&run.from, &run.to, run.step.name(), run.new_epoch());
    match run.state {
        RunState::Running if run.can_abort() => {
            format!("The {kind} failover to {to} is at the step {step}. It can still be aborted.")
        }
        RunState::Running => {
            format!("The {kind} failover to {to} is at the step {step}, past the point of no return.")
        }
        RunState::Aborting => {
            format!("The failover is being aborted, and {from} will sell again. Reason: {}.", run.why)
        }
        RunState::Aborted => {
            format!("The failover was aborted, and nothing was moved. {from} sells. Reason: {}.", run.why)
        }
        RunState::Done => format!("{to} is main, under epoch {epoch}."),
        RunState::Degraded => {
            let outstanding: Vec<String> = run.outstanding.iter().map(|step| step.name()).collect();
            format!("{to} is main, under epoch {epoch}; outstanding: {}.", outstanding.join(", "))
        }
    }
}

fn to_do(run: &Run, compared: Option<&Comparison>, late: bool) -> Vec<String> {
    let mut all = Vec::new();
    if !run.set_aside.is_empty() {
        let items: Vec<String> = run.set_aside.keys().map(ToString::to_string).collect();
        all.push(format!(
            "{} is not sold: it could not be reconciled or restored. Do not delete its keys before you have read docs/runbook/failover.md, \
             \"reconcile is outstanding\": that may free sold units",
            items.join(", ")
        ));
    }
    match run.state {
        RunState::Degraded | RunState::Done if run.mode == Mode::Drill => {
            all.extend(
                run.outstanding.iter().map(|step| format!("the step {} failed in the drill", step.name())),
            );
        }
        RunState::Running | RunState::Aborting => {
            if late {
                all.push(format!(
                    "the step {} takes longer than expected: its `last` tells what it waits for",
                    run.step.name()
                ));
            }
            all.push("wait; if no step has moved for two minutes, `resume`".into());
        }
        RunState::Aborted => all.push("fix what stopped the run, and `plan` again".into()),
        RunState::Degraded | RunState::Done => {
            all.extend(run.outstanding.iter().map(|step| step.definition().limit.if_outstanding.to_owned()));
            all.extend(run.without_logs.iter().map(|region| {
                format!(
                    "if `last` of the step replay says that the order log of {region} was left out: when it can be read, \
                     `replay` each item with drop-admin"
                )
            }));
            all.push(format!(
                "deploy every region with MainRegion {} and its endpoints; any other deployment repoints it to the old main",
                run.to
            ));
            all.push("tell the shop's backend to send its payments to the new main".into());
            if matches!(run.mode, Mode::Forced { .. }) {
                all.extend(after_forced(compared));
            }
            all.push("make the old region the new standby: docs/runbook/failover.md".into());
        }
    }
    all
}

fn after_forced(compared: Option<&Comparison>) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(orders @ 1..) = compared.and_then(|found| found.orders_lost) {
        all.push(format!(
            "notify the buyers of {orders} orders that their places in the queue are lost: `compare` lists them"
        ));
    }
    all.push(match compared {
        None => {
            "once the old main is back: `compare` lists the sales of the old main that are not here".into()
        }
        Some(found) if found.sales_lost + found.reservations_lost == 0 => {
            "nothing was lost: put the withheld units on sale with drop-admin's sell_withheld".into()
        }
        Some(_) => "decide about each lost sale; then put the remaining withheld units on sale with \
             drop-admin's sell_withheld"
            .into(),
    });
    all
}

pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::StepLog;

    fn run(state: RunState) -> Run {
        let mode = Mode::Forced { accepted: Loss { ms: 20_000, sales: 5 } };
        let mut run = Run::new("r<1>", mode, ("us-east-1", "eu-west-1"), 3, 5);
        run.state = state;
        let log =
            |step, began_ms, ended_ms| StepLog { step, began_ms, ended_ms, actions: 1, last: String::new() };
        run.log = vec![
            log(FailoverStep::Precheck, 1_000, Some(1_500)),
            log(FailoverStep::OpenSales, 60_000, Some(61_000)),
            log(FailoverStep::FenceOldMain, 61_000, None),
        ];
        run.outstanding = vec![FailoverStep::FenceOldMain];
        run.stopped_ms = Some(11_000);
        run.stated = Some(Loss { ms: 2_000, sales: 1 });
        run.inherited = Some(LastSigns { heartbeat_ms: Some(45_296_007), sale_ms: None });
        run
    }

    fn of(state: RunState, compared: Option<Comparison>) -> FailoverReport {
        let record = RunRecord { run: run(state), holder: "x".into(), held_until_ms: 0, compared };
        FailoverReport::of(&record, 70_000)
    }

    #[test]
    fn times_count_from_the_beginning_and_from_the_end_of_the_old_lease() {
        let report = of(RunState::Degraded, None);
        assert_eq!((report.rto_ms, report.pause_ms), (Some(60_000), Some(50_000)));
        assert_eq!(report.steps[2].took_ms, 9_000);
        assert!(report.means.contains("outstanding: fence old main"), "{}", report.means);
        assert!(report.to_do.iter().any(|one| one.contains("compare")));
        let mut run = run(RunState::Done);
        run.set_aside.insert("shoe".parse().unwrap(), "malformed".into());
        let record = RunRecord { run, holder: "x".into(), held_until_ms: 0, compared: None };
        assert!(FailoverReport::of(&record, 70_000).to_do[0].starts_with("shoe is not sold"));
        let to_do = |compared: Comparison| of(RunState::Degraded, Some(compared)).to_do.join("; ");
        assert!(to_do(Comparison::default()).contains("nothing was lost"));
        assert!(
            !to_do(Comparison { orders_lost: Some(0), ..Comparison::default() })
                .contains("their places in the queue")
        );
        assert!(to_do(Comparison { orders_lost: Some(7), ..Comparison::default() }).contains("of 7 orders"));
    }
}
