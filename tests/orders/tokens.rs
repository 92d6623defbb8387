//! Invalid tokens are refused, by the verifier and over HTTP.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::aws::identity::{AUDIENCE, ISSUER, IdentityProvider};
use local::system::clock::seconds_now;
use serde_json::{Value, json};
use shared::token::{LEEWAY_SECONDS, TokenError, TokenVerifier};
use tests::{Client, announce, one_region};

fn claims() -> Value {
    let now = seconds_now();
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 60, "nbf": now - 60 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn verifier(identity: &IdentityProvider) -> TokenVerifier {
    TokenVerifier::new(&identity.jwks().to_string(), ISSUER, AUDIENCE).unwrap()
}

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

#[test]
fn claims_are_compared_with_the_configuration() {
    let identity = IdentityProvider::new().unwrap();
    let verifier = verifier(&identity);
    let now = seconds_now();
    let cases = [
        (with("exp", json!(now - LEEWAY_SECONDS - 2)), TokenError::Expired),
        (with("nbf", json!(now + LEEWAY_SECONDS + 30)), TokenError::NotYetValid),
        (with("iss", json!("https://evil.example")), TokenError::WrongIssuer),
        (with("aud", json!("another shop")), TokenError::WrongAudience),
        (with("aud", json!(["another", "shop"])), TokenError::WrongAudience),
        (with("sub", json!("")), TokenError::BadSubject),
        (with("sub", json!("two words")), TokenError::BadSubject),
        (with("sub", json!("x".repeat(256))), TokenError::BadSubject),
        (with("sub", json!(7)), TokenError::NumericSubject),
        (with("token_use", json!("id")), TokenError::NotAccessToken),
        (with("typ", json!("ID")), TokenError::NotAccessToken),
        (without("sub"), TokenError::Malformed),
        (without("exp"), TokenError::Malformed),
        (without("iss"), TokenError::Malformed),
        (without("aud"), TokenError::Malformed),
    ];
    for (claims, error) in cases {
        let token = identity.sign(&claims).unwrap();
        assert_eq!(verifier.verify(&token), Err(error), "{claims}");
    }
    for good in [claims(), without("nbf"), with("aud", json!(["another", AUDIENCE]))] {
        let buyer = verifier.verify(&identity.sign(&good).unwrap()).unwrap();
        assert_eq!(buyer.as_str(), "alice", "{good}");
    }
}

#[test]
fn the_token_does_not_choose_its_algorithm_or_key() {
    let identity = IdentityProvider::new().unwrap();
    let verifier = verifier(&identity);
    let stranger = IdentityProvider::new().unwrap();
    assert_eq!(verifier.verify(&stranger.sign(&claims()).unwrap()), Err(TokenError::BadSignature));

    for algorithm in ["none", "None", "nOnE"] {
        let token = format!("{}.{}.", encode(&json!({ "alg": algorithm, "typ": "JWT" })), encode(&claims()));
        assert_eq!(verifier.verify(&token), Err(TokenError::Malformed), "{algorithm}");
    }
    // The public key as the secret of an HMAC, in each form an attacker could have it.
    let jwks = identity.jwks().to_string();
    let x = identity.jwks()["keys"][0]["x"].as_str().unwrap().to_owned();
    for secret in [identity.public_key(), jwks.as_bytes(), x.as_bytes()] {
        for kid in [None, Some("local-1".to_owned())] {
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(verifier.verify(&token), Err(TokenError::UnknownKey));
        }
    }
    let good = identity.sign(&claims()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let forged = format!("{}.{}.{}", parts[0], encode(&with("sub", json!("bob"))), parts[2]);
    assert_eq!(verifier.verify(&forged), Err(TokenError::BadSignature));
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(verifier.verify(&unsigned), Err(TokenError::BadSignature));
    let other_kid =
        format!("{}.{}.{}", encode(&json!({ "alg": "EdDSA", "kid": "local-2" })), parts[1], parts[2]);
    assert_eq!(verifier.verify(&other_kid), Err(TokenError::UnknownKey));
    for nonsense in ["", ".", "..", "a.b.c", "a.b", &"x".repeat(8_000), "\0\0\0", "é.é.é"] {
        assert_eq!(verifier.verify(nonsense), Err(TokenError::Malformed), "{nonsense:?}");
    }
    assert_eq!(verifier.verify(&"x".repeat(1_000_000)), Err(TokenError::TooLong));
}

#[test]
fn es256_and_rs256_work_and_without_a_key_id_each_key_of_the_algorithm_is_tried() {
    let random = SystemRandom::new();
    let ec_document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec_document.as_ref()).unwrap();
    let point = ec.public_key().as_ref();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let ec_jwk =
        json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..]) });

    let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let modulus = rsa.public_key().modulus().big_endian_without_leading_zero().to_vec();
    let exponent = rsa.public_key().exponent().big_endian_without_leading_zero().to_vec();
    let rsa_jwk = json!({ "kty": "RSA", "alg": "RS256", "n": b64(&modulus), "e": b64(&exponent) });
    let second_ec = json!({ "kty": "EC", "crv": "P-256", "kid": "ec2", "x": ec_jwk["x"], "y": ec_jwk["y"] });

    let jwks = json!({ "keys": [ec_jwk, rsa_jwk, second_ec] }).to_string();
    let verifier = TokenVerifier::new(&jwks, ISSUER, AUDIENCE).unwrap();
    let ec_signing = EncodingKey::from_ec_der(ec_document.as_ref());
    let sign = |header: &Header, key: &EncodingKey| jsonwebtoken::encode(header, &claims(), key).unwrap();
    let es256 = Header { kid: Some("ec".into()), ..Header::new(Algorithm::ES256) };
    assert!(verifier.verify(&sign(&es256, &ec_signing)).is_ok());
    let no_kid = Header::new(Algorithm::ES256);
    assert!(verifier.verify(&sign(&no_kid, &ec_signing)).is_ok());
    let unknown_kid = Header { kid: Some("ec3".into()), ..Header::new(Algorithm::ES256) };
    assert_eq!(verifier.verify(&sign(&unknown_kid, &ec_signing)), Err(TokenError::UnknownKey));

    use aws_lc_rs::encoding::AsDer;
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&rsa).unwrap();
    let rs256 = Header::new(Algorithm::RS256);
    let signed = format!("{}.{}", encode(&serde_json::to_value(&rs256).unwrap()), encode(&claims()));
    let mut signature = vec![0; rsa.public_modulus_len()];
    rsa.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
    assert!(!der.as_ref().is_empty());
    assert!(verifier.verify(&format!("{signed}.{}", b64(&signature))).is_ok());
}

#[test]
fn unsuitable_keys_are_refused() {
    let identity = IdentityProvider::new().unwrap();
    let good = identity.jwks()["keys"][0].clone();
    let changed = |name: &str, value: &str| {
        let mut key = good.clone();
        key[name] = value.into();
        json!({ "keys": [key] }).to_string()
    };
    let bad = [
        "{}".to_owned(),
        "not json".to_owned(),
        json!({ "keys": [] }).to_string(),
        json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] }).to_string(),
        json!({ "keys": vec![good.clone(); 17] }).to_string(),
        changed("alg", "HS256"),
        changed("alg", "ES256"),
        changed("use", "enc"),
        changed("crv", "Ed448"),
    ];
    for jwks in bad {
        assert!(TokenVerifier::new(&jwks, ISSUER, AUDIENCE).is_err(), "{jwks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_a_bad_token_is_401_and_says_why() {
    let system = one_region().await.unwrap();
    announce(&system, "a", json!({})).await.unwrap();
    let client = Client::of(&system, 0).unwrap();
    let identity = &system.identity;
    let expired = identity.sign(&with("exp", json!(seconds_now() - 60))).unwrap();
    let other_audience = identity.sign(&with("aud", json!("other"))).unwrap();
    let wrong_key = IdentityProvider::new().unwrap().token("alice").unwrap();
    let none = format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&claims()));
    let hmac = EncodingKey::from_secret(identity.public_key());
    let hmac = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &hmac).unwrap();
    for (token, word) in [
        (expired, "expired"),
        (other_audience, "audience"),
        (wrong_key, "signature"),
        (none, "signed with EdDSA"),
        (hmac, "not signed with a key"),
        (identity.sign(&with("token_use", json!("id"))).unwrap(), "ID token"),
        (identity.sign(&with("sub", json!(7))).unwrap(), "(sub) is a number"),
        ("x".repeat(9_000), "longer"),
    ] {
        for answer in [client.order("a", &token).await.unwrap(), client.mine("a", &token).await.unwrap()] {
            assert_eq!((answer.status, answer.problem()), (401, Some("bad-token")), "{answer:?}");
            assert!(answer.body["detail"].as_str().unwrap().contains(word), "{answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
        }
    }
    for header in ["", "Bearer", "Basic YTpi", "token x"] {
        let answer = client
            .send("POST", "/items/a/orders", |request| request.header("authorization", header))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.problem()), (401, Some("no-token")), "{header}");
    }
    let none = client.send("POST", "/items/a/orders", |request| request).await.unwrap();
    assert_eq!((none.status, none.problem()), (401, Some("no-token")));
    // A gateway refuses a header of this size before any function gets it. The function must refuse it too, and go on.
    let huge = client.order("a", &"x".repeat(1_000_000)).await;
    assert!(huge.is_err() || huge.is_ok_and(|answer| answer.status >= 400));
    let event = json!({
        "version": "2.0", "routeKey": "ANY /items/{item_id}/orders", "rawPath": "/items/a/orders",
        "rawQueryString": "", "headers": { "authorization": format!("Bearer {}", "x".repeat(1_000_000)) },
        "pathParameters": { "item_id": "a" }, "isBase64Encoded": false,
        "requestContext": { "http": { "method": "POST", "path": "/items/a/orders" }, "timeEpoch": 0 },
    });
    let invoked = system.main_invoke_api().unwrap().call("order-intake", &event).await.unwrap();
    let local::aws::lambda::Invoked::Answer(answer) = invoked else { panic!("{invoked:?}") };
    assert_eq!(answer["statusCode"], 401);
    assert_eq!(client.order("a", &identity.token("alice").unwrap()).await.unwrap().status, 202);
}
