//! The dry run of the rights, and Lambda's quota.

use crate::servers::replay::{ALIAS, HERE, ReplayedAws, function};

const DENIED: &str = r#"{"__type":"AccessDeniedException","Message":"not authorized"}"#;
const STALE: &str = r#"{"__type":"PreconditionFailedException","message":"The Revision Id does not match."}"#;

/// All calls are refused as Lambda refuses them with the right, but these.
async fn lambda(denied: &[&str]) -> ReplayedAws {
    let aws = ReplayedAws::start(&[]).await;
    for name in HERE.iter().chain(&["live-updates", "live-publish", "token-keys-store"]) {
        let base = format!("/2015-03-31/functions/fairdrop-{name}");
        for (question, status, answer) in [
            (format!("PUT {}", function(name)), 412, STALE),
            (format!("POST {base}/invocations"), 204, ""),
            (format!("POST {base}/invocations?Qualifier=live"), 204, ""),
            (format!("POST {base}/versions"), 412, STALE),
            (format!("PUT {base}/aliases/live"), 412, STALE),
        ] {
            let is_denied = denied.contains(&question.as_str());
            let (status, answer) = if is_denied { (403, DENIED) } else { (status, answer) };
            aws.answer(&question, status, answer);
        }
    }
    aws
}

#[tokio::test]
async fn a_right_that_lambda_denies_is_missing_and_nothing_is_changed() {
    let aws = lambda(&[]).await;
    assert_eq!(aws.functions().missing_rights().await, []);
    for sent in aws.sent(&format!("PUT {}", function("order-status"))) {
        assert_eq!(
            sent, r#"{"RevisionId":"none-dry-run"}"#,
            "no setting, and a revision that no function has"
        );
    }
    let update = format!("PUT {}", function("checkout-drain"));
    let alias = &format!("PUT {ALIAS}");
    let invoke = "POST /2015-03-31/functions/fairdrop-order-status/invocations";
    let aws = lambda(&[&update, alias, invoke]).await;
    let missing = aws.functions().missing_rights().await;
    let mut missing: Vec<(&str, &str)> = missing.iter().map(|(_, name, action)| (*name, *action)).collect();
    missing.sort_unstable();
    let expected = [
        ("checkout-drain", "lambda:UpdateFunctionConfiguration"),
        ("order-intake", "lambda:UpdateAlias"),
        ("order-status", "lambda:InvokeFunction"),
    ];
    assert_eq!(missing, expected);
}

#[tokio::test]
async fn the_quota_is_read_with_what_a_failover_would_reserve() {
    let settings = r#"{"AccountLimit":{"ConcurrentExecutions":1000,"UnreservedConcurrentExecutions":700}}"#;
    let aws = ReplayedAws::start(&[("GET /2016-08-19/account-settings", 200, settings)]).await;
    assert_eq!(aws.functions().unreserved().await, Ok((700, 56)));
    let aws = ReplayedAws::start(&[("GET /2016-08-19/account-settings", 403, DENIED)]).await;
    assert!(aws.functions().unreserved().await.is_err());
}
