//! What was done, how long it took, and what was lost: as JSON.

use crate::compare::Compared;
use crate::run::{Mode, Run, State};
use crate::seen::Loss;
use crate::step::Step;
use crate::store::Written;
use ledger::LastSigns;
use serde::Serialize;

/// A report. Times are milliseconds; moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The run, as it is kept.
    pub run: Run,
    /// From its beginning until the new main sold, or so far.
    pub rto_ms: Option<u64>,
    /// Between the end of the old main's lease and the new main's first: nobody could sell.
    pub pause_ms: Option<u64>,
    /// Each step.
    pub steps: Vec<StepReport>,
    /// The old main's newest heartbeat and sale that had come over, by the promoted ledger.
    pub inherited: Option<LastSigns>,
    /// What the lag gate let pass as lost.
    pub stated: Option<Loss>,
    /// What the old main says is lost, with its own newest heartbeat and sale, once it could be asked.
    pub measured: Option<Compared>,
    /// In a sentence.
    pub means: String,
    /// What is to be done now.
    pub to_do: Vec<String>,
}

/// A step of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Which.
    pub step: Step,
    /// How long it took, or has taken so far.
    pub took_ms: u64,
    /// Whether it is done.
    pub is_done: bool,
    /// How often something was done for it.
    pub acts: u32,
    /// What was waited for, or went wrong, last.
    pub last: String,
}

impl Report {
    /// The report of a run, at `now_ms`.
    pub fn of(written: &Written, now_ms: u64) -> Self {
        let run = &written.run;
        let steps = run.log.iter().map(|log| StepReport {
            step: log.step,
            took_ms: log.ended_ms.unwrap_or(now_ms).saturating_sub(log.began_ms),
            is_done: log.ended_ms.is_some(),
            acts: log.acts,
            last: log.last.clone(),
        });
        let began_ms = run.log.iter().map(|log| log.began_ms).min();
        let opened_ms = run.log.iter().find(|log| log.step == Step::OpenSales).and_then(|log| log.ended_ms);
        let since = |from: Option<u64>| Some(opened_ms?.saturating_sub(from?));
        Self {
            rto_ms: since(began_ms),
            pause_ms: since(run.stopped_ms),
            steps: steps.collect(),
            inherited: run.inherited,
            stated: run.stated,
            measured: written.compared.clone(),
            means: means(run),
            to_do: to_do(run, written.compared.as_ref()),
            run: run.clone(),
        }
    }
}

fn means(run: &Run) -> String {
    let kind = match run.mode {
        Mode::Planned => "planned",
        Mode::Forced { .. } => "forced",
    };
    match run.state {
        _ if run.is_drill => {
            format!(
                "A drill: {} of {} steps came off, on a copy. Main sells on as before.",
                done(run),
                Step::ALL.len()
            )
        }
        State::Running if run.can_abort() => {
            format!(
                "The {kind} failover to {} is under way, at {}; it can still be given up.",
                run.to,
                name(run.step)
            )
        }
        State::Running => {
            format!(
                "The {kind} failover to {} is under way, at {}, past the point of no return.",
                run.to,
                name(run.step)
            )
        }
        State::Aborting => format!("It is being given up, and {} will sell again: {}.", run.from, run.why),
        State::Aborted => format!("It was given up, and nothing was moved; {} sells: {}.", run.from, run.why),
        State::Done => format!("{} is main, under epoch {}.", run.to, run.new_epoch()),
        State::Degraded => {
            let left: Vec<String> = run.outstanding.iter().map(|step| name(*step)).collect();
            format!("{} is main, under epoch {}; outstanding: {}.", run.to, run.new_epoch(), left.join(", "))
        }
    }
}

fn done(run: &Run) -> usize {
    run.log.iter().filter(|log| log.ended_ms.is_some()).count()
}

fn to_do(run: &Run, compared: Option<&Compared>) -> Vec<String> {
    let mut all = Vec::new();
    match run.state {
        State::Degraded | State::Done if run.is_drill => {
            all.extend(
                run.outstanding.iter().map(|step| format!("{} did not come off in the drill", name(*step))),
            );
        }
        State::Running | State::Aborting => {
            all.push("wait, or `resume` where nothing has moved for two minutes".into());
        }
        State::Aborted => all.push("mend what stood in the way, and `plan` again".into()),
        State::Degraded | State::Done => {
            all.extend(run.outstanding.iter().map(|step| match step {
                Step::FenceOldMain => {
                    "the old main's database is not known to be closed: it is tried every minute; it sells nothing meanwhile, for it has no lease".into()
                }
                Step::Point => "some region still sends its orders to the old main: see the step; deploy it with the new MainRegion".into(),
                step => format!("{} was left out; it is tried every minute", name(*step)),
            }));
            all.push(format!(
                "deploy every region with MainRegion {} and its endpoints, or the next deployment points them back",
                run.to
            ));
            all.push("tell the shop's backend to send its payments to the new main".into());
            if matches!(run.mode, Mode::Forced { .. }) {
                if let Some(orders @ 1..) = compared.and_then(|found| found.orders_lost) {
                    all.push(format!(
                        "tell the buyers of {orders} orders that their places are gone: compare lists them"
                    ));
                }
                all.push(match compared {
                    None => "once the old main is back: `compare` says what it had sold that is not here".into(),
                    Some(found) if found.sales_lost + found.reservations_lost == 0 => {
                        "nothing was lost: put on sale what is withheld, by drop-admin's sell_withheld".into()
                    }
                    Some(_) => "decide about each lost sale; then put on sale what is left of what is withheld, by drop-admin's sell_withheld".into(),
                });
            }
            all.push("make the old region the new standby: docs/runbook/failover.md".into());
        }
    }
    all
}

fn name(step: Step) -> String {
    let quoted = serde_json::to_string(&step).unwrap_or_default();
    quoted.trim_matches('"').replace('_', " ")
}

pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Log;

    fn run(state: State) -> Run {
        let mode = Mode::Forced { accepted: Loss { ms: 20_000, sales: 5 } };
        let mut run = Run::new("r<1>", mode, ("us-east-1", "eu-west-1"), 3, 5);
        run.state = state;
        let log = |step, began_ms, ended_ms| Log { step, began_ms, ended_ms, acts: 1, last: String::new() };
        run.log = vec![
            log(Step::Precheck, 1_000, Some(1_500)),
            log(Step::OpenSales, 60_000, Some(61_000)),
            log(Step::FenceOldMain, 61_000, None),
        ];
        run.outstanding = vec![Step::FenceOldMain];
        run.stopped_ms = Some(11_000);
        run.stated = Some(Loss { ms: 2_000, sales: 1 });
        run.inherited = Some(LastSigns { heartbeat_ms: Some(45_296_007), sale_ms: None });
        run
    }

    fn of(state: State, compared: Option<Compared>) -> Report {
        let written = Written { run: run(state), holder: "x".into(), held_until_ms: 0, compared };
        Report::of(&written, 70_000)
    }

    #[test]
    fn times_run_from_the_beginning_and_from_the_old_main_s_end() {
        let report = of(State::Degraded, None);
        assert_eq!((report.rto_ms, report.pause_ms), (Some(60_000), Some(50_000)));
        assert_eq!(report.steps[2].took_ms, 9_000);
        assert!(report.means.contains("outstanding: fence old main"), "{}", report.means);
        assert!(report.to_do.iter().any(|one| one.contains("compare")));
        let to_do = |compared: Compared| of(State::Degraded, Some(compared)).to_do.join("; ");
        assert!(to_do(Compared::default()).contains("nothing was lost"));
        assert!(!to_do(Compared { orders_lost: Some(0), ..Compared::default() }).contains("their places"));
        assert!(to_do(Compared { orders_lost: Some(7), ..Compared::default() }).contains("of 7 orders"));
    }
}
