//! Buyers who order during the whole run, from all regions, and record the answers that they get.

use crate::two_regions::TwoRegions;
use anyhow::Result;
use local::crowd::OrderAnswer;
use local::system::clock::micros_now;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Pause between two requests of a buyer. Of one who waits for a unit it grows: a failover keeps many waiting.
const PAUSE: Duration = Duration::from_millis(400);
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// How long a buyer waits for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// One order request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderAttempt {
    /// Time of the answer, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// The index of the buyer's region.
    pub(super) region: usize,
    /// The HTTP status; 0 without an answer.
    pub(super) status: u16,
    pub(super) answer: OrderAnswer,
}

/// What one buyer experienced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BuyerRecord {
    pub(super) subject: String,
    pub(super) item_id: &'static str,
    /// When an answer first confirmed a place in the queue.
    pub(super) queued_ms: Option<u64>,
    /// When an answer first reported the sale.
    pub(super) sold_ms: Option<u64>,
    /// Places in the queue that were confirmed and then lost.
    pub(super) places_lost: u64,
    /// The last answer to an order.
    pub(super) answer: OrderAnswer,
    /// All answers to orders, with the number of equal ones in a row.
    pub(super) answers_seen: Vec<String>,
}

/// A crowd that orders until it is finished.
#[derive(Debug)]
pub(super) struct Buyers {
    running: JoinHandle<Vec<BuyerRecord>>,
    is_open: Arc<AtomicBool>,
    stays: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<OrderAttempt>>>,
    sold: Arc<AtomicU64>,
}

impl Drop for Buyers {
    /// A run that has failed needs no more buyers.
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[derive(Clone)]
struct Shopper {
    client: reqwest::Client,
    url: String,
    token: String,
    region: usize,
    stays: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<OrderAttempt>>>,
    sold: Arc<AtomicU64>,
}

impl Buyers {
    /// Starts `per_second` buyers each second, from all regions and for all `items` in turn.
    pub(super) fn start(
        two: &TwoRegions,
        first: &str,
        per_second: u32,
        items: &'static [&'static str],
    ) -> Result<Self> {
        let urls: Vec<String> = two.regions.iter().map(|region| region.url()).collect();
        let client = reqwest::Client::builder().tcp_nodelay(true).timeout(ANSWER_LIMIT).build()?;
        let [is_open, stays] = [true, true].map(|yes| Arc::new(AtomicBool::new(yes)));
        let (answers, sold): (Arc<Mutex<Vec<OrderAttempt>>>, Arc<AtomicU64>) = Default::default();
        let (still_open, still_stays) = (is_open.clone(), stays.clone());
        let (all_answers, all_sold, first) = (answers.clone(), sold.clone(), first.to_owned());
        let identity = two.identity.clone();
        let running = tokio::spawn(async move {
            let mut shopping = JoinSet::new();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
            for number in 0_usize.. {
                ticks.tick().await;
                if !still_open.load(Ordering::Relaxed) {
                    break;
                }
                let subject = format!("{first}-{number}");
                let region = number % urls.len().max(1);
                // Buyers of each region order each of the items.
                let item_id = items.get(number / urls.len().max(1) % items.len().max(1));
                let (Some(url), Some(item_id), Ok(token)) =
                    (urls.get(region), item_id, identity.token(&subject))
                else {
                    break;
                };
                let shopper = Shopper {
                    client: client.clone(),
                    url: format!("{url}/items/{item_id}/orders"),
                    token,
                    region,
                    stays: still_stays.clone(),
                    answers: all_answers.clone(),
                    sold: all_sold.clone(),
                };
                shopping.spawn(shopper.shop(subject, item_id));
            }
            let mut buyers = Vec::new();
            while let Some(buyer) = shopping.join_next().await {
                buyers.extend(buyer.ok());
            }
            buyers
        });
        Ok(Self { running, is_open, stays, answers, sold })
    }

    /// The number of buyers to whom a sale was reported so far.
    pub(super) fn sold(&self) -> u64 {
        self.sold.load(Ordering::Relaxed)
    }

    /// Starts no more buyers, lets the present ones go on for at most `limit`, and returns their records.
    pub(super) async fn finish(mut self, limit: Duration) -> Result<(Vec<BuyerRecord>, Vec<OrderAttempt>)> {
        self.is_open.store(false, Ordering::Relaxed);
        let started = Instant::now();
        while !self.running.is_finished() && started.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.stays.store(false, Ordering::Relaxed);
        let buyers = (&mut self.running).await?;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((buyers, answers))
    }
}

impl BuyerRecord {
    pub(super) fn new(subject: String, item_id: &'static str) -> Self {
        Self {
            subject,
            item_id,
            queued_ms: None,
            sold_ms: None,
            places_lost: 0,
            answer: OrderAnswer::None("no-answer".into()),
            answers_seen: Vec::new(),
        }
    }

    /// Takes the answer to an order, whatever it says: an earlier refusal counts no longer.
    pub(super) fn take(&mut self, status: u16, slug: Option<&str>) {
        self.answer = answer_of(status, slug);
        let text = slug.map_or_else(|| status.to_string(), |slug| format!("{status} {slug}"));
        let times = match self.answers_seen.last().and_then(|last| last.strip_prefix(&text)) {
            Some("") => 2,
            Some(more) => more.strip_prefix(" x").and_then(|n| n.parse::<u32>().ok()).map_or(1, |n| n + 1),
            None => 1,
        };
        if times > 1 {
            self.answers_seen.pop();
        }
        self.answers_seen.push(if times > 1 { format!("{text} x{times}") } else { text });
    }

    /// The buyer has a place in the queue, or a unit.
    fn is_queued(&mut self) {
        self.answer = OrderAnswer::Queued;
        self.queued_ms.get_or_insert_with(now_ms);
    }
}

fn answer_of(status: u16, slug: Option<&str>) -> OrderAnswer {
    match (status, slug) {
        (200 | 202, _) => OrderAnswer::Queued,
        (_, Some(slug)) => OrderAnswer::Refused(slug.to_owned()),
        (status, None) => OrderAnswer::None(format!("http-{status}")),
    }
}

impl Shopper {
    /// Orders until there is a final answer, and requests the order's status until it is sold.
    async fn shop(self, subject: String, item_id: &'static str) -> BuyerRecord {
        let mut buyer = BuyerRecord::new(subject, item_id);
        let mut is_unsure = false;
        while self.stays.load(Ordering::Relaxed) {
            let (status, slug) = self.order().await;
            buyer.take(status, slug.as_deref());
            let is_over = match (status, slug.as_deref()) {
                (200 | 202, _) | (_, Some("already-reserved")) => {
                    buyer.is_queued();
                    self.wait_for_the_unit(&mut buyer).await
                }
                (_, Some("already-sold")) => {
                    buyer.sold_ms.get_or_insert_with(now_ms);
                    true
                }
                // An earlier order without an answer may be in the queue, or sold.
                (409 | 410, Some(_)) if is_unsure && self.has_place().await => {
                    buyer.is_queued();
                    self.wait_for_the_unit(&mut buyer).await
                }
                (409 | 410, Some(_)) => true,
                (_, slug) => {
                    is_unsure |= slug.is_none_or(|slug| slug == "outcome-unknown");
                    false
                }
            };
            if is_over {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if buyer.sold_ms.is_some() {
            self.sold.fetch_add(1, Ordering::Relaxed);
        }
        buyer
    }

    /// Waits for the sale. Returns false if the place is lost, so that the buyer orders again.
    async fn wait_for_the_unit(&self, buyer: &mut BuyerRecord) -> bool {
        let mut pause = PAUSE;
        while self.stays.load(Ordering::Relaxed) {
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(MAX_PAUSE);
            match self.ask().await.as_deref() {
                Some("sold") => {
                    buyer.sold_ms.get_or_insert_with(now_ms);
                    return true;
                }
                // By the region's order log. The buyer orders again.
                Some("refused") => return false,
                Some("none" | "released") => {
                    buyer.places_lost += 1;
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    /// Requests the status until there is an answer.
    async fn has_place(&self) -> bool {
        while self.stays.load(Ordering::Relaxed) {
            if let Some(status) = self.ask().await {
                return matches!(status.as_str(), "accepted" | "queued" | "reserved" | "sold");
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// The order's status, if there is an answer.
    async fn ask(&self) -> Option<String> {
        let request = self.client.get(format!("{}/me", self.url)).bearer_auth(&self.token);
        let response = request.send().await.ok().filter(|response| response.status() == 200)?;
        let page: Value = response.json().await.ok()?;
        page["status"].as_str().map(str::to_owned)
    }

    /// Places an order. Returns the HTTP status, and the last part of the type of a problem.
    async fn order(&self) -> (u16, Option<String>) {
        let answer = match self.client.post(&self.url).bearer_auth(&self.token).send().await {
            Err(_) => (0, None),
            Ok(response) => {
                let status = response.status().as_u16();
                let body: Value = response.json().await.unwrap_or_default();
                let slug = body["type"].as_str().and_then(|kind| kind.rsplit(':').next());
                (status, slug.map(str::to_owned))
            }
        };
        let (status, slug) = &answer;
        let kind = answer_of(*status, slug.as_deref());
        let attempt = OrderAttempt { at_ms: now_ms(), region: self.region, status: *status, answer: kind };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
        answer
    }
}

pub(super) fn now_ms() -> u64 {
    micros_now() / 1_000
}
