//! Verification of the buyer's access token (a JWT, RFC 7519).
//!
//! The keys are a JWKS ([`key_set`]), from the configuration or from the issuer ([`token_keys`](crate::token_keys)). A
//! key is valid for the one algorithm that its type implies, so that the token cannot choose (RFC 8725 §3.1): no key
//! matches `alg: none`, or an HMAC made with a public key.
//!
//! Only access tokens count. An ID token names the buyer to a page, and a page may hand it on: it is refused if the
//! provider marks it (`token_use`, `typ`). Other ID tokens have another audience. docs/IDENTITY.md says which provider
//! does what.

use crate::config::{self, ConfigError, Source};
use crate::stamp::Stamp;
use crate::user_token::UserToken;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use key_set::{KeySet, PublicKey};
use serde::Deserialize;
use serde_json::Value;

pub use error::TokenError;

mod error;
pub mod key_set;
#[cfg(test)]
mod tests;

/// The longest token accepted, in bytes. API Gateway allows 10,240 for all headers.
pub const MAX_TOKEN_BYTES: usize = 8_192;
/// The tolerated difference between an issuer's clock and this one, in seconds.
pub const LEEWAY_SECONDS: u64 = 5;
/// The maximum number of audiences, for example of clients of Amazon Cognito.
pub const MAX_AUDIENCES: usize = 16;

struct VerificationKey {
    public: PublicKey,
    validation: Validation,
}

/// Verifies access tokens against a set of keys.
pub struct TokenVerifier {
    keys: Vec<VerificationKey>,
    issuer: String,
    audiences: Vec<String>,
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
    /// A text (RFC 7519 §4.1.1). The library would accept a list that has the right issuer, too.
    #[serde(rename = "iss")]
    _iss: String,
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
    /// Only if `may_lack_keys` is set, a verifier without keys is made where `FAIRDROP_TOKEN_JWKS` is empty.
    pub fn from_config(source: Source, may_lack_keys: bool) -> Result<Self, ConfigError> {
        let (jwks_name, audience_name) = ("FAIRDROP_TOKEN_JWKS", "FAIRDROP_TOKEN_AUDIENCE");
        let jwks = config::optional(source, jwks_name);
        let issuer = config::required(source, "FAIRDROP_TOKEN_ISSUER")?;
        let audiences = audiences(&config::required(source, audience_name)?)
            .map_err(|why| ConfigError::bad(audience_name, why))?;
        let none = Self { keys: Vec::new(), issuer, audiences };
        let Some(jwks) = jwks else {
            return if may_lack_keys { Ok(none) } else { Err(ConfigError::Missing(jwks_name)) };
        };
        let set = KeySet::parse(&jwks).map_err(|why| ConfigError::bad(jwks_name, why))?;
        refuse_keys_unknown_to_the_gateway(source, &set)?;
        Ok(none.with_keys(set))
    }

    /// Verifies tokens of `issuer` for `audience` (or one of several, separated by commas) that are signed with a key
    /// of `jwks` (JSON).
    pub fn new(jwks: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        let none = Self { keys: Vec::new(), issuer: issuer.to_owned(), audiences: audiences(audience)? };
        Ok(none.with_keys(KeySet::parse(jwks)?))
    }

    /// A verifier of the same tokens with the keys of `set` in place of its own.
    pub fn with_keys(&self, set: KeySet) -> Self {
        let keys = set.into_keys().into_iter().map(|public| {
            let validation = validation(public.algorithm, &self.issuer);
            VerificationKey { public, validation }
        });
        Self { keys: keys.collect(), issuer: self.issuer.clone(), audiences: self.audiences.clone() }
    }

    /// Whether there is no key, so that no token can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether `token` says that it comes from this issuer, and names a key that the set lacks: the issuer may have a
    /// new key. Nothing of the token is verified.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Unverified {
            iss: String,
        }
        let Ok(header) = jsonwebtoken::decode_header(token) else { return false };
        let Some(id) = header.kid else { return false };
        let payload = token.split('.').nth(1).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let unverified = payload.and_then(|bytes| serde_json::from_slice::<Unverified>(&bytes).ok());
        unverified.is_some_and(|claims| claims.iss == self.issuer)
            && !self.keys.iter().any(|key| key.public.id() == Some(id.as_str()))
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
        let is_wanted = |name: &Value| name.as_str().map(|name| self.audiences.iter().any(|one| one == name));
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

/// The audiences of a text that separates them by commas.
fn audiences(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && !name.contains(char::is_whitespace);
    if names.len() <= MAX_AUDIENCES && names.iter().all(is_name) {
        Ok(names)
    } else {
        Err(format!("it must have 1 to {MAX_AUDIENCES} audiences, separated by commas without spaces"))
    }
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
