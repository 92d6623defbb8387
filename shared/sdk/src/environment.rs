//! What Lambda puts into a function's environment, and what stand-ins of AWS put there on one machine.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

/// A variable that Lambda always sets is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign requests to AWS: the environment has no {0}")]
pub struct MissingCredentials(pub &'static str);

/// The credentials that `source` (the environment) has. They last as long as the process: Lambda starts a new one
/// before they expire.
pub fn credentials(source: &dyn Fn(&str) -> Option<String>) -> Result<Credentials, MissingCredentials> {
    let required =
        |name: &'static str| source(name).filter(|value| !value.is_empty()).ok_or(MissingCredentials(name));
    let (id, secret) = (required("AWS_ACCESS_KEY_ID")?, required("AWS_SECRET_ACCESS_KEY")?);
    let session_token = source("AWS_SESSION_TOKEN").filter(|token| !token.is_empty());
    Ok(Credentials::new(id, secret, session_token, None, "environment"))
}

pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Debug)]
pub(crate) struct EnvironmentCredentials;

impl ProvideCredentials for EnvironmentCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(credentials(&variable).map_err(CredentialsError::not_loaded))
    }
}

/// `AWS_ENDPOINT_URL_DYNAMODB` and the like, or `AWS_ENDPOINT_URL`, as every AWS SDK reads them.
#[derive(Debug)]
pub(crate) struct EnvironmentEndpoints;

impl LoadServiceConfig for EnvironmentEndpoints {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        variable(&format!("{}_{service}", key.env())).or_else(|| variable(key.env()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_name_the_variable_that_is_missing() {
        let all = |name: &str| Some(name.to_lowercase());
        let found = credentials(&all).unwrap();
        assert_eq!(found.access_key_id(), "aws_access_key_id");
        assert_eq!(found.secret_access_key(), "aws_secret_access_key");
        assert_eq!(found.session_token(), Some("aws_session_token"));
        for missing in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            let without = |name: &str| (name != missing).then(|| name.to_owned());
            assert_eq!(credentials(&without).unwrap_err(), MissingCredentials(missing));
        }
        let without_token = |name: &str| (name != "AWS_SESSION_TOKEN").then(|| name.to_owned());
        assert_eq!(credentials(&without_token).unwrap().session_token(), None);
    }
}
