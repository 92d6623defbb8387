//! Verification of the buyer's access token (a JWT, RFC 7519).
//!
//! The keys come from the configuration as a JWKS ([`key_set`]). A key is valid for the one algorithm
//! that its type implies, so that the token cannot choose (RFC 8725 §3.1): no key matches `alg: none`, or an HMAC made
//! with a public key.
//!
//! Only access tokens count. An ID token names the buyer to a page, and a page may hand it on: it is refused if the
//! provider marks it (`token_use`, `typ`). Other ID tokens have another audience. docs/IDENTITY.md says which provider
//! does what.

use crate::config::{self, ConfigError, Source};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use key_set::{KeySet, PublicKey};
use serde::Deserialize;
use serde_json::Value;

pub mod key_set;
#[cfg(test)]
mod tests;

/// The longest token accepted, in bytes. API Gateway allows 10,240 for all headers.
pub const MAX_TOKEN_BYTES: usize = 8_192;
/// The tolerated difference between an issuer's clock and this one, in seconds.
pub const LEEWAY_SECONDS: u64 = 5;

/// Why a token is refused. The text is safe to show to the buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("The token is longer than {MAX_TOKEN_BYTES} bytes.")]
    TooLong,
    #[error(
        "The token is not a JWT, signed with EdDSA, ES256 or RS256, that has the claims iss, aud (Amazon Cognito: \
         client_id), exp and sub."
    )]
    Malformed,
    /// RFC 7515 §4.1.11: a token must be refused if an extension in `crit` is not understood. None is.
    #[error("The token's header has crit: it requires extensions that are not supported here.")]
    CriticalHeader,
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
    #[error("The token is an ID token or of another kind. Send an access token.")]
    NotAccessToken,
    #[error("The token is meant for another audience.")]
    WrongAudience,
    #[error("The token's subject must be 1 to 255 visible ASCII characters.")]
    BadSubject,
    /// RFC 7519 §4.1.2: a subject is a text. A number would be rounded by some JSON parsers, and name another buyer.
    #[error("The token's subject (sub) is a number. It must be a text of 1 to 255 visible ASCII characters.")]
    NumericSubject,
}

struct VerificationKey {
    public: PublicKey,
    validation: Validation,
}

/// Verifies access tokens against the configured keys.
pub struct TokenVerifier {
    keys: Vec<VerificationKey>,
    audience: String,
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier").field("keys", &self.keys.len()).finish()
    }
}

/// The claims that decide, as the token has them.
#[derive(Deserialize)]
struct Claims {
    exp: f64,
    sub: Option<Value>,
    aud: Option<Value>,
    /// Amazon Cognito's access tokens have it instead of `aud`.
    client_id: Option<Value>,
    /// Amazon Cognito: `access` or `id`.
    token_use: Option<Value>,
    /// Keycloak: `Bearer` in access tokens.
    typ: Option<Value>,
}

/// The verified content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub buyer: UserToken,
    /// With the leeway included.
    pub expires_at: Stamp,
}

impl TokenVerifier {
    /// Reads `FAIRDROP_TOKEN_JWKS`, `FAIRDROP_TOKEN_ISSUER`, `FAIRDROP_TOKEN_AUDIENCE` and `FAIRDROP_JWT_AUTHORIZER`.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let jwks_name = "FAIRDROP_TOKEN_JWKS";
        let jwks = config::required(source, jwks_name)?;
        let issuer = config::required(source, "FAIRDROP_TOKEN_ISSUER")?;
        let audience = config::required(source, "FAIRDROP_TOKEN_AUDIENCE")?;
        let set = KeySet::parse(&jwks).map_err(|why| ConfigError::bad(jwks_name, why))?;
        refuse_keys_unknown_to_the_gateway(source, &set)?;
        Ok(Self::with_keys(set, &issuer, &audience))
    }

    /// Verifies tokens of `issuer` for `audience` that are signed with a key of `jwks` (JSON).
    pub fn new(jwks: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        Ok(Self::with_keys(KeySet::parse(jwks)?, issuer, audience))
    }

    fn with_keys(set: KeySet, issuer: &str, audience: &str) -> Self {
        let keys = set.into_keys().into_iter().map(|public| {
            let validation = validation(public.algorithm, issuer);
            VerificationKey { public, validation }
        });
        Self { keys: keys.collect(), audience: audience.to_owned() }
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
        if header.crit.is_some() {
            return Err(TokenError::CriticalHeader);
        }
        let claims = self.signed_claims(token, header.alg, header.kid.as_deref())?;
        if header.typ.is_some_and(|name| is_another_type(&name)) || claims.mark_another_kind() {
            return Err(TokenError::NotAccessToken);
        }
        self.check_audience(&claims)?;
        Ok(Proof { buyer: claims.buyer()?, expires_at: moment(claims.exp + LEEWAY_SECONDS as f64) })
    }

    /// The claims of a token whose signature, issuer and lifetime are right.
    ///
    /// A key id selects keys only if both the token and the key have one. Several keys may fit, because key ids are
    /// optional (RFC 7517 §4.5) and a provider may publish two keys without; each is tried. A set has at most
    /// [`MAX_KEYS`](key_set::MAX_KEYS).
    fn signed_claims(
        &self,
        token: &str,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Claims, TokenError> {
        let fits = |key: &&VerificationKey| {
            let key_id = key.public.id();
            key.public.algorithm == algorithm && (id.is_none() || key_id.is_none() || key_id == id)
        };
        let mut outcome = Err(TokenError::UnknownKey);
        for key in self.keys.iter().filter(fits) {
            outcome = jsonwebtoken::decode::<Claims>(token, &key.public.decoding, &key.validation)
                .map(|decoded| decoded.claims)
                .map_err(|error| refusal(error.kind()));
            if !matches!(outcome, Err(TokenError::BadSignature)) {
                break;
            }
        }
        outcome
    }

    /// The audience is `aud`. Amazon Cognito's access tokens have none: there the client that asked for the token
    /// counts, as it does for API Gateway's JWT authorizer.
    fn check_audience(&self, claims: &Claims) -> Result<(), TokenError> {
        let is_wanted = |name: &Value| name.as_str().map(|name| name == self.audience);
        let fits = match (&claims.aud, &claims.client_id, &claims.token_use) {
            (Some(Value::Array(names)), _, _) => {
                let fits: Option<Vec<bool>> = names.iter().map(is_wanted).collect();
                fits.map(|fits| fits.contains(&true))
            }
            (Some(name), _, _) => is_wanted(name),
            (None, Some(client), Some(Value::String(kind))) if kind == "access" => is_wanted(client),
            _ => None,
        };
        match fits {
            Some(true) => Ok(()),
            Some(false) => Err(TokenError::WrongAudience),
            None => Err(TokenError::Malformed),
        }
    }
}

impl Claims {
    /// Whether the provider says that this is no access token. Amazon Cognito marks each token with `token_use`;
    /// Keycloak marks ID tokens and others with `typ`. `at_hash` and `nonce` prove nothing: Dex's access tokens have
    /// both.
    fn mark_another_kind(&self) -> bool {
        let typ = self.typ.as_ref().and_then(Value::as_str);
        self.token_use.as_ref().is_some_and(|kind| kind != "access")
            || typ.is_some_and(|typ| {
                ["ID", "Refresh", "Offline", "Logout"].iter().any(|other| typ.eq_ignore_ascii_case(other))
            })
    }

    fn buyer(&self) -> Result<UserToken, TokenError> {
        match &self.sub {
            Some(Value::String(subject)) => UserToken::parse(subject).map_err(|_| TokenError::BadSubject),
            Some(Value::Number(_)) => Err(TokenError::NumericSubject),
            Some(_) => Err(TokenError::BadSubject),
            None => Err(TokenError::Malformed),
        }
    }
}

/// Whether the header's `typ` names another type of JWT than an access token (`at+jwt`, RFC 9068 §2.1), for example
/// `logout+jwt` or `dpop+jwt` (RFC 8725 §3.11). Most providers write `JWT`, which says nothing.
fn is_another_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    let name = typ.strip_prefix("application/").unwrap_or(&typ);
    name.ends_with("+jwt") && name != "at+jwt"
}

/// API Gateway's JWT authorizer verifies RSA signatures only: with other keys it would refuse their buyers before a
/// function starts. CloudFormation's rules cannot look into a key set, so the function refuses to start.
fn refuse_keys_unknown_to_the_gateway(source: Source, set: &KeySet) -> Result<(), ConfigError> {
    let name = "FAIRDROP_JWT_AUTHORIZER";
    match config::optional(source, name).as_deref() {
        None | Some("false") => Ok(()),
        Some("true") if set.is_rsa_only() => Ok(()),
        Some("true") => {
            let why = "it must be false, because FAIRDROP_TOKEN_JWKS has a key that is not an RSA key, and API \
                       Gateway's JWT authorizer verifies RSA signatures only";
            Err(ConfigError::bad(name, why))
        }
        Some(_) => Err(ConfigError::bad(name, "it must be true or false")),
    }
}

/// A NumericDate (RFC 7519 §2: seconds, fractions allowed) as a moment, saturating at [`Stamp::MAX`].
fn moment(seconds: f64) -> Stamp {
    // The cast itself saturates: a negative number becomes 0.
    Stamp::saturating_from_micros((seconds * 1e6) as u64)
}

/// What the library checks. It would let a malformed audience pass, and knows no `client_id`: [`TokenVerifier`] checks
/// audience and subject itself.
fn validation(algorithm: Algorithm, issuer: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    validation.validate_aud = false;
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_SECONDS;
    validation
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm => TokenError::UnknownKey,
        _ => TokenError::Malformed,
    }
}
