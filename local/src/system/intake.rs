//! How orders get to main's queue: at once, or through the order log of their region.

use crate::aws::dynamodb::DynamoDb;
use crate::aws::environments::ClassicLimits;
use crate::aws::event_source::{EventSourceMapping, MappingOptions};
use crate::aws::functions::FunctionProcess;
use crate::aws::lambda::Invoke;
use crate::crowd::{OrderAnswer, SentOrder};
use crate::system::System;
use anyhow::{Context, Result};
use serde_json::Value;
use shared::item::ItemId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The name of each region's order log.
pub const TABLE: &str = "order-log";
/// order-place's processes in a region, all of which may start at once: the template's reserved concurrency, as a test compares.
pub const OF_PLACE: ClassicLimits = ClassicLimits::waiting(20, 20);
/// How long main may take to decide an order: 15 s by its promise, and more on a busy machine.
const DECISION_LIMIT: Duration = Duration::from_secs(60);
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How orders get to main.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Intake {
    /// order-intake places each order itself, and answers when main has.
    Direct,
    /// order-intake stores each order in its region's order log; order-place places it.
    #[default]
    Log,
}

/// From a region's order log to main.
#[derive(Debug)]
pub struct LogPath {
    pub place: FunctionProcess,
    pub mapping: EventSourceMapping,
}

impl LogPath {
    pub(super) fn open(
        place: FunctionProcess,
        tables: &DynamoDb,
        region: &'static str,
        invoke: Invoke,
    ) -> Self {
        let mapping =
            EventSourceMapping::start(tables.url(), region, TABLE, invoke, MappingOptions::order_place());
        Self { place, mapping }
    }
}

/// The variables by which functions find the log of their region, and those of all regions.
pub(super) fn variables(tables: &DynamoDb, regions: &[&str]) -> Vec<(String, String)> {
    let mut variables = tables.environment();
    variables.push(("FAIRDROP_ORDER_LOG_TABLE".into(), TABLE.into()));
    let logs: Vec<String> = regions.iter().map(|region| format!("{region}={TABLE}")).collect();
    variables.push(("FAIRDROP_ORDER_LOGS".into(), logs.join(",")));
    variables
}

impl System {
    /// Waits until main has decided every accepted order, and replaces the answers to those that it refused.
    pub async fn decide(&self, item_id: &ItemId, sent: &mut [SentOrder]) -> Result<()> {
        let Some(tables) = &self.tables else { return Ok(()) };
        let began = Instant::now();
        loop {
            let refused: Vec<HashMap<String, String>> = self
                .regions
                .iter()
                .map(|running| refusals(tables, running.region.name, item_id))
                .collect::<Result<_>>()?;
            for order in sent.iter_mut().filter(|order| order.answer == OrderAnswer::Queued) {
                let reason = refused.get(order.region).and_then(|refused| refused.get(&order.subject));
                if let Some(reason) = reason {
                    order.answer = OrderAnswer::Refused(reason.clone());
                }
            }
            let is_decided = self.drop_result(item_id).await?.check(sent).lost == 0;
            // What is still undecided then counts as lost.
            if is_decided || began.elapsed() > DECISION_LIMIT {
                return Ok(());
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}

/// Why main refused orders of a region, by their buyers.
fn refusals(tables: &DynamoDb, region: &str, item_id: &ItemId) -> Result<HashMap<String, String>> {
    let text = |record: &Value, name: &str| record[name]["S"].as_str().map(str::to_owned);
    let mut refused = HashMap::new();
    for record in tables.items(region, TABLE)? {
        let Some(reason) = text(&record, "reason") else { continue };
        let item = text(&record, "item_bucket").context("a record without a partition key")?;
        let key = text(&record, "buyer_stamp").context("a record without a sort key")?;
        let (buyer, _) = key.rsplit_once('#').context("a sort key without a stamp")?;
        if item.split('#').next() == Some(item_id.as_str()) {
            refused.insert(buyer.to_owned(), reason);
        }
    }
    Ok(refused)
}
