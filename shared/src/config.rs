//! The environment, read once at start into small typed structs.
//!
//! An error names the variable that is missing or malformed. An empty variable counts as not set, since a SAM
//! parameter cannot be absent.

mod redis_ca;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Why the configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable without a default is not set.
    #[error("the environment variable {0} is not set; it has no default")]
    Missing(&'static str),
    /// A variable has a value that cannot be used.
    #[error("the environment variable {name} has a wrong value: {why}")]
    Bad {
        name: &'static str,
        /// The reason. It never contains the value, which may be a secret.
        why: String,
    },
}

impl ConfigError {
    /// The variable `name` has a wrong value because of `why`.
    pub fn bad(name: &'static str, why: impl ToString) -> Self {
        Self::Bad { name, why: why.to_string() }
    }
}

/// The source of variables: the process's environment, or a table in tests.
pub type Source<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The text of `name`, if it is set and not empty.
pub fn optional(source: Source, name: &'static str) -> Option<String> {
    source(name).filter(|text| !text.is_empty())
}

/// The text of `name`, which must be set.
pub fn required(source: Source, name: &'static str) -> Result<String, ConfigError> {
    optional(source, name).ok_or(ConfigError::Missing(name))
}

/// The value of `name`, or `default`, within `least..=most`.
pub fn number<T>(source: Source, name: &'static str, default: T, least: T, most: T) -> Result<T, ConfigError>
where
    T: FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let Some(text) = optional(source, name) else { return Ok(default) };
    match text.parse::<T>() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(ConfigError::bad(name, format!("it must be a whole number from {least} to {most}"))),
    }
}

/// The region of this process: `FAIRDROP_REGION`, or else `AWS_REGION`.
pub fn region(source: Source) -> Result<String, ConfigError> {
    optional(source, "FAIRDROP_REGION")
        .or_else(|| optional(source, "AWS_REGION"))
        .ok_or(ConfigError::Missing("FAIRDROP_REGION"))
}

/// How to reach a Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// The address and the credentials.
    pub address: redis::ConnectionInfo,
    /// The settings of TLS, with the authorities of `FAIRDROP_REDIS_CA_FILE` or the public ones. They have the sessions of
    /// earlier connections, too.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The time limit to connect, TLS and AUTH included.
    pub connect_timeout: Duration,
    /// The time limit of one answer.
    pub response_timeout: Duration,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// The main region's Redis: `FAIRDROP_MAIN_REDIS_URL`.
    pub fn main(source: Source) -> Result<Self, ConfigError> {
        let name = "FAIRDROP_MAIN_REDIS_URL";
        Self::at(source, name, &required(source, name)?)
    }

    /// The region's own read replica, if one is configured: `FAIRDROP_REPLICA_REDIS_URL`.
    pub fn replica(source: Source) -> Result<Option<Self>, ConfigError> {
        let name = "FAIRDROP_REPLICA_REDIS_URL";
        optional(source, name).map(|url| Self::at(source, name, &url)).transpose()
    }

    /// The standby's own Redis, by the address that every region will use once it is main: `FAIRDROP_STANDBY_REDIS_URL`.
    pub fn standby(source: Source) -> Result<Self, ConfigError> {
        let name = "FAIRDROP_STANDBY_REDIS_URL";
        Self::at(source, name, &required(source, name)?)
    }

    /// The region's own writable Redis, for the registry of watchers: `FAIRDROP_LIVE_REDIS_URL`. In the main region
    /// it may be main's Redis.
    pub fn live(source: Source) -> Result<Self, ConfigError> {
        let name = "FAIRDROP_LIVE_REDIS_URL";
        Self::at(source, name, &required(source, name)?)
    }

    fn at(source: Source, name: &'static str, url: &str) -> Result<Self, ConfigError> {
        let (address, tls) = redis_ca::address(source, name, url)?;
        // A connection costs up to four round trips to main (TCP, TLS, AUTH, CLIENT), a lost packet one second more.
        let connect_ms = number(source, "FAIRDROP_REDIS_CONNECT_TIMEOUT_MS", 3_000, 10, 10_000)?;
        let response_ms = number(source, "FAIRDROP_REDIS_RESPONSE_TIMEOUT_MS", 800, 10, 10_000)?;
        Ok(Self {
            address,
            tls,
            connect_timeout: Duration::from_millis(connect_ms),
            response_timeout: Duration::from_millis(response_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn an_error_names_the_missing_variable() {
        let error = RedisConfig::main(&with(&[("FAIRDROP_MAIN_REDIS_URL", "")])).unwrap_err();
        assert_eq!(error, ConfigError::Missing("FAIRDROP_MAIN_REDIS_URL"));
        assert_eq!(region(&with(&[])), Err(ConfigError::Missing("FAIRDROP_REGION")));
    }

    #[test]
    fn an_error_names_the_wrong_variable_and_hides_its_value() {
        let source = with(&[("FAIRDROP_MAIN_REDIS_URL", "http://user:hunter2@host")]);
        let text = RedisConfig::main(&source).unwrap_err().to_string();
        assert!(text.contains("FAIRDROP_MAIN_REDIS_URL") && !text.contains("hunter2"), "{text}");

        for wrong in ["-1", "9", "10001", "1s", "1.5"] {
            let source = |name: &str| match name {
                "FAIRDROP_MAIN_REDIS_URL" => Some("redis://localhost".to_owned()),
                "FAIRDROP_REDIS_CA_FILE" => None,
                _ => Some(wrong.to_owned()),
            };
            let text = RedisConfig::main(&source).unwrap_err().to_string();
            assert!(text.contains("FAIRDROP_REDIS_CONNECT_TIMEOUT_MS"), "{text}");
        }
    }

    #[test]
    fn a_replica_may_be_absent() {
        assert!(RedisConfig::replica(&with(&[("FAIRDROP_REPLICA_REDIS_URL", "")])).unwrap().is_none());
        let source = with(&[("FAIRDROP_REPLICA_REDIS_URL", "rediss://replica:6379")]);
        assert!(RedisConfig::replica(&source).unwrap().is_some());
    }

    #[test]
    fn the_region_falls_back_to_aws_region() {
        assert_eq!(region(&with(&[("AWS_REGION", "eu-west-1")])).unwrap(), "eu-west-1");
    }
}
