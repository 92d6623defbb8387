//! The signature of a webhook (<https://docs.stripe.com/webhooks#verify-manually>).
//!
//! `Stripe-Signature: t=1795500000,v1=5257a8...,v1=...`: `t` is the time of sending in seconds since the Unix epoch, and
//! each `v1` is an HMAC-SHA256 in hexadecimal of `t`, a dot and the body as it was sent. There are several while Stripe
//! signs with an old and a new secret. Other schemes are ignored.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};

/// The most seconds between the time of sending and now. Stripe's own libraries have the same default.
pub const TOLERANCE_SECONDS: u64 = 300;
/// A longer header is not read.
const MAX_HEADER_BYTES: usize = 2_048;
const TAG_BYTES: usize = 32;

/// The secret of a webhook endpoint, `whsec_...`: the whole text is the key.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl Secret {
    /// `None` for an empty text, with which everyone could sign.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(hmac::Key::new(HMAC_SHA256, text.as_bytes())))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// A signature that was checked. It identifies one delivery: Stripe signs each delivery of an event again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signature([u8; TAG_BYTES]);

/// Why a request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the header Stripe-Signature is missing or malformed")]
    Malformed,
    #[error("no signature was made with a secret of this endpoint")]
    Wrong,
    #[error("the request was sent more than {TOLERANCE_SECONDS} s ago, or the clock is wrong")]
    TooOld,
}

/// Checks the header of a request that arrives at `now_seconds`. The age is judged last, so that the answer says nothing
/// about it to a sender without the secret.
pub fn verify(
    header: &str,
    body: &[u8],
    secrets: &[Secret],
    now_seconds: u64,
) -> Result<Signature, SignatureError> {
    let (sent_at, tags) = parse(header).ok_or(SignatureError::Malformed)?;
    let signature = secrets
        .iter()
        .map(|secret| tag(secret, sent_at, body))
        .find(|expected| tags.iter().any(|given| verify_slices_are_equal(given, expected).is_ok()))
        .ok_or(SignatureError::Wrong)?;
    let sent_at: u64 = sent_at.parse().map_err(|_| SignatureError::Malformed)?;
    if now_seconds.abs_diff(sent_at) > TOLERANCE_SECONDS {
        return Err(SignatureError::TooOld);
    }
    Ok(Signature(signature))
}

fn tag(secret: &Secret, sent_at: &str, body: &[u8]) -> [u8; TAG_BYTES] {
    let mut context = hmac::Context::with_key(&secret.0);
    context.update(sent_at.as_bytes());
    context.update(b".");
    context.update(body);
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

/// The time of sending, as it is written, and the signatures.
fn parse(header: &str) -> Option<(&str, Vec<[u8; TAG_BYTES]>)> {
    if header.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (mut sent_at, mut tags) = (None, Vec::new());
    for element in header.split(',') {
        match element.trim().split_once('=')? {
            ("t", _) if sent_at.is_some() => return None,
            ("t", seconds) if !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit()) => {
                sent_at = Some(seconds);
            }
            ("t", _) => return None,
            ("v1", text) => tags.push(from_hex(text)?),
            _ => {}
        }
    }
    Some((sent_at?, tags))
}

fn from_hex(text: &str) -> Option<[u8; TAG_BYTES]> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect();
    if digits.len() == 2 * TAG_BYTES { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// `vectors/make.sh` makes the file with OpenSSL.
    #[test]
    fn the_vectors_are_judged_as_they_say() {
        let vectors: Vec<Value> = serde_json::from_str(include_str!("../vectors/signatures.json")).unwrap();
        assert!(vectors.len() >= 12);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap_or_default();
            let secrets: Vec<Secret> = text("secrets").split(' ').filter_map(Secret::new).collect();
            let judged = match verify(
                text("header"),
                text("body").as_bytes(),
                &secrets,
                vector["now"].as_u64().unwrap(),
            ) {
                Ok(_) => "accepted",
                Err(SignatureError::Malformed) => "malformed",
                Err(SignatureError::Wrong) => "wrong",
                Err(SignatureError::TooOld) => "too old",
            };
            assert_eq!(judged, text("judged"), "{}", text("what"));
        }
    }

    #[test]
    fn every_changed_byte_of_the_body_is_noticed() {
        let secret = Secret::new("whsec_test").unwrap();
        let body = br#"{"id":"evt_1","type":"payment_intent.succeeded"}"#;
        let hex: String = tag(&secret, "1795500000", body).iter().map(|byte| format!("{byte:02x}")).collect();
        let header = format!("t=1795500000,v1={hex}");
        let secrets = [secret];
        assert!(verify(&header, body, &secrets, 1_795_500_000).is_ok());
        for index in 0..body.len() {
            let mut changed = body.to_vec();
            changed[index] ^= 1;
            assert_eq!(verify(&header, &changed, &secrets, 1_795_500_000), Err(SignatureError::Wrong));
        }
    }
}
