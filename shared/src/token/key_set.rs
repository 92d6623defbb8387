//! The identity provider's public keys, as it publishes them: a JWKS document (RFC 7517).
//!
//! Published sets also have keys that sign no access token: for encryption, on other curves, or of types that this
//! code does not know. These keys are passed over, as RFC 7517 §5 asks. A set is an error only if no key is left.
//!
//! A usable key is valid for the one algorithm that its type implies.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest document that is read, in bytes. A published key with its certificates has about 3,000.
pub const MAX_DOCUMENT_BYTES: usize = 65_536;
/// The maximum number of keys in a document.
pub const MAX_PUBLISHED_KEYS: usize = 64;
/// The maximum number of usable keys. It also bounds how many signatures one token can cost.
pub const MAX_KEYS: usize = 16;

/// The members of a key that verification needs. All others are dropped: certificates (`x5c`, `x5t`), and a private
/// part that should not be there.
#[derive(Clone, Deserialize, Serialize)]
struct Members {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(rename = "use", skip_serializing)]
    purpose: Option<String>,
    #[serde(skip_serializing)]
    key_ops: Option<Vec<String>>,
    #[serde(skip_serializing)]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

/// A public key that verifies signatures.
pub struct PublicKey {
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    members: Members,
}

impl PublicKey {
    /// The key's id, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.members.kid.as_deref()
    }
}

/// The usable keys of a document: 1 to [`MAX_KEYS`].
pub struct KeySet {
    keys: Vec<PublicKey>,
}

impl KeySet {
    /// Reads a document. An error says why each key cannot be used, and repeats no part of the document.
    pub fn parse(document: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(format!("it must have at most {MAX_DOCUMENT_BYTES} bytes"));
        }
        let published: Document = serde_json::from_str(document).map_err(|error| {
            format!("it must be a JWKS document (line {}, column {})", error.line(), error.column())
        })?;
        if published.keys.len() > MAX_PUBLISHED_KEYS {
            return Err(format!("it must have at most {MAX_PUBLISHED_KEYS} keys"));
        }
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        for (n, value) in published.keys.into_iter().enumerate() {
            match usable(value) {
                Ok(key) => keys.push(key),
                Err(why) => passed_over.push(format!("; key {n}: {why}")),
            }
        }
        match keys.len() {
            0 => Err(format!(
                "it must have a public key for signatures with EdDSA, ES256 or RS256{}",
                passed_over.concat()
            )),
            1..=MAX_KEYS => Ok(Self { keys }),
            _ => Err(format!("it must have at most {MAX_KEYS} keys for signatures")),
        }
    }

    /// Whether all keys are RSA keys: API Gateway's JWT authorizer verifies no other signatures.
    pub fn is_rsa_only(&self) -> bool {
        self.keys.iter().all(|key| key.algorithm == Algorithm::RS256)
    }

    /// The keys, at least one.
    pub fn into_keys(self) -> Vec<PublicKey> {
        self.keys
    }

    /// The document again, with the usable keys and the members that verification needs. It is public, and much
    /// shorter than a published one.
    pub fn to_json(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| &key.members).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

/// The key, or why it is passed over.
fn usable(value: Value) -> Result<PublicKey, &'static str> {
    let members: Members = serde_json::from_value(value)
        .map_err(|_| "it must be an object with kty, and with texts as members")?;
    if members.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("its use must be sig or absent");
    }
    if members.key_ops.as_ref().is_some_and(|allowed| !allowed.iter().any(|name| name == "verify")) {
        return Err("its key_ops must have verify or be absent");
    }
    let curve = members.crv.as_deref();
    let (algorithm, name, decoding) = match members.kty.as_str() {
        "RSA" => (Algorithm::RS256, "RS256", rsa(&members)?),
        "EC" if curve == Some("P-256") => (Algorithm::ES256, "ES256", p256(&members)?),
        "OKP" if curve == Some("Ed25519") => (Algorithm::EdDSA, "EdDSA", ed25519(&members)?),
        _ => return Err("its type must be RSA, EC with P-256, or OKP with Ed25519"),
    };
    if members.alg.as_deref().is_some_and(|given| given != name) {
        return Err("its alg must be RS256 (RSA), ES256 (P-256), EdDSA (Ed25519), or absent");
    }
    Ok(PublicKey { algorithm, decoding, members })
}

/// RFC 7518 §6.3.1. AWS-LC verifies with keys of 2,048 to 8,192 bits.
fn rsa(members: &Members) -> Result<DecodingKey, &'static str> {
    let (modulus, exponent) = (bytes(&members.n), bytes(&members.e));
    // Some libraries put a zero byte before the modulus.
    let (Some(modulus), Some(exponent)) = (modulus.map(without_zeros), exponent.map(without_zeros)) else {
        return Err("its n and e must be base64url");
    };
    if !(256..=1_024).contains(&modulus.len()) || !(1..=8).contains(&exponent.len()) {
        return Err("it must have 2,048 to 8,192 bits");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// RFC 7518 §6.2.1.
fn p256(members: &Members) -> Result<DecodingKey, &'static str> {
    match (bytes(&members.x), bytes(&members.y)) {
        (Some(x), Some(y)) if (x.len(), y.len()) == (32, 32) => {
            // An uncompressed point (SEC 1 §2.3.3).
            Ok(DecodingKey::from_ec_der(&[&[4][..], &x, &y].concat()))
        }
        _ => Err("its x and y must be base64url of 32 bytes"),
    }
}

/// RFC 8037 §2.
fn ed25519(members: &Members) -> Result<DecodingKey, &'static str> {
    match bytes(&members.x) {
        Some(x) if x.len() == 32 => Ok(DecodingKey::from_ed_der(&x)),
        _ => Err("its x must be base64url of 32 bytes"),
    }
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_deref()?.trim_end_matches('=')).ok()
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xa5; length])
    }

    fn parsed(keys: Value) -> Result<KeySet, String> {
        KeySet::parse(&json!({ "keys": keys }).to_string())
    }

    #[test]
    fn keys_that_verify_no_access_token_are_passed_over() {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "good", "x": text(32) });
        let rsa = |with: Value| {
            let mut key = json!({ "kty": "RSA", "n": text(256), "e": "AQAB" });
            key.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            key
        };
        let others = [
            rsa(json!({ "use": "enc", "alg": "RSA-OAEP" })),
            rsa(json!({ "alg": "RSA-OAEP-256" })),
            rsa(json!({ "alg": "RS512" })),
            rsa(json!({ "key_ops": ["wrapKey"] })),
            rsa(json!({ "n": text(128) })),
            rsa(json!({ "n": "not base64!" })),
            rsa(json!({ "n": null })),
            json!({ "kty": "EC", "crv": "P-384", "use": "sig", "alg": "ES384", "x": text(48), "y": text(48) }),
            json!({ "kty": "EC", "crv": "P-256", "x": text(31), "y": text(32) }),
            json!({ "kty": "EC", "crv": "secp256k1", "x": text(32), "y": text(32) }),
            json!({ "kty": "OKP", "crv": "Ed448", "x": text(57) }),
            json!({ "kty": "OKP", "crv": "X25519", "use": "enc", "x": text(32) }),
            json!({ "kty": "oct", "k": text(32) }),
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": text(1_312) }),
            json!({ "kty": 7 }),
            json!({}),
            json!("a key"),
            json!(null),
        ];
        for other in others {
            let set = parsed(json!([other, good, other])).unwrap();
            assert_eq!(
                set.into_keys().iter().map(PublicKey::id).collect::<Vec<_>>(),
                [Some("good")],
                "{other}"
            );
            let error = parsed(json!([other])).err().unwrap();
            assert!(error.contains("key 0: "), "{other}: {error}");
        }
        for purpose in [json!({ "use": "sig" }), json!({ "key_ops": ["verify"] }), json!({ "alg": "RS256" })]
        {
            assert!(parsed(json!([rsa(purpose)])).is_ok());
        }
    }

    #[test]
    fn documents_are_bounded_and_errors_repeat_nothing() {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": text(32) });
        let other = json!({ "kty": "secret-type" });
        assert!(parsed(json!(vec![good.clone(); MAX_KEYS])).is_ok());
        assert!(parsed(json!(vec![good.clone(); MAX_KEYS + 1])).is_err());
        let mut keys = vec![other.clone(); MAX_PUBLISHED_KEYS - 1];
        keys.push(good);
        assert!(parsed(json!(keys)).is_ok());
        keys.push(other);
        assert!(parsed(json!(keys)).is_err());
        assert!(KeySet::parse(&format!("{{\"keys\":[]}}{}", " ".repeat(MAX_DOCUMENT_BYTES))).is_err());
        for document in ["", "secret", "[]", "{}", r#"{"keys":7}"#, r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
            let error = KeySet::parse(document).err().unwrap();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(!parsed(json!([{ "kty": "secret-type" }])).err().unwrap().contains("secret"));
    }

    #[test]
    fn a_condensed_set_has_the_same_keys_without_certificates_or_private_parts() {
        let published = json!([
            {
                "kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": text(256), "e": "AQAB",
                "x5c": [text(1_200)], "x5t": text(20), "x5t#S256": text(32), "issuer": "https://a.example", "d": "secret",
            },
            { "kty": "RSA", "kid": "two", "use": "enc", "alg": "RSA-OAEP", "n": text(256), "e": "AQAB" },
            { "kty": "EC", "kid": "three", "crv": "P-256", "x": text(32), "y": text(32) },
        ]);
        let set = parsed(published).unwrap();
        assert!(!set.is_rsa_only());
        let condensed = set.to_json();
        assert_eq!(
            serde_json::from_str::<Value>(&condensed).unwrap(),
            json!({ "keys": [
                { "kty": "RSA", "kid": "one", "n": text(256), "e": "AQAB" },
                { "kty": "EC", "kid": "three", "crv": "P-256", "x": text(32), "y": text(32) },
            ]})
        );
        assert_eq!(KeySet::parse(&condensed).unwrap().to_json(), condensed);
        // Into the 2,464 characters of the template fit five RSA keys of 2,048 bits, or six with short ids (docs/IDENTITY.md).
        let characters = |keys: usize, id: usize| {
            let id = "x".repeat(id);
            let key = json!({ "kty": "RSA", "kid": id, "n": text(256), "e": "AQAB", "x5c": [text(1_200)] });
            parsed(json!(vec![key; keys])).unwrap().to_json().len()
        };
        assert!(characters(5, 43) <= 2_464);
        assert!(characters(6, 26) <= 2_464 && characters(6, 27) > 2_464);
    }
}
