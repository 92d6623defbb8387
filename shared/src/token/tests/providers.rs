//! One row for each provider of docs/IDENTITY.md: its key set and its tokens in their published form.

use super::*;

/// What a provider publishes and issues.
struct Provider {
    name: &'static str,
    issuer: &'static str,
    /// The value of `TokenAudience`.
    audience: &'static str,
    keys: Value,
    /// Key that signs the tokens.
    signer: Signer,
    subject: &'static str,
    /// Header and claims of access tokens, without the times.
    accepted: Vec<(Value, Value)>,
    /// Changes to the first of these that must be refused, with the reason.
    refused: Vec<(Value, TokenError)>,
}

/// A published RSA key without certificates.
fn plain(signer: &Signer, id: &str) -> Value {
    with(signer.public(), json!({ "kid": id, "use": "sig", "alg": "RS256" }))
}

/// A published RSA key with its certificate, as long as a self-signed one.
fn certified(signer: &Signer, id: &str) -> Value {
    let certificate = base64::engine::general_purpose::STANDARD.encode([0x30; 760]);
    let more = json!({ "x5c": [certificate], "x5t": base64url([1; 20]), "x5t#S256": base64url([1; 32]) });
    with(plain(signer, id), more)
}

/// Two keys; access tokens have `client_id` instead of `aud`.
fn cognito() -> Provider {
    let (signer, other) = (Signer::rsa(), Signer::rsa());
    let issuer = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_EXAMPLE";
    let access = json!({
        "sub": "6b1f0c5e-1a2b-4c3d-8e4f-5a6b7c8d9e0f", "iss": issuer, "version": 2, "client_id": "4shopclientexample",
        "origin_jti": "o", "event_id": "e", "token_use": "access", "scope": "openid profile", "auth_time": 1,
        "jti": "j", "username": "alice", "cognito:groups": ["buyers"],
    });
    Provider {
        name: "Amazon Cognito",
        issuer,
        audience: "4shopclientexample",
        keys: json!([plain(&other, "idTokenKeyExample="), plain(&signer, "accessTokenKeyExample=")]),
        signer,
        subject: "6b1f0c5e-1a2b-4c3d-8e4f-5a6b7c8d9e0f",
        accepted: vec![(json!({ "kid": "accessTokenKeyExample=" }), access)],
        refused: vec![
            (json!({ "client_id": "another client" }), TokenError::WrongAudience),
            // The ID token.
            (
                json!({ "client_id": null, "aud": "4shopclientexample", "token_use": "id", "cognito:username": "alice" }),
                TokenError::NotAccessToken,
            ),
        ],
    }
}

/// Two keys while one is rotated, each with a certificate; two profiles of access tokens.
fn auth0() -> Provider {
    let (signer, next) = (Signer::rsa(), Signer::rsa());
    let issuer = "https://shop.eu.auth0.com/";
    let access = json!({
        "iss": issuer, "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://drop.example/api", "https://shop.eu.auth0.com/userinfo"],
        "azp": "pageclient", "scope": "openid profile",
    });
    let rfc9068 = with(
        access.clone(),
        json!({ "aud": "https://drop.example/api", "azp": null, "client_id": "pageclient", "jti": "j" }),
    );
    Provider {
        name: "Auth0",
        issuer,
        audience: "https://drop.example/api",
        keys: json!([certified(&signer, "RkI5MjI5OUY5ODc1N0Q"), certified(&next, "next")]),
        signer,
        subject: "auth0|5f7c8ec7c33c6c004bbafe82",
        accepted: vec![
            (json!({ "typ": "JWT", "kid": "RkI5MjI5OUY5ODc1N0Q" }), access),
            (json!({ "typ": "at+jwt", "kid": "RkI5MjI5OUY5ODc1N0Q" }), rfc9068),
        ],
        // The ID token: its audience is the page.
        refused: vec![(json!({ "aud": "pageclient", "nonce": "n", "azp": null }), TokenError::WrongAudience)],
    }
}

/// The custom authorization server `default`.
fn okta() -> Provider {
    let signer = Signer::rsa();
    let issuer = "https://shop.okta.com/oauth2/default";
    let access = json!({
        "ver": 1, "jti": "AT.example", "iss": issuer, "aud": "api://default", "cid": "0oapage", "uid": "00ualice",
        "scp": ["openid"], "auth_time": 1, "sub": "alice@shop.example",
    });
    Provider {
        name: "Okta",
        issuer,
        audience: "api://default",
        keys: json!([plain(&signer, "U5R8cHbGw445Qbq8zVO1PcCpXL8yG6IcovVa3laCoxM")]),
        signer,
        subject: "alice@shop.example",
        accepted: vec![(json!({ "kid": "U5R8cHbGw445Qbq8zVO1PcCpXL8yG6IcovVa3laCoxM" }), access)],
        refused: vec![
            // The ID token: its audience is the page.
            (
                json!({ "aud": "0oapage", "cid": null, "at_hash": "h", "amr": ["pwd"] }),
                TokenError::WrongAudience,
            ),
            // The org authorization server, whose tokens only Okta may read.
            (json!({ "iss": "https://shop.okta.com" }), TokenError::WrongIssuer),
        ],
    }
}

/// Keys without `alg`, with certificates and members of its own.
fn entra() -> Provider {
    let (signer, other) = (Signer::rsa(), Signer::rsa());
    let issuer = "https://login.microsoftonline.com/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0";
    let published = |signer: &Signer, id: &str| {
        let more = json!({ "alg": null, "cloud_instance_name": "microsoftonline.com", "issuer": issuer });
        with(certified(signer, id), more)
    };
    let access = json!({
        "aud": "00001111-aaaa-2222-bbbb-3333cccc4444", "iss": issuer, "aio": "opaque", "azp": "page", "azpacr": "0",
        "name": "Alice", "oid": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb", "preferred_username": "alice@shop.example",
        "rh": "opaque", "scp": "orders", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
        "tid": "aaaabbbb-0000-cccc-1111-dddd2222eeee", "uti": "opaque", "ver": "2.0",
    });
    Provider {
        name: "Microsoft Entra ID",
        issuer,
        audience: "00001111-aaaa-2222-bbbb-3333cccc4444",
        keys: json!([published(&other, "otherKeyExample"), published(&signer, "keyExample")]),
        signer,
        subject: "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
        accepted: vec![(json!({ "typ": "JWT", "kid": "keyExample" }), access)],
        refused: vec![
            // The ID token: its audience is the page.
            (json!({ "aud": "page", "azp": null, "scp": null, "nonce": "n" }), TokenError::WrongAudience),
            // Version 1.0, which an app registration issues by default.
            (
                json!({
                    "iss": "https://sts.windows.net/aaaabbbb-0000-cccc-1111-dddd2222eeee/", "ver": "1.0",
                    "aud": "api://00001111-aaaa-2222-bbbb-3333cccc4444",
                }),
                TokenError::WrongIssuer,
            ),
        ],
    }
}

/// A realm with its encryption key, and with the keys of other algorithms that a realm may have.
fn keycloak() -> Provider {
    let (signer, encryption) = (Signer::rsa(), Signer::rsa());
    let issuer = "https://id.example/realms/shop";
    let point = base64url([7; 48]);
    let access = json!({
        "auth_time": 1, "jti": "onrtac:example", "iss": issuer, "aud": ["fairdrop", "account"],
        "sub": "1f9c1b2e-7d0e-4c2e-9c53-0d8f3a0d7c11", "typ": "Bearer", "azp": "page", "sid": "s", "acr": "1",
        "allowed-origins": ["https://shop.example"], "realm_access": { "roles": ["offline_access"] },
        "scope": "openid profile", "preferred_username": "alice",
    });
    Provider {
        name: "Keycloak",
        issuer,
        audience: "fairdrop",
        keys: json!([
            with(certified(&encryption, "encryption"), json!({ "use": "enc", "alg": "RSA-OAEP" })),
            { "kid": "p384", "kty": "EC", "alg": "ES384", "use": "sig", "crv": "P-384", "x": point, "y": point },
            { "kid": "ed448", "kty": "OKP", "alg": "EdDSA", "use": "sig", "crv": "Ed448", "x": base64url([7; 57]) },
            certified(&signer, "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE"),
        ]),
        signer,
        subject: "1f9c1b2e-7d0e-4c2e-9c53-0d8f3a0d7c11",
        accepted: vec![(
            json!({ "typ": "JWT", "kid": "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE" }),
            access,
        )],
        refused: vec![
            // The ID token, of a page whose client is the audience.
            (
                json!({ "typ": "ID", "aud": "fairdrop", "at_hash": "h", "nonce": "n" }),
                TokenError::NotAccessToken,
            ),
            // Without an audience mapper.
            (json!({ "aud": "account" }), TokenError::WrongAudience),
            (json!({ "aud": null }), TokenError::Malformed),
            // Of a client without the scope `basic`, which adds the subject.
            (json!({ "sub": null }), TokenError::Malformed),
        ],
    }
}

/// Firebase has no access tokens for a shop's own backend: it documents its ID tokens for that.
fn firebase() -> Provider {
    let (signer, other) = (Signer::rsa(), Signer::rsa());
    let issuer = "https://securetoken.google.com/shop-project";
    let token = json!({
        "iss": issuer, "aud": "shop-project", "auth_time": 1, "user_id": "Xy12aliceExample", "sub": "Xy12aliceExample",
        "email": "alice@shop.example", "email_verified": true,
        "firebase": { "identities": { "email": ["alice@shop.example"] }, "sign_in_provider": "password" },
    });
    Provider {
        name: "Firebase",
        issuer,
        audience: "shop-project",
        keys: json!([plain(&signer, "f90fb1ae048a548fb681ad6092b0b869ea467ac6"), plain(&other, "other")]),
        signer,
        subject: "Xy12aliceExample",
        accepted: vec![(json!({ "typ": "JWT", "kid": "f90fb1ae048a548fb681ad6092b0b869ea467ac6" }), token)],
        refused: vec![
            (json!({ "aud": "another-project" }), TokenError::WrongAudience),
            // A session cookie, and an ID token of Google itself.
            (json!({ "iss": "https://session.firebase.google.com/shop-project" }), TokenError::WrongIssuer),
            (json!({ "iss": "https://accounts.google.com" }), TokenError::WrongIssuer),
        ],
    }
}

#[test]
fn tokens_of_each_provider_are_accepted_as_they_are_issued() {
    let guide = include_str!("../../../../docs/IDENTITY.md");
    for provider in [cognito(), auth0(), okta(), entra(), keycloak(), firebase()] {
        let name = provider.name;
        assert!(guide.contains(&format!("\n| {name} |")), "docs/IDENTITY.md has no row for {name}");
        let published = json!({ "keys": provider.keys }).to_string();
        let condensed = KeySet::parse(&published).unwrap().to_json();
        assert!(condensed.len() < 2_568, "{name}: {} characters", condensed.len());
        let now = seconds_now();
        let times = json!({ "iat": now, "nbf": now, "exp": now + 300 });
        for jwks in [&published, &condensed] {
            let verifier = TokenVerifier::new(jwks, provider.issuer, provider.audience).unwrap();
            for (header, claims) in &provider.accepted {
                let token = provider.signer.sign(header.clone(), &with(claims.clone(), times.clone()));
                assert_eq!(
                    verifier.verify(&token).map(|buyer| buyer.as_str().to_owned()).as_deref(),
                    Ok(provider.subject),
                    "{name}: {claims}"
                );
            }
            let (header, claims) = &provider.accepted[0];
            for (change, expected) in &provider.refused {
                let claims = with(with(claims.clone(), times.clone()), change.clone());
                let token = provider.signer.sign(header.clone(), &claims);
                assert_eq!(verifier.verify(&token), Err(*expected), "{name}: {change}");
            }
        }
    }
}
