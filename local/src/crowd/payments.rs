//! The shop's backend: it reads the reservations and reports the outcome of each payment.

use crate::aws::lambda::{Invoke, Invoked};
use crate::system::redis_server::Redis;
use anyhow::Result;
use redis::AsyncCommands;
use redis::streams::{StreamReadOptions, StreamReadReply};
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::queue::Keys;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

/// How long a payment takes.
const PAYMENT_TIME: Duration = Duration::from_millis(300);
/// Pause between two notices of the same payment.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Notices of one payment after which the shop gives up.
const MAX_TRIES: u32 = 240;
/// How long the answer to a notice may take.
const TRY_LIMIT: Duration = Duration::from_secs(3);

/// What a buyer does with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pays {
    /// At once.
    InTime,
    /// After the hold has ended.
    Late,
    /// Not at all.
    Never,
}

/// The share of buyers who pay late or never. The same seed chooses the same buyers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Habits {
    /// The share of buyers who do not pay in time, 0 to 1; half of them pay late, the others never.
    pub unpaid: f64,
    pub seed: u64,
}

impl Habits {
    /// What `subject` does.
    pub fn of(&self, subject: &str) -> Pays {
        let mut hasher = DefaultHasher::new();
        (self.seed, subject).hash(&mut hasher);
        let hash = hasher.finish();
        let share = (hash >> 11) as f64 / (1_u64 << 53) as f64;
        match (share < self.unpaid, hash % 2) {
            (false, _) => Pays::InTime,
            (true, 0) => Pays::Late,
            (true, _) => Pays::Never,
        }
    }
}

/// Parses a share from 0 to 1 of a command line.
pub(crate) fn share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a share from 0 to 1".to_owned())
}

/// order-confirm's final answer to the payment of each buyer.
pub type PaymentAnswers = BTreeMap<String, Value>;

/// A shop that watches one item until it is dropped.
#[derive(Debug)]
pub struct Shop {
    watching: JoinHandle<()>,
    answers: Arc<Mutex<PaymentAnswers>>,
}

impl Shop {
    /// Opens the shop for `item_id`, whose holds last `hold`.
    pub fn open(redis: &Redis, invoke: Invoke, item_id: &ItemId, hold: Duration, habits: Habits) -> Self {
        let answers = Arc::new(Mutex::new(PaymentAnswers::new()));
        let client = redis.client();
        let (item_id, known) = (item_id.clone(), answers.clone());
        let watching = tokio::spawn(async move {
            let Ok(client) = client else { return };
            let mut last = "0".to_owned();
            let mut payments = JoinSet::new();
            loop {
                let fresh = reserved(&client, &item_id, &mut last).await.unwrap_or_default();
                for subject in fresh {
                    let delay = match habits.of(&subject) {
                        Pays::InTime => PAYMENT_TIME,
                        Pays::Late => hold + PAYMENT_TIME,
                        Pays::Never => continue,
                    };
                    payments.spawn(pay(invoke.clone(), item_id.clone(), subject, delay, known.clone()));
                }
                while payments.try_join_next().is_some() {}
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { watching, answers }
    }

    /// The answers so far.
    pub fn answers(&self) -> PaymentAnswers {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Buyers who were reserved since the last read.
async fn reserved(client: &redis::Client, item_id: &ItemId, last: &mut String) -> Result<Vec<String>> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let options = StreamReadOptions::default().count(1_000);
    let reply: Option<StreamReadReply> =
        connection.xread_options(&[&Keys::of(item_id).tasks], &[last.as_str()], &options).await?;
    let tasks = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
    let mut subjects = Vec::new();
    for task in tasks {
        if task.get::<String>("kind").as_deref() == Some("reserved") {
            subjects.extend(task.get("user_token"));
        }
        *last = task.id;
    }
    Ok(subjects)
}

/// Sends the notice of one payment until it has an answer.
async fn pay(
    invoke: Invoke,
    item_id: ItemId,
    subject: String,
    delay: Duration,
    known: Arc<Mutex<PaymentAnswers>>,
) {
    tokio::time::sleep(delay).await;
    let notice = json!({
        "item_id": item_id,
        "user_token": subject,
        "payment_reference": format!("pay-{item_id}-{subject}"),
        "outcome": "paid",
    });
    for _ in 0..MAX_TRIES {
        if let Ok(Invoked::Answer(answer)) =
            invoke.call_within("order-confirm", notice.to_string(), TRY_LIMIT).await
        {
            known.lock().unwrap_or_else(PoisonError::into_inner).insert(subject, answer);
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
