//! Why a token is refused.

use super::MAX_TOKEN_BYTES;

/// Why a token is refused. The text is safe to show to the buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("The token is longer than {MAX_TOKEN_BYTES} bytes.")]
    TooLong,
    #[error(
        "The token is not a JWT, signed with EdDSA, ES256 or RS256, that has the claims iss, aud (Amazon Cognito: \
         client_id), exp and sub."
    )]
    Malformed,
    /// RFC 7515 §4.1.11: a token must be refused if an extension in `crit` is not understood. None is.
    #[error("The token's header has crit: it requires extensions that are not supported here.")]
    CriticalHeader,
    /// No configured key has this id and algorithm.
    #[error("The token is not signed with a key and algorithm that are trusted here.")]
    UnknownKey,
    #[error("The token's signature is wrong.")]
    BadSignature,
    #[error("The token has expired.")]
    Expired,
    #[error("The token is not valid yet.")]
    NotYetValid,
    #[error("The token comes from another issuer.")]
    WrongIssuer,
    #[error("The token is an ID token or of another kind. Send an access token.")]
    NotAccessToken,
    #[error("The token is meant for another audience.")]
    WrongAudience,
    #[error("The token's subject must be 1 to 255 visible ASCII characters.")]
    BadSubject,
    /// RFC 7519 §4.1.2: a subject is a text. A number would be rounded by some JSON parsers, and name another buyer.
    #[error("The token's subject (sub) is a number. It must be a text of 1 to 255 visible ASCII characters.")]
    NumericSubject,
}
