//! Stands for an EventBridge API destination: sends each event of a bus to an HTTP endpoint at least once, in no
//! particular order (`docs/AWS_FACTS.md`).

use crate::aws::event_bus::BusEvent;
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long the endpoint may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// EventBridge's own limit, in addition to 24 hours.
const MAX_RETRIES: u32 = 185;
/// Pauses between two attempts: the first; the longest. EventBridge publishes none.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Events that are in flight at once; more wait.
const MAX_IN_FLIGHT: usize = 100;

/// What happens to a delivery, drawn from the seed; shares from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryFaults {
    /// The event is delivered twice.
    pub twice: f64,
    /// A delivery comes up to `late_by` after others.
    pub late: f64,
    pub late_by: Duration,
}

impl Default for DeliveryFaults {
    fn default() -> Self {
        Self { twice: 0.05, late: 0.05, late_by: Duration::from_millis(200) }
    }
}

/// The endpoint of a shop, with the API key of its connection.
#[derive(Debug)]
pub struct ApiDestination {
    url: String,
    key: String,
    client: reqwest::Client,
    faults: Mutex<DeliveryFaults>,
    random: Mutex<StdRng>,
    in_flight: Semaphore,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

impl ApiDestination {
    /// Delivers to `url` with `key` in the header `x-shop-key`; what documents leave open is drawn from `seed`.
    pub fn new(url: String, key: String, seed: u64) -> Result<Arc<Self>> {
        let client = reqwest::Client::builder().user_agent("Amazon/EventBridge/ApiDestinations").build()?;
        Ok(Arc::new(Self {
            url,
            key,
            client,
            faults: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Meets these faults from now on.
    pub fn set_faults(&self, faults: DeliveryFaults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Deliveries that the endpoint has accepted, with repetitions.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Events that the endpoint has refused permanently.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Delivers an accepted event, whose id at EventBridge is `id`.
    pub(crate) fn deliver(self: &Arc<Self>, event: &BusEvent, id: &str) {
        let body = json!({
            "version": "0", "id": id, "detail-type": event.detail_type, "source": "fairdrop",
            "account": "123456789012", "time": "2026-11-28T00:00:00Z", "region": "us-east-1", "resources": [],
            "detail": event.detail,
        });
        let faults = *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let deliveries = 1 + usize::from(self.draw(|random| random.random_bool(faults.twice)));
        for _ in 0..deliveries {
            let delay = self.draw(|random| match random.random_bool(faults.late) {
                true => faults.late_by.mul_f64(random.random()),
                false => Duration::ZERO,
            });
            let (destination, body) = (self.clone(), body.to_string());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                destination.send(body).await;
            });
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends an event until the endpoint takes it, or refuses it permanently.
    async fn send(&self, body: String) {
        let (first, longest) = PAUSES;
        for retry in 0..=MAX_RETRIES {
            let permit = self.in_flight.acquire().await;
            let request = self.client.post(&self.url).header("x-shop-key", &self.key);
            let request =
                request.header("content-type", "application/json; charset=utf-8").timeout(ANSWER_LIMIT);
            let status = request.body(body.clone()).send().await.map(|answer| answer.status().as_u16());
            drop(permit);
            match status {
                Ok(200..=299) => {
                    self.delivered.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                // No answer, too many requests, or a fault of the endpoint.
                Err(_) | Ok(429 | 500..) => {}
                Ok(_) => break,
            }
            let pause = first.saturating_mul(1 << retry.min(10)).min(longest);
            tokio::time::sleep(pause.mul_f64(self.draw(|random| random.random_range(0.5..=1.0)))).await;
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
