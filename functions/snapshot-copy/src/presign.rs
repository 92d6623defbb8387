//! The pre-signed URL that a copy between two GovCloud regions needs: a request for the same
//! copy, signed for the original's region. Elsewhere RDS makes do without it and ignores one.
//! The Rust SDK makes none by itself.

use crate::api::CopyOrder;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::{Duration, SystemTime};

/// How long the URL counts: RDS calls it while it begins the copy, and its own tools say an hour.
const EXPIRES_IN: Duration = Duration::from_secs(3_600);
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Whether copies of what has this ARN need a URL.
pub(crate) fn is_needed(source_arn: &str) -> bool {
    source_arn.starts_with("arn:aws-us-gov:")
}

/// The URL for `order`, to be copied to `region`.
pub(crate) fn url(
    order: CopyOrder<'_>,
    region: &str,
    credentials: Credentials,
    at: SystemTime,
) -> Result<String, String> {
    let host = format!("rds.{}.amazonaws.com", order.source_region);
    let mut query = vec![
        ("Action", "CopyDBSnapshot"),
        ("Version", "2014-10-31"),
        ("SourceDBSnapshotIdentifier", order.source_arn),
        ("TargetDBSnapshotIdentifier", order.id),
        ("DestinationRegion", region),
    ];
    query.extend(order.kms_key_id.map(|key| ("KmsKeyId", key)));
    let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let pairs: Vec<String> =
        query.into_iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let mut url = format!("https://{host}/?{}", pairs.join("&"));

    let mut settings = SigningSettings::default();
    settings.expires_in = Some(EXPIRES_IN);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(order.source_region)
        .name("rds")
        .time(at)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?;
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b""))
        .map_err(|error| error.to_string())?;
    let (instructions, _) =
        sign(request, &parameters.into()).map_err(|error| error.to_string())?.into_parts();
    for (name, value) in instructions.params() {
        url.push_str(&format!("&{name}={}", encode(value)));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What botocore 1.43's `SigV4QueryAuth` makes of the same request, key and moment.
    const SIGNATURE: &str = "6d5dc223af99361b5f0b17bf6d4f69ab799d641495d96ca804cd26e3d9bbc819";
    const SIGNATURE_WITH_TOKEN: &str = "29b546306d55c4ceef08bd9195fadfe38fd1a05347c1d0ef3f23acac7c9e0519";

    fn signed(token: Option<&str>) -> String {
        let order = CopyOrder {
            source_region: "us-gov-east-1",
            source_arn: "arn:aws-us-gov:rds:us-gov-east-1:111122223333:snapshot:fairdrop-ledger-20261123-1400",
            id: "fairdrop-ledger-20261123-1400",
            kms_key_id: Some("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/abc"),
            tag: ("fairdrop:snapshots", "fairdrop"),
        };
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIDEXAMPLE", secret, token.map(str::to_owned), None, "test");
        // 2026-11-23T14:30:00Z
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_444_200);
        url(order, "us-gov-west-1", credentials, at).unwrap()
    }

    #[test]
    fn it_is_signed_as_aws_s_own_tools_sign_it() {
        let url = signed(None);
        assert!(url.starts_with("https://rds.us-gov-east-1.amazonaws.com/?Action=CopyDBSnapshot&"), "{url}");
        assert!(url.contains("&DestinationRegion=us-gov-west-1&"), "{url}");
        assert!(
            url.contains("&X-Amz-Expires=3600&") && url.ends_with(&format!("X-Amz-Signature={SIGNATURE}")),
            "{url}"
        );
        let url = signed(Some("TOKEN/+="));
        assert!(url.contains("&X-Amz-Security-Token=TOKEN%2F%2B%3D"), "{url}");
        assert!(url.contains(&format!("&X-Amz-Signature={SIGNATURE_WITH_TOKEN}&")), "{url}");
    }

    #[test]
    fn only_govcloud_needs_it() {
        assert!(is_needed("arn:aws-us-gov:rds:us-gov-east-1:1:snapshot:a"));
        assert!(!is_needed("arn:aws:rds:us-east-1:1:snapshot:a"));
        assert!(!is_needed("arn:aws-cn:rds:cn-north-1:1:snapshot:a"));
    }
}
