//! The card provider's API and its webhooks. The provider is another company, which remembers what it has charged.

use crate::payment::{ChargeStatus, Payment};
use anyhow::{Result, ensure};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// How long the provider may take for a charge. After that the shop asks about the same attempt again.
pub(crate) const CHARGE_LIMIT: Duration = Duration::from_secs(80);
const REFUND_LIMIT: Duration = Duration::from_secs(10);
/// The age of a webhook's signature, in seconds: an older one may be a replay.
const TOLERANCE_SECONDS: u64 = 300;

pub(crate) struct Cards {
    http: reqwest::Client,
    url: String,
    secret: String,
}

/// A notice of the provider about an attempt, or its answer to one.
#[derive(Debug, Deserialize)]
pub(crate) struct ChargeNotice {
    pub(crate) reference: String,
    pub(crate) attempt: u32,
    pub(crate) status: ChargeStatus,
}

impl Cards {
    pub(crate) fn new(http: reqwest::Client, url: String, secret: String) -> Self {
        Self { http, url, secret }
    }

    /// Charges the card of an attempt. The provider answers a repetition with what became of the attempt, and never
    /// charges a payment twice. An error says that the money may or may not be taken.
    pub(crate) async fn charge(&self, payment: &Payment, amount: u32) -> Result<ChargeStatus> {
        let url = format!("{}/payments/{}/attempts/{}", self.url, payment.reference, payment.attempt);
        let order = json!({ "card": payment.card, "amount": amount, "currency": "EUR" });
        let request = self.http.post(url).bearer_auth(&self.secret).body(order.to_string());
        let notice: ChargeNotice =
            request.timeout(CHARGE_LIMIT).send().await?.error_for_status()?.json().await?;
        Ok(notice.status)
    }

    /// Returns the money of a payment, once.
    pub(crate) async fn refund(&self, reference: &str) -> Result<()> {
        let url = format!("{}/payments/{reference}/refund", self.url);
        let request = self.http.post(url).bearer_auth(&self.secret).timeout(REFUND_LIMIT);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// The notice in a webhook, if its `signature` (`t=SECONDS,v1=HEX`) is right at `now`, in seconds.
    pub(crate) fn notice(&self, signature: &str, body: &[u8], now: u64) -> Result<ChargeNotice> {
        let (time, tag) = signature
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",v1="))
            .ok_or_else(|| anyhow::anyhow!("the webhook has no signature"))?;
        ensure!(time.parse::<u64>()?.abs_diff(now) <= TOLERANCE_SECONDS, "the signature is too old");
        let tag: Vec<u8> = (0..tag.len() / 2)
            .map(|index| u8::from_str_radix(tag.get(2 * index..2 * index + 2).unwrap_or_default(), 16))
            .collect::<Result<_, _>>()?;
        let key = hmac::Key::new(HMAC_SHA256, self.secret.as_bytes());
        let signed = [time.as_bytes(), b".", body].concat();
        ensure!(hmac::verify(&key, &signed, &tag).is_ok(), "the webhook's signature is wrong");
        Ok(serde_json::from_slice(body)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signed_and_recent_webhooks_count() {
        let cards = Cards::new(reqwest::Client::new(), String::new(), "secret".into());
        let body = br#"{"reference":"pay_1","attempt":1,"status":"succeeded"}"#;
        // printf '1000.%s' "$body" | openssl dgst -sha256 -hmac secret
        let good = "t=1000,v1=3eabb22f336e6b64a80ed74dd4a3da8f038ab70cf5ac5608449607e620e372ce";
        assert_eq!(cards.notice(good, body, 1_300).unwrap().status, ChargeStatus::Succeeded);
        for (signature, body, now) in [
            (good, body.as_slice(), 1_301),
            (good, br#"{"reference":"pay_2","attempt":1,"status":"succeeded"}"#, 1_000),
            ("t=1001,v1=3eabb22f336e6b64a80ed74dd4a3da8f038ab70cf5ac5608449607e620e372ce", body, 1_000),
            ("t=1000,v1=", body, 1_000),
            ("t=1000,v1=zz", body, 1_000),
            ("", body, 1_000),
        ] {
            assert!(cards.notice(signature, body, now).is_err(), "{signature}");
        }
    }
}
