//! A run of region-failover as its report shows it. Fields that are not here are in the answer, and so with `--json`.

use crate::table;
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Report {
    pub(crate) run: RunState,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
    #[serde(default)]
    pub(crate) means: String,
    #[serde(default)]
    to_do: Vec<String>,
    /// What happens if the invocation ended before the run.
    next: Option<String>,
    /// Milliseconds from the beginning until the new main sold.
    rto_ms: Option<u64>,
    /// Milliseconds in which no region could sell.
    pause_ms: Option<u64>,
    stated: Option<Value>,
    inherited: Option<Value>,
    measured: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct RunState {
    pub(crate) id: String,
    pub(crate) state: State,
    #[serde(default)]
    outstanding: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Aborting,
    Aborted,
    /// The new main sells, and a step is outstanding.
    Degraded,
    Done,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) took_ms: u64,
    pub(crate) is_done: bool,
    pub(crate) actions: u32,
    /// What it waited for last, or what failed last.
    #[serde(default)]
    pub(crate) last: String,
}

impl Report {
    /// `None` if the answer is no report.
    pub(crate) fn of(answer: &Value) -> Option<Self> {
        serde_json::from_value(answer.clone()).ok()
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.run.state, State::Running | State::Aborting)
    }

    /// The text for people.
    pub(crate) fn text(&self) -> String {
        let lines = self.steps.iter().map(|step| {
            let state = if step.is_done {
                "done"
            } else if self.run.outstanding.contains(&step.step) {
                "outstanding"
            } else {
                "not done"
            };
            let took = format!("{:.1} s", step.took_ms as f64 / 1_000.0);
            vec![
                step.step.clone(),
                state.into(),
                took,
                step.actions.to_string(),
                table::cell("last", &step.last.clone().into()),
            ]
        });
        let steps = table::grid(&["step", "state", "took", "actions", "last"], lines.collect());
        let figures = serde_json::json!({
            "run": self.run.id, "rto_ms": self.rto_ms, "pause_ms": self.pause_ms, "stated": self.stated,
            "inherited": self.inherited, "measured": self.measured,
        });
        let figures =
            table::fields(&figures, &["run", "rto_ms", "pause_ms", "stated", "inherited", "measured"]);
        let to_do: Vec<String> = self.next.iter().chain(&self.to_do).map(|one| format!("- {one}")).collect();
        let to_do = if to_do.is_empty() { String::new() } else { format!("to do:\n{}", to_do.join("\n")) };
        [steps, figures, to_do].iter().fold(self.means.clone(), |text, part| table::join(&text, part))
    }
}

/// The report for people, or the fields of any other answer.
pub(crate) fn show(answer: &Value) -> String {
    Report::of(answer).map_or_else(|| table::fields(answer, &[]), |report| report.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_shows_its_steps_its_meaning_and_what_to_do() {
        let answer = json!({
            "run": { "id": "us-west-2-4-17", "state": "degraded", "outstanding": ["fence_old_main"], "new_field": 1 },
            "steps": [
                { "step": "precheck", "took_ms": 1_250, "is_done": true, "actions": 0, "last": "" },
                { "step": "fence_old_main", "took_ms": 120_000, "is_done": false, "actions": 3, "last": "no answer" },
            ],
            "means": "us-west-2 is main.", "to_do": ["waive it"], "rto_ms": 61_000, "pause_ms": null,
        });
        let text = show(&answer);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "us-west-2 is main.");
        assert_eq!(words(lines[3]), ["precheck", "done", "1.2", "s", "0"]);
        assert_eq!(words(lines[4]), ["fence_old_main", "outstanding", "120.0", "s", "3", "no", "answer"]);
        assert!(text.contains("rto_ms") && text.contains("61 s"), "{text}");
        assert_eq!(lines[lines.len() - 1], "- waive it");
        assert!(!Report::of(&answer).unwrap().is_active());
    }

    #[test]
    fn an_answer_of_another_form_is_shown_by_its_fields() {
        assert_eq!(show(&json!({ "resumed": [] })), "resumed  -");
    }
}
