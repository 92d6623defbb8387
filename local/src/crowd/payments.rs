//! Buyers who pay: they get the shop's letter, and click through its HTTP API with their own token.

use crate::aws::identity::IdentityProvider;
use crate::system::shop::Shop;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use shared::item::ItemId;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

/// From the letter until the buyer has typed the card's number; a late card answers so long after the hold's end.
const TYPING_TIME: Duration = Duration::from_millis(300);
/// How often the buyers look for letters.
const LETTER_INTERVAL: Duration = Duration::from_millis(20);
/// Pause before a buyer asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Requests for one payment after which the buyer gives up.
const MAX_TRIES: u32 = 240;
/// How long the answer to a request may take: longer than the shop lets a buyer wait.
const TRY_LIMIT: Duration = Duration::from_secs(25);

/// What a buyer does with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pays {
    /// At once.
    InTime,
    /// With a card whose provider answers after the hold has ended.
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

/// The shop's final answer to the payment of each buyer.
pub type PaymentAnswers = BTreeMap<String, PaymentAnswer>;

/// How a payment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentAnswer {
    Sold,
    /// The money was taken and is back, since the reservation had ended.
    Refunded,
    /// No money was taken: the reservation had ended before.
    NotReserved,
}

/// The buyers of one item, who pay until this is dropped.
#[derive(Debug)]
pub struct Buyers {
    paying: JoinHandle<()>,
    answers: Arc<Mutex<PaymentAnswers>>,
}

/// What every buyer needs.
#[derive(Clone)]
struct Payer {
    client: reqwest::Client,
    shop: String,
    identity: IdentityProvider,
    item_id: ItemId,
    answers: Arc<Mutex<PaymentAnswers>>,
}

impl Buyers {
    /// Lets the buyers of `item_id` pay whose names begin with `prefix`; holds last `hold`.
    pub fn pay(
        shop: &Shop,
        identity: &IdentityProvider,
        (item_id, hold): (&ItemId, Duration),
        (prefix, habits): (&'static str, Habits),
    ) -> Result<Self> {
        let answers = Arc::new(Mutex::new(PaymentAnswers::new()));
        let payer = Payer {
            client: reqwest::Client::builder().pool_max_idle_per_host(256).build()?,
            shop: shop.url(),
            identity: identity.clone(),
            item_id: item_id.clone(),
            answers: answers.clone(),
        };
        let key = shop.key().to_owned();
        let paying = tokio::spawn(async move {
            let (mut payments, mut last) = (JoinSet::new(), 0);
            loop {
                // A shop that is down has written no letters.
                for buyer in payer.letters(&key, &mut last).await.unwrap_or_default() {
                    let late = (hold + TYPING_TIME).as_millis();
                    let card = match habits.of(&buyer) {
                        _ if !buyer.starts_with(prefix) => continue,
                        Pays::InTime => "card_ok".to_owned(),
                        Pays::Late => format!("card_slow_{late}"),
                        Pays::Never => continue,
                    };
                    payments.spawn(payer.clone().pay(buyer, card));
                }
                while payments.try_join_next().is_some() {}
                tokio::time::sleep(LETTER_INTERVAL).await;
            }
        });
        Ok(Self { paying, answers })
    }

    /// The answers so far.
    pub fn answers(&self) -> PaymentAnswers {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Buyers {
    fn drop(&mut self) {
        self.paying.abort();
    }
}

impl Payer {
    /// Who got a letter after the one with the number `last`.
    async fn letters(&self, key: &str, last: &mut u64) -> Result<Vec<String>> {
        let url = format!("{}/shop/letters/{last}", self.shop);
        let answer = self.client.get(url).header("x-shop-key", key).timeout(TRY_LIMIT).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        let mut buyers = Vec::new();
        for letter in answer["letters"].as_array().into_iter().flatten() {
            *last = letter["number"].as_u64().unwrap_or(*last);
            if letter["item_id"] == self.item_id.as_str() {
                buyers.extend(letter["to"].as_str().map(str::to_owned));
            }
        }
        Ok(buyers)
    }

    /// Pays until there is a final answer.
    async fn pay(self, buyer: String, card: String) {
        tokio::time::sleep(TYPING_TIME).await;
        let Ok(token) = self.identity.token(&buyer) else { return };
        for _ in 0..MAX_TRIES {
            if let Ok(Some(answer)) = self.try_to_pay(&token, &card).await {
                self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(buyer, answer);
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_to_pay(&self, token: &str, card: &str) -> Result<Option<PaymentAnswer>> {
        let url = format!("{}/shop/api/items/{}/payments", self.shop, self.item_id);
        let request = self.client.post(url).bearer_auth(token).header("content-type", "application/json");
        let request = request.body(json!({ "card": card }).to_string()).timeout(TRY_LIMIT);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let checkout: Value = answer.json().await?;
        Ok(match (status, checkout["payment"]["status"].as_str()) {
            (200, Some("sold")) => Some(PaymentAnswer::Sold),
            (200, Some("refunded")) => Some(PaymentAnswer::Refunded),
            (409, _) => Some(PaymentAnswer::NotReserved),
            (200 | 202, _) => None,
            _ => bail!("the shop answered {status}"),
        })
    }
}
