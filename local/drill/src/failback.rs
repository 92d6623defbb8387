//! The way back: the old region becomes the standby, and main is moved to it as by plan.

use super::run::{ITEMS, RUN_LIMIT, until};
use super::sales;
use crate::two_regions::{MAIN, STANDBY, TwoRegions};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

/// The reigns before and after it.
const EPOCHS: [i64; 2] = [2, 3];

/// What came of it. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Failback {
    /// The last commit of a sale by the main that was left.
    pub old_last_sale_ms: Option<u64>,
    /// The first by the main that it was moved to.
    pub new_first_sale_ms: Option<u64>,
    /// Sales of the one after the first of the other.
    pub sold_concurrently: u64,
    /// Sales of the main that was left which the other does not have.
    pub lost: u64,
    /// region-failover's own report.
    pub report: Value,
}

impl Failback {
    /// What was promised and not kept, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let is_in_turn =
            self.old_last_sale_ms.zip(self.new_first_sale_ms).is_some_and(|(old, new)| old < new);
        let state = self.report["run"]["state"].as_str().unwrap_or("nothing");
        let faults = [
            (!is_in_turn).then(|| "two sellers at once on the way back, or none".into()),
            (self.sold_concurrently > 0)
                .then(|| format!("{} sales beside on the way back", self.sold_concurrently)),
            (self.lost > 0).then(|| format!("{} sales lost on the way back", self.lost)),
            (state != "done").then(|| format!("the way back ended as {state}")),
        ];
        faults.into_iter().flatten().collect()
    }
}

/// The new standby's function reads the record of the failover that made the other region main. It must not carry that
/// out by its own configuration.
async fn leaves_the_last_one_alone(two: &TwoRegions) -> Result<()> {
    let answer = two.failover(&json!({ "command": "resume" })).await;
    let is_refused = answer.as_ref().is_err_and(|error| format!("{error:#}").contains("Elsewhere"));
    ensure!(is_refused, "resume of the other region's failover: {answer:?}");
    let answer = two.failover(&json!({ "command": "resume_pending" })).await?;
    ensure!(answer["resumed"] == json!([]), "the other region's failover is resumed: {answer}");
    Ok(())
}

/// Moves main back to the region that was main at first.
pub(super) async fn fail_back(two: &mut TwoRegions, progress: &(dyn Fn(&str) + Sync)) -> Result<Failback> {
    progress("the old region becomes the standby");
    two.make_old_main_the_standby().await?;
    leaves_the_last_one_alone(two).await?;
    two.can_move().await?;
    progress("main moves back");
    // The last failover was a moment ago.
    let command = json!({ "command": "run", "mode": "planned", "skip_cooldown": true });
    let run = tokio::time::timeout(RUN_LIMIT, two.failover(&command));
    let sells = until("the old region sells again", RUN_LIMIT, async || {
        Ok(sales::commits(two, MAIN, EPOCHS[1], 0).await.is_ok_and(|commits| commits.sales > 3))
    });
    let (report, sells) = tokio::join!(run, sells);
    let report = report.context("the way back has no end")??;
    sells.with_context(|| format!("the way back: {}", report["means"]))?;

    let left = sales::commits(two, STANDBY, EPOCHS[0], 0).await?;
    let here = sales::commits(two, MAIN, EPOCHS[1], 0).await?;
    let since = here.first_ms.unwrap_or(u64::from(u32::MAX));
    let beside = sales::commits(two, STANDBY, EPOCHS[0], since).await?;
    let (of_left, of_here) = (two.ledger(STANDBY).await?, two.ledger(MAIN).await?);
    let mut lost = 0;
    for (name, _) in ITEMS {
        let item_id = name.parse()?;
        let [left, here] = [sales::read(&of_left, &item_id).await?, sales::read(&of_here, &item_id).await?];
        lost += left.sold.difference(&here.sold).count() as u64;
    }
    Ok(Failback {
        old_last_sale_ms: left.last_ms,
        new_first_sale_ms: here.first_ms,
        sold_concurrently: beside.sales,
        lost,
        report,
    })
}
