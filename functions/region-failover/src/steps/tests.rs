use super::*;
use crate::observation::Loss;

const FORCED_MODE: Mode = Mode::Forced { accepted: Loss { ms: 0, sales: 0 } };

#[test]
fn no_region_sells_for_less_than_half_an_hour_even_if_every_step_takes_as_long_as_its_limit() {
    for mode in [Mode::Planned, FORCED_MODE] {
        let path = critical_path(mode);
        let last = path.last().unwrap();
        assert_eq!(last.step, OpenSales);
        assert!(last.ends_seconds < 30 * 60, "{mode:?}: {path:?}");
    }
    // The class changes beside the other steps.
    let ends =
        |step| critical_path(FORCED_MODE).iter().find(|entry| entry.step == step).unwrap().ends_seconds;
    let limit = ScaleUp.definition().limit.of(FORCED_MODE).0 / 1_000;
    assert_eq!(ends(ScaleUp), (ends(LagGate) + limit).max(ends(MoveRedis)));
}

#[test]
fn a_limit_aborts_only_before_the_point_of_no_return() {
    for mode in [Mode::Planned, FORCED_MODE] {
        let order = FailoverStep::order(mode);
        let no_return = order.iter().position(|step| *step == MoveRedis).unwrap();
        for step in &order[no_return..] {
            assert_ne!(step.definition().limit.then, AtLimit::Abort, "{step:?}");
        }
    }
}

/// `1 min`, `1 min 30 s`.
fn time(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (minutes, 0) => format!("{minutes} min"),
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

fn steps_table() -> String {
    let mut table = "| step | done when | limit, and what happens then |\n|---|---|---|\n".to_owned();
    for step in FailoverStep::order(FORCED_MODE) {
        let (name, definition) = (step.name(), step.definition());
        let [planned, forced] =
            [Mode::Planned, FORCED_MODE].map(|mode| time(definition.limit.of(mode).0 / 1_000));
        let limit = if planned == forced { planned } else { format!("{planned} planned, {forced} forced") };
        table +=
            &format!("| {name} | {} | {limit}: {} |\n", definition.done_when, definition.limit.then.words());
    }
    table
}

fn path_table(mode: Mode) -> String {
    let mut table = "| step | limit | ends after, at the latest |\n|---|---|---|\n".to_owned();
    for PathEntry { step, limit_seconds, ends_seconds } in critical_path(mode) {
        table += &format!("| {} | {} | {} |\n", step.name(), time(limit_seconds), time(ends_seconds));
    }
    table
}

#[test]
fn the_runbook_has_the_steps_and_the_critical_paths_as_they_are_defined() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbook/failover.md");
    let page = std::fs::read_to_string(page).unwrap();
    for table in [steps_table(), path_table(Mode::Planned), path_table(FORCED_MODE)] {
        assert!(page.contains(&table), "docs/runbook/failover.md lacks this table:\n{table}");
    }
    for definition in FailoverStep::order(FORCED_MODE).iter().map(|step| step.definition()) {
        assert!(
            definition.limit.then != AtLimit::Leave || !definition.limit.if_outstanding.is_empty(),
            "{definition:?}"
        );
    }
}
