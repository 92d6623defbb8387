//! The people: a crowd of buyers in many regions who all order one item at the same time; their [`payments`] in the
//! shop with [`cards`] of a provider, buyers as [`watcher`]s at their [`socket`]s, and the [`audit`] of the answers that
//! they got.

pub mod audit;
pub mod cards;
pub mod payments;
pub mod socket;
pub mod watcher;

use crate::aws::gateway::{ARRIVED_AT, Entrance};
use crate::aws::identity::IdentityProvider;
use crate::system::System;
use crate::system::clock::micros_now;
use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// The longest answer that a buyer reads.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An order of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedOrder {
    /// Which buyer.
    pub subject: String,
    /// Index of the buyer's region.
    pub region: usize,
    /// How long after the opening.
    pub after_opening: Duration,
}

/// An order that was placed, and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SentOrder {
    /// Which buyer.
    pub subject: String,
    /// Index of the buyer's region.
    pub region: usize,
    /// When it reached its region, in microseconds since the epoch; `None` if it did not.
    pub arrived_at: Option<u64>,
    pub answer: OrderAnswer,
    /// How long the buyer waited for the answer, in milliseconds.
    pub answer_ms: f64,
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderAnswer {
    /// The order is in the queue.
    Queued,
    /// The order was refused, with the last part of the problem's type.
    Refused(String),
    /// No answer, or none that a buyer could rely on, with the reason.
    None(String),
}

impl OrderAnswer {
    /// The reason in the report; `None` if the order is queued.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Queued => None,
            Self::Refused(reason) | Self::None(reason) => Some(reason),
        }
    }

    /// Whether the buyer may rely on the answer that the order is not queued.
    pub fn is_firm_refusal(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason != "outcome-unknown")
    }
}

/// The share of an endless crowd that would order after three half-lives, and is left out.
const LATEST: f64 = 1.0 / 8.0;

/// The half-life of the rate for a crowd of `orders` that begins with `rush` orders a second.
pub fn half_life(orders: u32, rush: f64) -> Option<Duration> {
    // The integral of rush × 2^(-t / half-life) from 0 to 3 half-lives is the number of orders.
    let seconds = f64::from(orders) * std::f64::consts::LN_2 / (rush * (1.0 - LATEST));
    Duration::try_from_secs_f64(seconds).ok()
}

/// Plans `orders` orders, spread evenly over the regions. The rate is highest at the
/// opening and halves with each `half_life`; after three of them the last order is placed. The same
/// seed plans the same crowd.
pub fn plan(seed: u64, orders: u32, regions: usize, half_life: Duration) -> Vec<PlannedOrder> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned: Vec<PlannedOrder> = (0..orders)
        .map(|number| PlannedOrder {
            subject: format!("buyer-{seed}-{number}"),
            region: number as usize % regions.max(1),
            after_opening: half_life.mul_f64(-random.random_range(LATEST..1.0).log2()),
        })
        .collect();
    planned.sort_by_key(|order| order.after_opening);
    planned
}

/// Signs a token for each order.
pub fn tokens(identity: &IdentityProvider, plan: &[PlannedOrder], signed: impl Fn()) -> Result<Vec<String>> {
    plan.iter()
        .map(|order| {
            signed();
            identity.token(&order.subject)
        })
        .collect()
}

/// Places every order at its time after the opening at `opens_at`, in microseconds since the epoch, whatever the answers
/// to the others.
pub async fn send(
    system: &System,
    item_id: &str,
    plan: &[PlannedOrder],
    tokens: &[String],
    opens_at: u64,
    answered: impl Fn(),
) -> Result<Vec<SentOrder>> {
    // If the opening has passed already, the crowd begins now.
    let now = micros_now();
    let opens_at = opens_at.max(now);
    let opening = Instant::now() + Duration::from_micros(opens_at - now);
    let mut waiting = FuturesUnordered::new();
    for (order, token) in plan.iter().zip(tokens) {
        let running = system.regions.get(order.region).with_context(|| {
            format!("the plan has an order in region {}, which the system does not have", order.region)
        })?;
        let request = Request::post(format!("/items/{item_id}/orders"))
            .header("authorization", format!("Bearer {token}"))
            .header("host", running.gateway.url().trim_start_matches("http://"))
            .body(Body::empty())?;
        let arrives_at = opens_at + u64::try_from(order.after_opening.as_micros())?;
        let arrival = (opening + order.after_opening, arrives_at);
        waiting.push(tokio::spawn(place(running.gateway.entrance(), request, order.clone(), arrival)));
    }
    let mut sent = Vec::with_capacity(plan.len());
    while let Some(order) = waiting.next().await {
        sent.push(order?);
        answered();
    }
    Ok(sent)
}

/// Places an order that arrives at an instant, which is `arrives_at` in microseconds since the epoch.
///
/// A gateway of AWS stamps an order when it arrives, whatever the functions have to do. On this machine they and the
/// crowd share the processors, and the task of an order runs late while functions run: then orders of several
/// milliseconds would be stamped in the same one. So the gateway stamps the moment at which the order was due. A late
/// task makes the order older, as a slow function does.
async fn place(
    gateway: Entrance,
    request: Request,
    order: PlannedOrder,
    (arrival, arrives_at): (Instant, u64),
) -> SentOrder {
    sleep_until(arrival.into()).await;
    // The gateway's limit is the buyer's.
    let (parts, body) = gateway.send(request, arrives_at).await.into_parts();
    let arrived_at = parts.headers.get(ARRIVED_AT).and_then(|value| value.to_str().ok()?.parse().ok());
    let answer = match parts.status.as_u16() {
        200 | 202 => OrderAnswer::Queued,
        status => judge(status, &to_bytes(body, MAX_ANSWER_BYTES).await.unwrap_or_default()),
    };
    let answer_ms = arrival.elapsed().as_secs_f64() * 1000.0;
    SentOrder { subject: order.subject, region: order.region, arrived_at, answer, answer_ms }
}

fn judge(status: u16, body: &[u8]) -> OrderAnswer {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let kind = problem.as_ref().and_then(|problem| problem.get("type")?.as_str()?.rsplit(':').next());
    match kind {
        Some(slug) => OrderAnswer::Refused(slug.to_owned()),
        None => OrderAnswer::None(format!("http-{status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::gateway::HttpGateway;
    use crate::aws::lambda::Emulator;

    #[tokio::test]
    async fn an_order_that_this_machine_sends_late_has_the_stamp_of_its_arrival() {
        // It has no function: the gateway refuses the order.
        let invoke = Emulator::start().await.unwrap().invoke_api();
        let gateway = HttpGateway::open("eu-west-1", true, invoke, 0, Duration::from_secs(5), Vec::new());
        let gateway = gateway.await.unwrap();
        let request = Request::post("/items/a/orders").body(Body::empty()).unwrap();
        let order = PlannedOrder { subject: "a".into(), region: 0, after_opening: Duration::ZERO };
        let stamp = 1_795_000_000_123_456;
        let arrival = (Instant::now().checked_sub(Duration::from_secs(1)).unwrap(), stamp);
        let sent = place(gateway.entrance(), request, order, arrival).await;
        assert_eq!((sent.arrived_at, sent.answer.reason()), (Some(stamp), Some("http-503")));
        assert!(sent.answer_ms >= 1_000.0, "{}", sent.answer_ms);
    }

    #[test]
    fn the_same_seed_is_the_same_crowd_with_equal_demand() {
        let half_life = Duration::from_secs(2);
        let crowd = plan(7, 1_000, 5, half_life);
        assert_eq!(crowd, plan(7, 1_000, 5, half_life));
        assert_ne!(crowd, plan(8, 1_000, 5, half_life));
        for region in 0..5 {
            assert_eq!(crowd.iter().filter(|order| order.region == region).count(), 200);
        }
        assert!(crowd.is_sorted_by_key(|order| order.after_opening));
        let first_half = crowd.iter().filter(|order| order.after_opening <= half_life).count();
        assert!((520..=620).contains(&first_half), "{first_half}");
    }
}
