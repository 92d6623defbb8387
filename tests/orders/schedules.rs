//! Runs of drain and worker while their schedules start them late, or not at all.

use local::aws::schedule::{Start, Starts, loop_run};
use local::crowd::audit::AuditFindings;
use local::system::{Options, System, regions};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::{announce, drop_of, eventually, quick};

/// A minute here.
const INTERVAL: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(30);
/// One in a tenth of a second, so that each gap of the drain meets some.
const BUYERS: u32 = 300;
const SETTLE_MICROS: u64 = 500_000;
/// The longest time for which the drain may stand still.
const LONGEST_GAP: Duration = Duration::from_secs(2);

fn starts(options: &Options, function: &'static str) -> Vec<Start> {
    let plan = options.plan(function, options.regions[0].region.name);
    Starts::of(&plan).take_while(|start| start.at < WATCHED).collect()
}

/// The longest time between two starts, and whether two in a row are lost.
fn hardest(starts: &[Start]) -> (Duration, bool) {
    let pairs = || starts.windows(2).map(|pair| (pair[0], pair[1]));
    let gap = pairs().map(|(one, next)| next.at - one.at).max().unwrap_or_default();
    (gap, pairs().any(|(one, next)| next.number - one.number > 2))
}

/// Options with a seed that loses a start in the worst place.
fn unlucky() -> Options {
    let with = |schedule_seed| Options { run_every: INTERVAL, schedule_seed, ..quick(regions::first(1)) };
    (0..)
        .map(with)
        .find(|options| {
            let (gap, loses_two) = hardest(&starts(options, "checkout-drain"));
            gap > INTERVAL.mul_f64(2.6) && !loses_two
        })
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_passes_without_a_drain_while_starts_are_late_and_lost() {
    let options = unlucky();
    let system = System::start(&options).await.unwrap();
    announce(&system, "drop", json!({ "stock_total": BUYERS, "settle_window_ms": SETTLE_MICROS / 1_000 }))
        .await
        .unwrap();
    let (gap, _) = hardest(&starts(&options, "checkout-drain"));
    assert!(gap > loop_run(INTERVAL).mul_f64(0.8), "the schedule of this seed is too kind: {gap:?}");
    let buying = drop_of(&system, BUYERS, BUYERS / 30, "buyer");
    let most_processes = async {
        let began = Instant::now();
        let mut most = 0;
        while began.elapsed() < WATCHED {
            most = most.max(system.drain.process_ids().len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        most
    };
    let (sent, processes) = tokio::join!(buying, most_processes);
    let sent = sent.unwrap();
    let item_id = "drop".parse().unwrap();
    // A sale is in the ledger before Redis shows it.
    let outcome = eventually("every unit is sold", Duration::from_secs(10), async || {
        let outcome = system.drop_result(&item_id).await?;
        Ok((outcome.sold.len() == BUYERS as usize).then_some(outcome))
    })
    .await
    .unwrap();
    // How long each settled order waited for the drain.
    let waited = outcome
        .reservations
        .iter()
        .map(|one| (one.reserved_at_ms * 1_000).saturating_sub(one.placed_at + SETTLE_MICROS));
    let longest = Duration::from_micros(waited.max().unwrap());
    println!("starts up to {gap:?} apart; {longest:?} without a drain; {processes} processes");
    assert!(longest < LONGEST_GAP, "{longest:?} without a drain; starts are up to {gap:?} apart");
    assert!((3..=6).contains(&processes), "{processes} processes of the drain");
    assert_eq!(outcome.check(&sent), AuditFindings::default());
}
