//! The IAM token that opens a connection to the ledger in place of a password: a signed request to connect, without
//! its scheme. Source: "IAM database authentication for MariaDB, MySQL, and PostgreSQL", Amazon RDS User Guide.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningError, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_sigv4::sign::v4::signing_params::BuildError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::{Duration, SystemTime};

/// How long RDS accepts a token; an open connection outlives it.
const EXPIRES_IN: Duration = Duration::from_secs(900);
/// RFC 3986's unreserved characters, which a signature leaves as they are.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const SCHEME: &str = "https://";

/// Who connects, and to which database.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseUser<'a> {
    /// The host of the database, as clients address it.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The user in the database.
    pub user: &'a str,
    /// The database's region.
    pub region: &'a str,
}

/// The token could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseTokenError {
    /// A parameter of the signature is missing.
    #[error("an IAM token for the ledger cannot be signed: a parameter is missing")]
    Parameters(#[from] BuildError),
    /// The request cannot be signed.
    #[error("an IAM token for the ledger cannot be signed")]
    Signing(#[from] SigningError),
}

impl DatabaseUser<'_> {
    /// A token that is signed with `credentials` at the moment `at`.
    pub fn database_token(
        &self,
        credentials: Credentials,
        at: SystemTime,
    ) -> Result<String, DatabaseTokenError> {
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let mut url =
            format!("{SCHEME}{}:{}/?Action=connect&DBUser={}", self.host, self.port, encoded(self.user));
        let mut settings = SigningSettings::default();
        settings.expires_in = Some(EXPIRES_IN);
        settings.signature_location = SignatureLocation::QueryParams;
        let identity = credentials.into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name("rds-db")
            .time(at)
            .settings(settings)
            .build()?;
        let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b""))?;
        let (instructions, _) = sign(request, &parameters.into())?.into_parts();
        for (name, value) in instructions.params() {
            url.push_str(&format!("&{name}={}", encoded(value)));
        }
        Ok(url.split_off(SCHEME.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What botocore 1.43's `generate_db_auth_token` returns for the same user, key and moment.
    const PLAIN: &str = "db.example:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
        X-Amz-Credential=AKIDEXAMPLE%2F20261128%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20261128T061953Z&\
        X-Amz-SignedHeaders=host&X-Amz-Expires=900&\
        X-Amz-Signature=1bfd954b77fed70601622e54170be7149b029ee320f6cfc458e104f4203b520e";
    const WITH_SESSION: &str = "db.example:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
        X-Amz-Credential=AKIDEXAMPLE%2F20261128%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20261128T061953Z&\
        X-Amz-SignedHeaders=host&X-Amz-Expires=900&X-Amz-Security-Token=TOKEN%2F%2B%3D&\
        X-Amz-Signature=cfff996c7ecb99c43771626b672d44f8aff27a40ecf7bcf8c437148ebf4fdea5";

    #[test]
    fn it_is_signed_as_aws_s_own_tools_sign_it() {
        let user = DatabaseUser { host: "db.example", port: 5432, user: "app", region: "eu-west-1" };
        // 2026-11-28T06:19:53Z
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_846_793);
        let parts = |token: &str| {
            let (address, query) = token.split_once('?').unwrap();
            let pairs: BTreeSet<String> = query.split('&').map(str::to_owned).collect();
            (address.to_owned(), pairs)
        };
        for (session, expected) in [(None, PLAIN), (Some("TOKEN/+="), WITH_SESSION)] {
            let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
            let credentials =
                Credentials::new("AKIDEXAMPLE", secret, session.map(str::to_owned), None, "test");
            let token = user.database_token(credentials, at).unwrap();
            // RDS does not ask for an order of the parameters.
            assert_eq!(parts(&token), parts(expected));
        }
    }
}
