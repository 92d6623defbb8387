//! From where `token-keys` fetches the issuer's keys: `FAIRDROP_TOKEN_KEYS_FROM`.

use crate::config::{self, ConfigError, Source};

/// The address of the issuer's key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `discovery`: the issuer's own document names it (OpenID Connect Discovery 1.0 §4).
    Discovery,
    /// The URL of the key set.
    Url(String),
}

impl KeySource {
    /// Reads `FAIRDROP_TOKEN_KEYS_FROM`; `None` if no keys are fetched.
    pub fn from_config(source: Source) -> Result<Option<Self>, ConfigError> {
        let name = "FAIRDROP_TOKEN_KEYS_FROM";
        match config::optional(source, name) {
            None => Ok(None),
            Some(text) if text == "discovery" => Ok(Some(Self::Discovery)),
            Some(text) if is_accepted(&text) => Ok(Some(Self::Url(text))),
            Some(_) => Err(ConfigError::bad(name, "it must be discovery, or an https URL")),
        }
    }
}

/// Whether keys may be fetched from `url`. Plain HTTP is for an issuer on this machine, in tests.
pub fn is_accepted(url: &str) -> bool {
    let has_host = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    url.strip_prefix("https://").is_some_and(has_host) || is_local(url)
}

/// Whether `url` is on this machine.
pub fn is_local(url: &str) -> bool {
    url.starts_with("http://127.0.0.1:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_discovery_or_from_an_https_url() {
        let read = |text: &'static str| {
            KeySource::from_config(&|name| (name == "FAIRDROP_TOKEN_KEYS_FROM").then(|| text.into()))
        };
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("discovery"), Ok(Some(KeySource::Discovery)));
        let url = "https://id.example/keys";
        assert_eq!(read(url), Ok(Some(KeySource::Url(url.into()))));
        for wrong in
            ["http://id.example/keys", "id.example", "https://", "https:///keys", "Discovery", "file:///x"]
        {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("FAIRDROP_TOKEN_KEYS_FROM") && !error.contains("id.example"), "{error}");
        }
    }
}
