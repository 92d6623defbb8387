//! The opening: a crowd that meets no process, in five regions, through the order log and without it.
//!
//! On AWS each process has a processor of its own. Here a thousand share those of one machine, so that only so many start
//! at a time as it can run, and the last order waits for its process as long as all starts take together.

use crate::figure::Figure;
use anyhow::Result;
use local::command::demo::{self, DemoOptions};
use local::system::intake::Intake;
use std::collections::BTreeMap;
use std::path::Path;

/// Orders within about a second, from a rush of twice as many a second.
const ORDERS: u32 = 1_000;
/// Processes that a region starts at a time.
const STARTING: u32 = 2;

/// The share of the orders that were accepted and placed within the window.
pub(crate) async fn measure(functions: &Path, out: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, intake) in [("opening_direct", Intake::Direct), ("opening_log", Intake::Log)] {
        let options = DemoOptions {
            orders: ORDERS,
            stock: ORDERS,
            hold_seconds: 0,
            rush: f64::from(ORDERS) * 2.0,
            scaling_rate: Some(ORDERS),
            cold: Some(STARTING),
            binaries: Some(functions.to_owned()),
            intake,
            out: out.to_owned(),
            ..DemoOptions::default()
        };
        let report = demo::measure(&options).await?;
        let queued: u64 = report.regions.iter().map(|region| region.queued).sum();
        let path = &report.path;
        let against = format!(
            "{ORDERS} orders within a second, 5 regions, TLS, {} cold processes, {STARTING} starting at a time in a region; \
             placed {:.0} ms (p50) and {:.0} ms (p99) after the stamp; CPU {:.1} ms an order; refused: {}",
            path.processes.started,
            path.placed_ms.p50,
            path.placed_ms.p99,
            report.cpu_ms_per_order(),
            refused(&report.refused)
        );
        let figure = Figure::measured(name, queued as f64 / f64::from(ORDERS) * 100.0, "%", against);
        figures.push(if intake == Intake::Log { figure.at_least(99.9) } else { figure });
    }
    Ok(figures)
}

fn refused(by_problem: &BTreeMap<String, u64>) -> String {
    let refused: Vec<String> =
        by_problem.iter().map(|(problem, orders)| format!("{orders} {problem}")).collect();
    if refused.is_empty() { "none".into() } else { refused.join(", ") }
}
