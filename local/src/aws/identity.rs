//! Buyers' access tokens, signed as an identity provider signs them.

use crate::system::clock::seconds_now;
use anyhow::{Result, anyhow};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The tokens' `iss`.
pub const ISSUER: &str = "https://login.example";
/// The tokens' `aud`.
pub const AUDIENCE: &str = "fairdrop";
const KEY_ID: &str = "local-1";
const LIFETIME_SECONDS: u64 = 86_400;

/// An identity provider with one Ed25519 key, which is generated at each start.
#[derive(Clone)]
pub struct IdentityProvider {
    key_id: String,
    signing: EncodingKey,
    public: Vec<u8>,
}

impl std::fmt::Debug for IdentityProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityProvider").finish_non_exhaustive()
    }
}

impl IdentityProvider {
    /// Generates the key.
    pub fn new() -> Result<Self> {
        Self::with_key_id(KEY_ID)
    }

    /// Generates a key with this id.
    pub fn with_key_id(key_id: &str) -> Result<Self> {
        let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("could not generate an Ed25519 key"))?;
        let document = pair.to_pkcs8().map_err(|_| anyhow!("could not encode the Ed25519 key as PKCS #8"))?;
        let signing = EncodingKey::from_ed_der(document.as_ref());
        Ok(Self { key_id: key_id.to_owned(), signing, public: pair.public_key().as_ref().to_vec() })
    }

    /// The public keys, as functions are configured with them.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.key_id,
            "x": URL_SAFE_NO_PAD.encode(&self.public),
        }]})
    }

    /// The raw public key.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// A token for `subject`, valid for a day.
    pub fn token(&self, subject: &str) -> Result<String> {
        let now = seconds_now();
        self.sign(&json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject,
            "iat": now, "nbf": now - 60, "exp": now + LIFETIME_SECONDS,
        }))
    }

    /// A token with any claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }
}
