//! The verdict over series that replica-lag has recorded of two real servers, two seconds apart.

use replica_lag::judge::judge;
use replica_lag::sample::StandbySample;
use replica_lag::verdict::CurrentVerdict;
use replica_lag::window::Window;
use std::path::Path;

/// The limit that was configured when the series were recorded.
const LAG_LIMIT_SECONDS: f64 = 4.0;

fn series(name: &str) -> Vec<StandbySample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations/replica_verdict/recorded");
    let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The verdicts and causes, one for each change.
fn verdicts(samples: &[StandbySample]) -> Vec<String> {
    let (mut window, mut current, mut found) =
        (Window::default(), None::<CurrentVerdict>, Vec::<String>::new());
    for sample in samples {
        window.push(sample.clone(), LAG_LIMIT_SECONDS);
        let assessment = judge(current, &window, LAG_LIMIT_SECONDS);
        if current.is_none_or(|current| current.verdict != assessment.verdict) {
            current = Some(CurrentVerdict { verdict: assessment.verdict, since_ms: sample.at_ms });
            found.push(format!("{} {}", assessment.verdict.name(), assessment.cause));
        }
    }
    found
}

#[test]
fn each_recorded_series_gets_the_same_verdicts_again() {
    for (name, expected) in [
        ("load", vec!["healthy in-sync"]),
        ("burst", vec!["healthy in-sync", "overloaded burst"]),
        ("cut-connection", vec!["healthy in-sync", "broken nothing-arrives"]),
        ("silent-main", vec!["healthy in-sync", "broken main-silent"]),
        ("paused-replay", vec!["healthy in-sync", "broken paused"]),
        (
            "stopped-replica",
            vec!["healthy in-sync", "broken connection-closed", "catching-up catches-up", "healthy in-sync"],
        ),
    ] {
        assert_eq!(verdicts(&series(name)), expected, "{name}");
    }
}

/// Each series is judged without each one of its samples. A missing sample may delay a verdict, and never makes a
/// broken replica healthy.
#[test]
fn a_missing_sample_makes_nothing_healthy() {
    for name in ["cut-connection", "silent-main", "paused-replay"] {
        let whole = series(name);
        for missing in 0..whole.len() {
            let rest: Vec<StandbySample> = whole
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != missing)
                .map(|(_, one)| one.clone())
                .collect();
            let verdicts_of_rest = verdicts(&rest);
            let healthy = verdicts_of_rest.iter().filter(|one| one.starts_with("healthy")).count();
            assert!(healthy <= 1, "{name} without {missing}: {verdicts_of_rest:?}");
        }
    }
}
