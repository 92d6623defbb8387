//! The verdict over series that the watcher has seen of two real servers, two seconds apart.

use replica_lag::sample::Sample;
use replica_lag::verdict::{Standing, judge};
use replica_lag::window::Window;
use std::path::Path;

/// From here on a lag counted when the series were recorded.
const BEHIND_SECONDS: f64 = 4.0;

fn series(name: &str) -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations/replica_verdict/recorded");
    let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The verdicts and causes that follow each other.
fn verdicts(samples: &[Sample]) -> Vec<String> {
    let (mut window, mut standing, mut told) = (Window::default(), None::<Standing>, Vec::<String>::new());
    for sample in samples {
        window.push(sample.clone(), BEHIND_SECONDS);
        let assessment = judge(standing, &window, BEHIND_SECONDS);
        if standing.is_none_or(|standing| standing.verdict != assessment.verdict) {
            standing = Some(Standing { verdict: assessment.verdict, since_ms: sample.at_ms });
            told.push(format!("{} {}", assessment.verdict.name(), assessment.cause));
        }
    }
    told
}

#[test]
fn what_was_recorded_is_judged_as_it_was() {
    for (name, expected) in [
        ("load", vec!["healthy in-step"]),
        ("burst", vec!["healthy in-step", "overloaded burst"]),
        ("cut-line", vec!["healthy in-step", "broken nothing-arrives"]),
        ("silent-main", vec!["healthy in-step", "broken main-silent"]),
        ("paused-replay", vec!["healthy in-step", "broken paused"]),
        (
            "stopped-replica",
            vec!["healthy in-step", "broken line-closed", "catching-up catches-up", "healthy in-step"],
        ),
    ] {
        assert_eq!(verdicts(&series(name)), expected, "{name}");
    }
}

/// Each series with every one of its samples left out: what is missing may delay a verdict, and never makes
/// a broken one healthy.
#[test]
fn a_sample_that_is_missing_makes_nothing_healthy() {
    for name in ["cut-line", "silent-main", "paused-replay"] {
        let whole = series(name);
        for missing in 0..whole.len() {
            let rest: Vec<Sample> = whole
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != missing)
                .map(|(_, one)| one.clone())
                .collect();
            let told = verdicts(&rest);
            let healthy = told.iter().filter(|one| one.starts_with("healthy")).count();
            assert!(healthy <= 1, "{name} without {missing}: {told:?}");
        }
    }
}
