//! The issuer's key set, as it publishes it.

use crate::client::{FetchError, HttpsClient};
use serde::Deserialize;
use shared::token::key_set::KeySet;
use shared::token_keys::KeySource;

/// Why there is no key set. The texts contain nothing of the documents.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    #[error("the issuer's discovery document: {0}")]
    Discovery(FetchError),
    #[error("the issuer's discovery document is malformed: it must be JSON with issuer and jwks_uri")]
    Malformed,
    #[error("the issuer's discovery document is of another issuer than FAIRDROP_TOKEN_ISSUER")]
    OtherIssuer,
    #[error("the key set: {0}")]
    Keys(FetchError),
    #[error("the key set cannot be used: {0}")]
    Unusable(String),
}

/// The issuer of the tokens, and where its keys are.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) issuer: String,
    pub(crate) from: KeySource,
    pub(crate) client: HttpsClient,
}

impl Issuer {
    /// The published set, with the usable keys alone. At least one is left.
    pub(crate) async fn keys(&self) -> Result<String, IssuerError> {
        let url = match &self.from {
            KeySource::Url(url) => url.clone(),
            KeySource::Discovery => {
                let document = self.client.get(&discovery_url(&self.issuer)).await;
                jwks_uri(&document.map_err(IssuerError::Discovery)?, &self.issuer)?
            }
        };
        let document = self.client.get(&url).await.map_err(IssuerError::Keys)?;
        KeySet::parse(&document).map(|set| set.to_json()).map_err(IssuerError::Unusable)
    }
}

/// OpenID Connect Discovery 1.0 §4: a slash at the end of the issuer is left out.
fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// §4.3: the document's issuer must be exactly the one that was asked for. The address of the keys may be on another
/// host, as Google's is.
fn jwks_uri(document: &str, issuer: &str) -> Result<String, IssuerError> {
    #[derive(Deserialize)]
    struct Discovered {
        issuer: String,
        jwks_uri: String,
    }
    let found: Discovered = serde_json::from_str(document).map_err(|_| IssuerError::Malformed)?;
    if found.issuer == issuer { Ok(found.jwks_uri) } else { Err(IssuerError::OtherIssuer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discovery_document_is_below_the_issuer() {
        let expected = "https://id.example/realms/a/.well-known/openid-configuration";
        assert_eq!(discovery_url("https://id.example/realms/a"), expected);
        assert_eq!(discovery_url("https://id.example/realms/a/"), expected);
    }

    #[test]
    fn the_issuer_must_match_exactly() {
        let issuer = "https://id.example/";
        let check = |document: &str| jwks_uri(document, issuer);
        let uri = check(r#"{"issuer":"https://id.example/","jwks_uri":"https://keys.example/a","x":1}"#);
        assert_eq!(uri.unwrap(), "https://keys.example/a");
        for other in ["https://id.example", "https://ID.example/", "https://id.example/x"] {
            let document = format!(r#"{{"issuer":"{other}","jwks_uri":"https://keys.example/a"}}"#);
            assert!(matches!(check(&document), Err(IssuerError::OtherIssuer)), "{other}");
        }
        for malformed in
            ["", "{}", "[]", r#"{"issuer":"https://id.example/"}"#, r#"{"issuer":["https://id.example/"]}"#]
        {
            assert!(matches!(check(malformed), Err(IssuerError::Malformed)), "{malformed}");
        }
    }
}
