//! Verification of the buyer's access token (a JWT, RFC 7519).
//!
//! The keys come from the configuration as a JWKS (RFC 7517). A key is valid for the one algorithm that its type
//! implies, so that the token cannot choose (RFC 8725 §3.1): no key matches `alg: none`, or an HMAC made with a
//! public key.

use crate::config::{self, ConfigError, Source};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// The longest token accepted, in bytes. API Gateway allows 10,240 for all headers.
pub const MAX_TOKEN_BYTES: usize = 8_192;
/// The maximum number of keys in the JWKS.
pub const MAX_KEYS: usize = 16;
/// The tolerated difference between an issuer's clock and this one, in seconds.
pub const LEEWAY_SECONDS: u64 = 5;

/// Why a token is refused. The text is safe to show to the buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("The token is longer than {MAX_TOKEN_BYTES} bytes.")]
    TooLong,
    #[error(
        "The token is not a JWT, signed with EdDSA, ES256 or RS256, that has the claims iss, aud, exp and sub."
    )]
    Malformed,
    /// No configured key has this id and algorithm.
    #[error("The token is not signed with a key and algorithm that are trusted here.")]
    UnknownKey,
    #[error("The token's signature is wrong.")]
    BadSignature,
    #[error("The token has expired.")]
    Expired,
    #[error("The token is not valid yet.")]
    NotYetValid,
    #[error("The token comes from another issuer.")]
    WrongIssuer,
    #[error("The token is meant for another audience.")]
    WrongAudience,
    #[error("The token's subject must be 1 to 255 visible ASCII characters.")]
    BadSubject,
}

struct VerificationKey {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    validation: Validation,
}

/// Verifies access tokens against the configured keys.
pub struct TokenVerifier {
    keys: Vec<VerificationKey>,
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier").field("keys", &self.keys.len()).finish()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
}

/// The verified content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub buyer: UserToken,
    /// With the leeway included.
    pub expires_at: Stamp,
}

impl TokenVerifier {
    /// Reads `FAIRDROP_TOKEN_JWKS`, `FAIRDROP_TOKEN_ISSUER` and `FAIRDROP_TOKEN_AUDIENCE`.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let jwks_name = "FAIRDROP_TOKEN_JWKS";
        let jwks = config::required(source, jwks_name)?;
        let issuer = config::required(source, "FAIRDROP_TOKEN_ISSUER")?;
        let audience = config::required(source, "FAIRDROP_TOKEN_AUDIENCE")?;
        Self::new(&jwks, &issuer, &audience).map_err(|why| ConfigError::bad(jwks_name, why))
    }

    /// Verifies tokens of `issuer` for `audience` that are signed with a key of `jwks` (JSON).
    pub fn new(jwks: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        let set: JwkSet =
            serde_json::from_str(jwks).map_err(|error| format!("it must be a JWKS document ({error})"))?;
        if !(1..=MAX_KEYS).contains(&set.keys.len()) {
            return Err(format!("it must have 1 to {MAX_KEYS} keys"));
        }
        let keys = set
            .keys
            .iter()
            .enumerate()
            .map(|(n, jwk)| key(jwk, issuer, audience).map_err(|why| format!("key {n}: {why}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// The buyer in `token`, if the token is valid.
    pub fn verify(&self, token: &str) -> Result<UserToken, TokenError> {
        self.prove(token).map(|proof| proof.buyer)
    }

    /// The buyer in `token` and the end of its lifetime, if the token is valid.
    pub fn prove(&self, token: &str) -> Result<Proof, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        // This refuses an algorithm that the library does not know, such as "none".
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let fits = |key: &&VerificationKey| {
            key.algorithm == header.alg && (header.kid.is_none() || key.id == header.kid)
        };
        let mut candidates = self.keys.iter().filter(fits);
        // Without a key id, exactly one key must have the algorithm.
        let (Some(key), None) = (candidates.next(), candidates.next()) else {
            return Err(TokenError::UnknownKey);
        };
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation)
            .map_err(|error| refusal(error.kind()))?;
        let buyer = UserToken::parse(decoded.claims.sub).map_err(|_| TokenError::BadSubject)?;
        Ok(Proof { buyer, expires_at: moment(decoded.claims.exp + LEEWAY_SECONDS as f64) })
    }
}

/// A NumericDate (RFC 7519 §2: seconds, fractions allowed) as a moment, saturating at [`Stamp::MAX`].
fn moment(seconds: f64) -> Stamp {
    // The cast itself saturates: a negative number becomes 0.
    Stamp::saturating_from_micros((seconds * 1e6) as u64)
}

fn key(jwk: &Jwk, issuer: &str, audience: &str) -> Result<VerificationKey, String> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return Err("it must be an Ed25519, P-256 or RSA public key".into()),
    };
    if jwk.common.key_algorithm.is_some_and(|given| given != name) {
        return Err(format!("its alg must be {algorithm:?} or absent"));
    }
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("its use must be sig or absent".into());
    }
    let decoding = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_SECONDS;
    Ok(VerificationKey { id: jwk.common.key_id.clone(), algorithm, decoding, validation })
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidAudience => TokenError::WrongAudience,
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm => TokenError::UnknownKey,
        _ => TokenError::Malformed,
    }
}
