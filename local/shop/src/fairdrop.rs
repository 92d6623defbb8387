//! What a deployed shop may call: the routes of main's HTTP API that are signed for IAM, and the item, which is public.

use crate::books::Reservation;
use crate::payment::Payment;
use anyhow::{Context, Result, bail};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::item::ItemId;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// API Gateway gives up after 30 s. A notice that is repeated counts once.
const ANSWER_LIMIT: Duration = Duration::from_secs(31);
/// Calls at the same time; more wait for their turn.
const MAX_CALLS: usize = 64;
/// Refusals of a `paid` that are final (docs/PROBLEMS.md): the shop returns the money.
const FINAL: [&str; 5] =
    ["no-reservation", "reservation-ended", "already-paid", "payment-used", "unit-voided"];

pub(crate) struct Fairdrop {
    http: reqwest::Client,
    url: String,
    region: String,
    credentials: Credentials,
    calls: Semaphore,
}

/// fairdrop's decision about a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Sold,
    /// Permanently, with the problem's name.
    Refused(String),
}

/// A reservation, as the read returns it.
#[derive(Deserialize)]
struct Shown {
    status: String,
    #[serde(default)]
    reserved_at: u64,
    #[serde(default)]
    reserved_until: u64,
}

impl Fairdrop {
    pub(crate) fn new(
        http: reqwest::Client,
        url: String,
        region: String,
        (key_id, secret): (String, String),
    ) -> Self {
        let credentials = Credentials::new(key_id, secret, None, None, "environment");
        Self { http, url, region, credentials, calls: Semaphore::new(MAX_CALLS) }
    }

    /// Reports that the money is taken. An error says that fairdrop has not decided: the notice must be repeated.
    pub(crate) async fn report_paid(&self, payment: &Payment) -> Result<Decision> {
        let (status, body) = self.report(payment, "paid").await?;
        let problem = body["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default();
        match status {
            200 if body["status"] == "sold" => Ok(Decision::Sold),
            404 | 409 if FINAL.contains(&problem) => Ok(Decision::Refused(problem.to_owned())),
            _ => bail!("fairdrop answered {status} {problem}"),
        }
    }

    /// Reports `pending` or `declined`.
    pub(crate) async fn report(&self, payment: &Payment, outcome: &str) -> Result<(u16, Value)> {
        let notice = json!({
            "user_token": payment.buyer, "payment_reference": payment.reference, "outcome": outcome,
        });
        self.signed("POST", &format!("/items/{}/payments", payment.item_id), notice.to_string()).await
    }

    /// The buyer's reservation in the ledger.
    pub(crate) async fn reservation(&self, item_id: &ItemId, buyer: &str) -> Result<Option<Reservation>> {
        let buyer = utf8_percent_encode(buyer, NON_ALPHANUMERIC);
        let path = format!("/items/{item_id}/reservations?user_token={buyer}");
        let (status, body) = self.signed("GET", &path, String::new()).await?;
        match status {
            200 => {
                let shown: Shown = serde_json::from_value(body)?;
                Ok(Reservation::read(&shown.status, shown.reserved_at, shown.reserved_until))
            }
            404 => Ok(None),
            _ => bail!("fairdrop answered {status} to a read of a reservation"),
        }
    }

    /// The item's name.
    pub(crate) async fn name(&self, item_id: &ItemId) -> Result<String> {
        let response = self.http.get(format!("{}/items/{item_id}", self.url)).timeout(ANSWER_LIMIT);
        let item: Value = response.send().await?.error_for_status()?.json().await?;
        Ok(item["name"].as_str().context("an item has a name")?.to_owned())
    }

    async fn signed(&self, method: &str, path: &str, body: String) -> Result<(u16, Value)> {
        let _call = self.calls.acquire().await?;
        let url = format!("{}{path}", self.url);
        let identity = self.credentials.clone().into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("execute-api")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?;
        let signable =
            SignableRequest::new(method, &url, std::iter::empty(), SignableBody::Bytes(body.as_bytes()))?;
        let (instructions, _) = sign(signable, &parameters.into())?.into_parts();
        let mut request = self.http.request(method.parse()?, &url).timeout(ANSWER_LIMIT);
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        let response = request.body(body).send().await.context("fairdrop did not answer")?;
        let status = response.status().as_u16();
        let body = response.bytes().await.context("fairdrop's answer was cut off")?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}
