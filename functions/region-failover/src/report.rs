//! What was done, how long it took, and what was lost: for programs, and as a page that a manager can read.

use crate::compare::Compared;
use crate::run::{Mode, Run, State};
use crate::seen::Loss;
use crate::step::Step;
use crate::store::Written;
use ledger::LastSigns;
use serde::Serialize;
use std::fmt::Write;

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

    /// The report as a page of HTML that stands for itself.
    pub fn page(&self) -> String {
        let mut rows = String::new();
        let total = self.steps.iter().map(|step| step.took_ms).max().unwrap_or(1).max(1);
        for step in &self.steps {
            let state = if step.is_done { "done" } else { "not done" };
            // Writing into a String cannot fail.
            let _ = write!(
                rows,
                "<tr><td>{}</td><td class=\"bar\"><i style=\"width:{}%\"></i></td><td>{:.1} s</td><td>{state}</td><td>{}</td></tr>",
                name(step.step),
                step.took_ms * 100 / total,
                seconds(step.took_ms),
                escape(&step.last),
            );
        }
        let figure = |ms: Option<u64>| ms.map_or("not yet".to_owned(), |ms| format!("{:.1} s", seconds(ms)));
        let loss = match (&self.measured, self.stated) {
            (Some(measured), _) => format!(
                "{} sales and {} reservations of the old main are not here; {} (measured)",
                measured.sales_lost,
                measured.reservations_lost,
                orders_lost(measured),
            ),
            (None, Some(Loss { ms: 0, sales: 0 })) => "nothing: all had come over".into(),
            (None, Some(stated)) => {
                format!(
                    "at most {} sales of the last {:.1} s (stated; measured once the old main is back)",
                    stated.sales,
                    seconds(stated.ms)
                )
            }
            (None, None) => "nothing has been moved".into(),
        };
        let mut to_do = String::new();
        for one in &self.to_do {
            let _ = write!(to_do, "<li>{}</li>", escape(one));
        }
        include_str!("page.html")
            .replace("{{id}}", &escape(&self.run.id))
            .replace("{{means}}", &escape(&self.means))
            .replace("{{from}}", &escape(&self.run.from))
            .replace("{{to}}", &escape(&self.run.to))
            .replace("{{epoch}}", &self.run.new_epoch().to_string())
            .replace("{{rto}}", &figure(self.rto_ms))
            .replace("{{pause}}", &figure(self.pause_ms))
            .replace("{{loss}}", &escape(&loss))
            .replace("{{old}}", &signs(self.measured.as_ref().map(|measured| measured.last)))
            .replace("{{here}}", &signs(self.inherited))
            .replace("{{rows}}", &rows)
            .replace("{{to_do}}", &to_do)
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
                        "nothing was lost: put on sale what is kept back, by drop-admin's sell_held_back".into()
                    }
                    Some(_) => "decide about each lost sale; then put on sale what is left of what is kept back, by drop-admin's sell_held_back".into(),
                });
            }
            all.push("make the old region the new standby: docs/runbook/failover.md".into());
        }
    }
    all
}

/// In words, what has become of the orders in the old main's queue.
fn orders_lost(measured: &Compared) -> String {
    match (measured.orders_lost, &measured.orders_unknown) {
        (Some(orders), _) => format!("{orders} orders in its queue are not here"),
        (None, Some(why)) => format!("what its queue had is not known: {why}"),
        (None, None) => "its queue was not looked at".into(),
    }
}

fn name(step: Step) -> String {
    let quoted = serde_json::to_string(&step).unwrap_or_default();
    quoted.trim_matches('"').replace('_', " ")
}

pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// A ledger's newest signs of life, in words.
fn signs(last: Option<LastSigns>) -> String {
    let Some(LastSigns { heartbeat_ms, sale_ms }) = last else { return "not known yet".into() };
    let at = |moment: Option<u64>| moment.map_or("never".to_owned(), time_of_day);
    format!("heartbeat {}, sale {}", at(heartbeat_ms), at(sale_ms))
}

/// Hour, minute and second of a moment in milliseconds since the Unix epoch.
fn time_of_day(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03} UTC", ms % 1_000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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

    #[test]
    fn what_became_of_the_old_queue_is_said() {
        let loss = |compared: Compared| of(State::Done, Some(compared)).page();
        assert!(
            loss(Compared { orders_lost: Some(7), ..Compared::default() }).contains("7 orders in its queue")
        );
        let unknown = Compared { orders_unknown: Some("it follows".into()), ..Compared::default() };
        assert!(loss(unknown).contains("not known: it follows"));
        assert!(loss(Compared::default()).contains("was not looked at"));
    }

    #[test]
    fn the_page_says_it_and_lets_nothing_through() {
        let page = of(State::Degraded, None).page();
        for said in [
            "r&lt;1&gt;",
            "60.0 s",
            "50.0 s",
            "at most 1 sales of the last 2.0 s",
            "not done",
            "heartbeat 12:34:56.007 UTC, sale never",
            "not known yet",
        ] {
            assert!(page.contains(said), "{said}");
        }
        assert!(!page.contains("{{") && !page.contains("r<1>"));
    }
}
