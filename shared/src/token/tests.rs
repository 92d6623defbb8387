//! Tokens that are signed here, with keys that are published as providers publish theirs.

mod providers;

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "fairdrop";

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// `base` with the members of `more`; a member that is null is removed.
fn with(mut base: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

/// A provider's private key.
enum Signer {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// The public key with nothing but what its type requires.
    fn public(&self) -> Value {
        match self {
            Self::Rsa(pair) => {
                let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
                json!({ "kty": "RSA", "n": base64url(modulus), "e": "AQAB" })
            }
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..]) })
            }
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key()) })
            }
        }
    }

    /// A token with `alg` and the members of `header`.
    fn sign(&self, header: Value, claims: &Value) -> String {
        let algorithm = match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        };
        let header = with(json!({ "alg": algorithm }), header);
        let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64url(signature))
    }
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": seconds_now() + 60 })
}

fn verifier(keys: Value) -> TokenVerifier {
    TokenVerifier::new(&json!({ "keys": keys }).to_string(), ISSUER, AUDIENCE).unwrap()
}

#[test]
fn without_key_ids_every_key_of_the_algorithm_is_tried() {
    let (old, new, stranger) = (Signer::p256(), Signer::p256(), Signer::p256());
    let other_type = Signer::ed25519();
    let sets = [
        json!([old.public(), other_type.public(), new.public()]),
        json!([with(old.public(), json!({ "kid": "old" })), with(new.public(), json!({ "kid": "new" }))]),
        json!([with(old.public(), json!({ "kid": "same" })), with(new.public(), json!({ "kid": "same" }))]),
    ];
    for set in sets {
        let verifier = verifier(set.clone());
        for signer in [&old, &new] {
            let token = signer.sign(json!({}), &claims());
            assert_eq!(verifier.verify(&token).unwrap().as_str(), "alice", "{set}");
        }
        let token = stranger.sign(json!({}), &claims());
        assert_eq!(verifier.verify(&token), Err(TokenError::BadSignature), "{set}");
        // The reason of the right key counts, wherever it stands.
        let expired = with(claims(), json!({ "exp": 1 }));
        for signer in [&old, &new] {
            assert_eq!(verifier.verify(&signer.sign(json!({}), &expired)), Err(TokenError::Expired), "{set}");
        }
    }
}

#[test]
fn a_key_id_selects_only_keys_that_have_one() {
    let (named, unnamed) = (Signer::ed25519(), Signer::ed25519());
    let verifier_of = verifier;
    let verifier = verifier_of(json!([with(named.public(), json!({ "kid": "a" })), unnamed.public()]));
    for (signer, id, expected) in [
        (&named, Some("a"), Ok(())),
        (&named, None, Ok(())),
        (&unnamed, Some("b"), Ok(())),
        (&unnamed, None, Ok(())),
        // Only the key without an id is tried.
        (&named, Some("b"), Err(TokenError::BadSignature)),
    ] {
        let header = id.map_or(json!({}), |id| json!({ "kid": id }));
        assert_eq!(verifier.verify(&signer.sign(header, &claims())).map(drop), expected, "{id:?}");
    }
    let all_named = verifier_of(json!([with(named.public(), json!({ "kid": "a" }))]));
    let token = named.sign(json!({ "kid": "b" }), &claims());
    assert_eq!(all_named.verify(&token), Err(TokenError::UnknownKey));
    let other_algorithm = Signer::p256().sign(json!({ "kid": "a" }), &claims());
    assert_eq!(all_named.verify(&other_algorithm), Err(TokenError::UnknownKey));
}

#[test]
fn a_critical_header_is_refused() {
    let signer = Signer::ed25519();
    let verifier = verifier(json!([signer.public()]));
    for header in [
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": [] }),
        json!({ "crit": ["https://a.example/extension"], "https://a.example/extension": 1 }),
    ] {
        let token = signer.sign(header.clone(), &claims());
        assert_eq!(verifier.verify(&token), Err(TokenError::CriticalHeader), "{header}");
    }
    let token = signer.sign(json!({ "crit": "b64" }), &claims());
    assert_eq!(verifier.verify(&token), Err(TokenError::Malformed));
}

#[test]
fn tokens_of_another_kind_are_refused() {
    let signer = Signer::ed25519();
    let verifier = verifier(json!([signer.public()]));
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "JOSE", ""] {
        assert!(verifier.verify(&signer.sign(json!({ "typ": typ }), &claims())).is_ok(), "{typ}");
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+JWT", "application/logout+jwt"] {
        let token = signer.sign(json!({ "typ": typ }), &claims());
        assert_eq!(verifier.verify(&token), Err(TokenError::NotAccessToken), "{typ}");
    }
    for more in [
        json!({ "token_use": "id" }),
        json!({ "token_use": 7 }),
        json!({ "typ": "ID" }),
        json!({ "typ": "Refresh" }),
        json!({ "typ": "Offline" }),
        json!({ "typ": "Logout" }),
        json!({ "token_use": "access", "typ": "ID" }),
    ] {
        let token = signer.sign(json!({}), &with(claims(), more.clone()));
        assert_eq!(verifier.verify(&token), Err(TokenError::NotAccessToken), "{more}");
    }
    // Dex's access tokens have the hash and the nonce, too.
    for more in [
        json!({ "typ": "Bearer" }),
        json!({ "typ": "DPoP" }),
        json!({ "token_use": "access" }),
        json!({ "at_hash": "x", "nonce": "y" }),
    ] {
        assert!(verifier.verify(&signer.sign(json!({}), &with(claims(), more.clone()))).is_ok(), "{more}");
    }
}

#[test]
fn the_client_is_the_audience_of_access_tokens_without_one() {
    let signer = Signer::ed25519();
    let verifier = verifier(json!([signer.public()]));
    let cognito = json!({ "aud": null, "token_use": "access", "client_id": AUDIENCE });
    for (more, expected) in [
        (json!({}), Ok(())),
        (json!({ "client_id": "other" }), Err(TokenError::WrongAudience)),
        (json!({ "client_id": 7 }), Err(TokenError::Malformed)),
        (json!({ "client_id": null }), Err(TokenError::Malformed)),
        // Without the mark it may be a token of any kind.
        (json!({ "token_use": null }), Err(TokenError::Malformed)),
        // If there is an audience, it alone counts.
        (json!({ "aud": "other" }), Err(TokenError::WrongAudience)),
        (json!({ "aud": [] }), Err(TokenError::WrongAudience)),
        (json!({ "aud": AUDIENCE, "client_id": "other" }), Ok(())),
        (json!({ "aud": ["other", AUDIENCE] }), Ok(())),
        (json!({ "aud": [AUDIENCE, 7] }), Err(TokenError::Malformed)),
        (json!({ "aud": 7 }), Err(TokenError::Malformed)),
        (json!({ "aud": { AUDIENCE: true } }), Err(TokenError::Malformed)),
    ] {
        let claims = with(with(claims(), cognito.clone()), more.clone());
        assert_eq!(verifier.verify(&signer.sign(json!({}), &claims)).map(drop), expected, "{more}");
    }
}

#[test]
fn one_of_several_audiences_is_enough() {
    let signer = Signer::ed25519();
    let keys = json!({ "keys": [signer.public()] }).to_string();
    let verifier = TokenVerifier::new(&keys, ISSUER, "page,app").unwrap();
    let cognito = json!({ "aud": null, "token_use": "access" });
    for (more, expected) in [
        (json!({ "aud": "page" }), Ok(())),
        (json!({ "aud": "app" }), Ok(())),
        (json!({ "aud": ["other", "app"] }), Ok(())),
        (with(cognito.clone(), json!({ "client_id": "app" })), Ok(())),
        (with(cognito.clone(), json!({ "client_id": "other" })), Err(TokenError::WrongAudience)),
        (json!({ "aud": "page,app" }), Err(TokenError::WrongAudience)),
        (json!({ "aud": "" }), Err(TokenError::WrongAudience)),
    ] {
        let token = signer.sign(json!({}), &with(claims(), more.clone()));
        assert_eq!(verifier.verify(&token).map(drop), expected, "{more}");
    }
    let many = vec!["a"; MAX_AUDIENCES + 1].join(",");
    for wrong in ["", ",", "page,", "page,,app", "page, app", many.as_str()] {
        assert!(TokenVerifier::new(&keys, ISSUER, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_issuer_that_is_a_list_is_refused() {
    let signer = Signer::ed25519();
    let verifier = verifier(json!([signer.public()]));
    for issuer in
        [json!([ISSUER]), json!([ISSUER, "https://other.example"]), json!({ "a": ISSUER }), Value::Null]
    {
        let token = signer.sign(json!({}), &with(claims(), json!({ "iss": issuer })));
        assert_eq!(verifier.verify(&token), Err(TokenError::Malformed), "{issuer}");
    }
}

#[test]
fn only_a_token_of_the_issuer_that_names_an_unknown_key_may_have_a_new_key() {
    let (signer, new) = (Signer::ed25519(), Signer::p256());
    let verifier = verifier(json!([with(signer.public(), json!({ "kid": "a" })), Signer::p256().public()]));
    let foreign = with(claims(), json!({ "iss": "https://other.example" }));
    for (header, claims, may_be_new) in [
        (json!({ "kid": "b" }), claims(), true),
        (json!({ "kid": "a" }), claims(), false),
        (json!({}), claims(), false),
        (json!({ "kid": "b" }), foreign, false),
        (json!({ "kid": "b" }), json!({ "iss": [ISSUER] }), false),
        (json!({ "kid": "b" }), json!({}), false),
    ] {
        let token = new.sign(header.clone(), &claims);
        assert_eq!(verifier.lacks_key_of(&token), may_be_new, "{header} {claims}");
    }
    for malformed in ["", "a.b.c", "x"] {
        assert!(!verifier.lacks_key_of(malformed));
    }
}

#[test]
fn keys_may_be_absent_only_where_they_are_fetched() {
    let read = |may_lack_keys| {
        let source = |name: &str| match name {
            "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.into()),
            "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.into()),
            _ => None,
        };
        TokenVerifier::from_config(&source, may_lack_keys).map(|verifier| verifier.is_empty())
    };
    assert_eq!(read(false), Err(ConfigError::Missing("FAIRDROP_TOKEN_JWKS")));
    assert_eq!(read(true), Ok(true));
}

#[test]
fn a_subject_that_is_a_number_is_named() {
    let signer = Signer::ed25519();
    let verifier = verifier(json!([signer.public()]));
    for (subject, expected) in [
        (json!(7), TokenError::NumericSubject),
        (json!(12345678901234567890_u64), TokenError::NumericSubject),
        (json!(1.5), TokenError::NumericSubject),
        (json!(true), TokenError::BadSubject),
        (json!(["alice"]), TokenError::Malformed),
        (json!("two words"), TokenError::BadSubject),
        (Value::Null, TokenError::Malformed),
    ] {
        let token = signer.sign(json!({}), &with(claims(), json!({ "sub": subject })));
        assert_eq!(verifier.verify(&token), Err(expected), "{subject}");
    }
    assert!(TokenError::NumericSubject.to_string().contains("(sub) is a number"));
}

#[test]
fn with_the_gateways_authorizer_all_keys_must_be_rsa_keys() {
    let rsa = json!({ "kty": "RSA", "kid": "a", "n": base64url([0xa5; 256]), "e": "AQAB" });
    let encryption = with(Signer::p256().public(), json!({ "use": "enc" }));
    let (p256, ed25519) = (Signer::p256().public(), Signer::ed25519().public());
    let read = |keys: &Value, authorizer: Option<&str>| {
        let jwks = json!({ "keys": keys }).to_string();
        TokenVerifier::from_config(
            &|name| match name {
                "FAIRDROP_TOKEN_JWKS" => Some(jwks.clone()),
                "FAIRDROP_TOKEN_ISSUER" => Some(ISSUER.into()),
                "FAIRDROP_TOKEN_AUDIENCE" => Some(AUDIENCE.into()),
                "FAIRDROP_JWT_AUTHORIZER" => authorizer.map(str::to_owned),
                _ => None,
            },
            false,
        )
        .map(drop)
    };
    for keys in [json!([rsa]), json!([rsa, encryption])] {
        assert_eq!(read(&keys, Some("true")), Ok(()), "{keys}");
    }
    for keys in [json!([p256]), json!([ed25519]), json!([rsa, p256])] {
        for authorizer in [None, Some(""), Some("false")] {
            assert_eq!(read(&keys, authorizer), Ok(()), "{keys}");
        }
        let error = read(&keys, Some("true")).unwrap_err().to_string();
        assert!(error.contains("FAIRDROP_JWT_AUTHORIZER") && error.contains("RSA"), "{error}");
    }
    assert!(read(&json!([rsa]), Some("yes")).is_err());
}
