//! A drill's report: plain ASCII for a terminal, and JSON for programs.

use super::outcome::DrillOutcome;
use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The results of all runs.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    /// The seed of the first run.
    pub seed: u64,
    /// The completed runs.
    pub outcomes: Vec<DrillOutcome>,
    /// The runs that failed, with the reason.
    pub failed: Vec<String>,
}

impl DrillReport {
    /// Whether every promise was kept in every run.
    pub fn is_sound(&self) -> bool {
        self.failed.is_empty() && self.outcomes.iter().all(|outcome| outcome.faults().is_empty())
    }

    /// The report as JSON, with the broken promises of each run.
    pub fn to_json(&self) -> Result<String> {
        let faults: Vec<Vec<String>> = self.outcomes.iter().map(DrillOutcome::faults).collect();
        let mut report = serde_json::to_value(self)?;
        report["is_sound"] = json!(self.is_sound());
        report["faults"] = json!(faults);
        Ok(serde_json::to_string_pretty(&report)?)
    }

    /// The report as text.
    pub fn to_text(&self) -> String {
        let runs = self.outcomes.len() + self.failed.len();
        let mut lines = vec![format!("fairdrop drill: {runs} failovers, seed {}", self.seed)];
        for outcome in &self.outcomes {
            lines.push(String::new());
            lines.extend(run(outcome));
        }
        lines.push(String::new());
        lines.extend(self.steps());
        lines.extend(self.failed.iter().map(|why| format!("Run failed: {why}")));
        let sum = |figure: fn(&DrillOutcome) -> u64| self.outcomes.iter().map(figure).sum::<u64>();
        lines.push(format!(
            "Verdict: {} (oversold {}, sold by both {}, sold after the return {}, untrue answers {}, accepted orders lost {})",
            if self.is_sound() { "OK" } else { "NOT OK" },
            sum(|outcome| outcome.findings.oversold),
            sum(|outcome| outcome.sold_concurrently),
            sum(|outcome| outcome.sold_after_return),
            sum(|outcome| outcome.findings.untrue),
            sum(|outcome| outcome.findings.lost_orders),
        ));
        lines.push(format!(
            "  Acknowledged sales lost: {} in planned failovers, {} in forced ones (stated by the plans: {} at most).",
            sum(|outcome| if outcome.stated.is_none() { outcome.findings.lost_sales } else { 0 }),
            sum(|outcome| if outcome.stated.is_some() { outcome.findings.lost_sales } else { 0 }),
            sum(|outcome| outcome.stated.as_ref().map_or(0, |stated| stated.sales)),
        ));
        lines.join("\n") + "\n"
    }

    /// The duration of each step, over all runs.
    fn steps(&self) -> Vec<String> {
        let mut by_step: Vec<(String, Vec<u64>)> = Vec::new();
        for (step, took_ms) in self.outcomes.iter().flat_map(steps) {
            match by_step.iter_mut().find(|(known, _)| *known == step) {
                Some((_, times)) => times.push(took_ms),
                None => by_step.push((step, vec![took_ms])),
            }
        }
        let rto: Vec<u64> =
            self.outcomes.iter().filter_map(|outcome| outcome.report["rto_ms"].as_u64()).collect();
        by_step.push(("total, to the first sale".into(), rto));
        let mut lines = vec![format!("{:<28}{:>10}{:>10}", "step, in seconds", "median", "longest")];
        for (step, mut times) in by_step {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let longest = times.last().copied().unwrap_or_default();
            lines.push(format!("{:<28}{:>10}{:>10}", step, seconds(median), seconds(longest)));
        }
        lines.push(String::new());
        lines
    }
}

fn run(outcome: &DrillOutcome) -> Vec<String> {
    let mut lines = vec![format!("seed {}: {}", outcome.scenario.seed, outcome.scenario.description())];
    let since = |at: Option<u64>| {
        at.map_or("never".to_owned(), |at| {
            format!("{:+.1} s", (at as f64 - outcome.began_ms as f64) / 1_000.0)
        })
    };
    lines.push(format!(
        "  {} buyers. Last sale of the old main {}, first sale of the new main {}: no sales for {}.",
        outcome.buyers,
        since(outcome.old_last_sale_ms),
        since(outcome.new_first_sale_ms),
        outcome.pause_ms().map_or("an unknown time".into(), |ms| format!("{:.1} s", ms as f64 / 1_000.0)),
    ));
    let steps: Vec<String> =
        steps(outcome).into_iter().map(|(step, took_ms)| format!("{step} {}", seconds(took_ms))).collect();
    let rto = outcome.report["rto_ms"].as_u64().map_or("unknown".into(), seconds);
    lines.push(format!("  RTO {rto} s: {}.", steps.join(", ")));
    let compared = &outcome.compared["compared"];
    let figure = |name: &str| compared[name].as_u64().unwrap_or_default();
    let findings = &outcome.findings;
    lines.push(match &outcome.stated {
        None => format!(
            "  RPO: no loss allowed; lost {} acknowledged sales and {} places in the queue.",
            findings.lost_sales, findings.lost_places
        ),
        Some(stated) => format!(
            "  RPO: the plan stated {} s and the run accepted {} s, {} sales at most; measured {} s, {} sales and {} \
             reservations; of these {} sales that buyers knew of, and {} places in the queue.",
            stated.seconds,
            seconds(outcome.report["stated"]["ms"].as_u64().unwrap_or_default()),
            stated.sales,
            seconds(figure("rpo_ms")),
            figure("sales_lost"),
            figure("reservations_lost"),
            findings.lost_sales,
            findings.lost_places,
        ),
    });
    if outcome.scenario.accident.is_some() {
        let answers: Vec<String> =
            outcome.answers_of_old_main.iter().map(|(what, times)| format!("{what}: {times}")).collect();
        lines.extend(compared["orders_lost"].as_u64().map(|orders| {
            format!(
                "  Redis was detached; the new main lacked {orders} orders of the old main's queue, each listed."
            )
        }));
        lines.push(format!("  Answers of the old main until its return: {}.", answers.join(", ")));
    }
    lines.extend(withheld(compared));
    lines.extend(failback(outcome));
    let faults = outcome.faults();
    lines.push(match faults.is_empty() {
        true => "  OK: oversold 0, sold by both 0, sold after the return 0, untrue answers 0".into(),
        false => format!("  NOT OK: {}", faults.join("; ")),
    });
    lines.extend(outcome.findings.untrue_answers.iter().map(|answer| format!("    untrue answer: {answer}")));
    lines
}

/// The line about the failback.
fn failback(outcome: &DrillOutcome) -> Option<String> {
    let back = outcome.back.as_ref()?;
    let pause = back.new_first_sale_ms.zip(back.old_last_sale_ms).map(|(new, old)| new.saturating_sub(old));
    let figure = |ms: Option<u64>| ms.map_or("an unknown time".into(), |ms| format!("{} s", seconds(ms)));
    Some(format!(
        "  Failback, planned: RTO {}, no sales for {}, {} sales lost.",
        figure(back.report["rto_ms"].as_u64()),
        figure(pause),
        back.lost,
    ))
}

/// The lost units of each item, and the units withheld for them.
fn withheld(compared: &Value) -> Option<String> {
    let items: BTreeMap<String, Value> = serde_json::from_value(compared["items"].clone()).ok()?;
    let words = items.iter().map(|(item_id, lacking)| {
        format!("{item_id} {} of {} withheld", lacking["lost"], lacking["withheld"])
    });
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| format!("  Lost, of the withheld units: {}.", words.join(", ")))
}

fn steps(outcome: &DrillOutcome) -> Vec<(String, u64)> {
    let steps = outcome.report["steps"].as_array().into_iter().flatten();
    steps
        .filter_map(|step| Some((step["step"].as_str()?.replace('_', " "), step["took_ms"].as_u64()?)))
        .collect()
}

fn seconds(ms: u64) -> String {
    format!("{:.1}", ms as f64 / 1_000.0)
}
