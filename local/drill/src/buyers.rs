//! Buyers who order throughout, from all regions, and note the answers that they get.

use crate::two_regions::TwoRegions;
use anyhow::Result;
use local::crowd::OrderAnswer;
use local::system::clock::micros_now;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Between two tries of a buyer.
const PAUSE: Duration = Duration::from_millis(400);
/// How long a buyer waits for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// An answer that somebody got to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderAttempt {
    /// When, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// The index of the buyer's region.
    pub(super) site: usize,
    /// The HTTP status; 0 where there was no answer.
    pub(super) status: u16,
    /// What it said.
    pub(super) answer: OrderAnswer,
}

/// What became of one buyer, by their own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BuyerRecord {
    pub(super) subject: String,
    pub(super) item_id: &'static str,
    /// When they were first told that they are in the queue.
    pub(super) queued_ms: Option<u64>,
    /// When they were told that the unit is theirs.
    pub(super) sold_ms: Option<u64>,
    /// How often they had a place in the queue, and then had none.
    pub(super) places_lost: u64,
    /// What they were told last about an order.
    pub(super) answer: OrderAnswer,
    /// All that they were told about an order, and how often in a row.
    pub(super) answers_seen: Vec<String>,
}

/// A crowd that goes on until it is ended.
#[derive(Debug)]
pub(super) struct Buyers {
    coming: JoinHandle<Vec<BuyerRecord>>,
    comes: Arc<AtomicBool>,
    stays: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<OrderAttempt>>>,
    sold: Arc<AtomicU64>,
}

impl Drop for Buyers {
    /// Nobody comes to a run that has failed.
    fn drop(&mut self) {
        self.coming.abort();
    }
}

/// What one buyer needs.
#[derive(Clone)]
struct Shopper {
    client: reqwest::Client,
    url: String,
    token: String,
    site: usize,
    stays: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<OrderAttempt>>>,
    sold: Arc<AtomicU64>,
}

impl Buyers {
    /// `per_second` come each second, in turns from all regions, and in turns for each of `items`.
    pub(super) fn start(
        two: &TwoRegions,
        first: &str,
        per_second: u32,
        items: &'static [&'static str],
    ) -> Result<Self> {
        let urls: Vec<String> = two.sites.iter().map(|site| site.url()).collect();
        let client = reqwest::Client::builder().tcp_nodelay(true).timeout(ANSWER_LIMIT).build()?;
        let [comes, stays] = [true, true].map(|yes| Arc::new(AtomicBool::new(yes)));
        let (answers, sold): (Arc<Mutex<Vec<OrderAttempt>>>, Arc<AtomicU64>) = Default::default();
        let (still_comes, still_stays) = (comes.clone(), stays.clone());
        let (all_answers, all_sold, first) = (answers.clone(), sold.clone(), first.to_owned());
        let identity = two.identity.clone();
        let coming = tokio::spawn(async move {
            let mut shopping = JoinSet::new();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
            for number in 0_usize.. {
                ticks.tick().await;
                if !still_comes.load(Ordering::Relaxed) {
                    break;
                }
                let subject = format!("{first}-{number}");
                let site = number % urls.len().max(1);
                // Each region's buyers want each of the items.
                let item_id = items.get(number / urls.len().max(1) % items.len().max(1));
                let (Some(url), Some(item_id), Ok(token)) =
                    (urls.get(site), item_id, identity.token(&subject))
                else {
                    break;
                };
                let shopper = Shopper {
                    client: client.clone(),
                    url: format!("{url}/items/{item_id}/orders"),
                    token,
                    site,
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
        Ok(Self { coming, comes, stays, answers, sold })
    }

    /// How many have been told so far that a unit is theirs.
    pub(super) fn sold(&self) -> u64 {
        self.sold.load(Ordering::Relaxed)
    }

    /// Lets nobody come any more, and those who are there go on for `patience`.
    pub(super) async fn finish(
        mut self,
        patience: Duration,
    ) -> Result<(Vec<BuyerRecord>, Vec<OrderAttempt>)> {
        self.comes.store(false, Ordering::Relaxed);
        let started = Instant::now();
        while !self.coming.is_finished() && started.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.stays.store(false, Ordering::Relaxed);
        let buyers = (&mut self.coming).await?;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((buyers, answers))
    }
}

impl Shopper {
    /// Orders until there is an answer that stays, and asks for the order until it is sold.
    async fn shop(self, subject: String, item_id: &'static str) -> BuyerRecord {
        let answer = OrderAnswer::None("no-answer".into());
        let mut buyer = BuyerRecord {
            subject,
            item_id,
            queued_ms: None,
            sold_ms: None,
            places_lost: 0,
            answer,
            answers_seen: Vec::new(),
        };
        let (mut in_a_row, mut is_unsure) = (0, false);
        while self.stays.load(Ordering::Relaxed) {
            let answer = self.order().await;
            let word = match &answer {
                (status, None) => status.to_string(),
                (status, Some(slug)) => format!("{status} {slug}"),
            };
            in_a_row = match buyer.answers_seen.last() {
                Some(last) if last.starts_with(&word) => in_a_row + 1,
                _ => 1,
            };
            if in_a_row > 1 {
                buyer.answers_seen.pop();
            }
            buyer.answers_seen.push(if in_a_row > 1 { format!("{word} x{in_a_row}") } else { word });
            let is_over = match answer {
                (200 | 202, _) => {
                    buyer.queued_ms.get_or_insert_with(now_ms);
                    buyer.answer = OrderAnswer::Queued;
                    self.wait_for_the_unit(&mut buyer).await
                }
                (_, Some(slug)) if slug == "already-sold" => {
                    buyer.sold_ms.get_or_insert_with(now_ms);
                    true
                }
                (_, Some(slug)) if slug == "already-reserved" => {
                    buyer.answer = OrderAnswer::Queued;
                    self.wait_for_the_unit(&mut buyer).await
                }
                // An earlier order that had no answer may be in the queue, or served.
                (409 | 410, Some(_)) if is_unsure && self.has_place().await => {
                    buyer.answer = OrderAnswer::Queued;
                    self.wait_for_the_unit(&mut buyer).await
                }
                (409 | 410, Some(slug)) => {
                    buyer.answer = OrderAnswer::Refused(slug);
                    true
                }
                (_, Some(slug)) => {
                    is_unsure |= slug == "outcome-unknown";
                    buyer.answer = OrderAnswer::Refused(slug);
                    false
                }
                (status, None) => {
                    is_unsure = true;
                    buyer.answer = OrderAnswer::None(format!("http-{status}"));
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

    /// True once it is over; false where the place is gone, and the buyer orders again.
    async fn wait_for_the_unit(&self, buyer: &mut BuyerRecord) -> bool {
        while self.stays.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
            match self.ask().await.as_deref() {
                Some("sold") => {
                    buyer.sold_ms.get_or_insert_with(now_ms);
                    return true;
                }
                Some("none" | "released") => {
                    buyer.places_lost += 1;
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    /// Asks until there is an answer.
    async fn has_place(&self) -> bool {
        while self.stays.load(Ordering::Relaxed) {
            if let Some(status) = self.ask().await {
                return matches!(status.as_str(), "queued" | "reserved" | "sold");
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// How the order stands, where there is an answer.
    async fn ask(&self) -> Option<String> {
        let request = self.client.get(format!("{}/me", self.url)).bearer_auth(&self.token);
        let response = request.send().await.ok().filter(|response| response.status() == 200)?;
        let page: Value = response.json().await.ok()?;
        page["status"].as_str().map(str::to_owned)
    }

    /// The status and the last part of the problem's type, where it is a problem.
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
        let kind = match &answer {
            (200 | 202, _) => OrderAnswer::Queued,
            (_, Some(slug)) => OrderAnswer::Refused(slug.clone()),
            (status, None) => OrderAnswer::None(format!("http-{status}")),
        };
        let noted = OrderAttempt { at_ms: now_ms(), site: self.site, status: answer.0, answer: kind };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
        answer
    }
}

pub(super) fn now_ms() -> u64 {
    micros_now() / 1_000
}
