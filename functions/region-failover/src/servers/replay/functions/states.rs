//! Functions that Lambda cannot invoke: pending, inactive, failed.

use super::{configuration, of_alias, repointing};
use crate::observation::Obstacle;
use crate::servers::replay::{ALIAS, ReplayedAws, VERSIONS, function};

const UPDATE: &str = "PUT /2015-03-31/functions/fairdrop-drop-admin/configuration";
const LIFT: &str = "DELETE /2017-10-31/functions/fairdrop-drop-admin/concurrency";
const INVOKE: &str = "POST /2015-03-31/functions/fairdrop-drop-admin/invocations";

fn in_state(redis: &str, state: &str, reason: &str) -> String {
    let found = configuration(redis, "Successful");
    found.replacen('{', &format!(r#"{{"State":"{state}","StateReasonCode":"{reason}","#), 1)
}

/// drop-admin is in this state and sends its commands to the old main.
async fn old_admin(state: &str, reason: &str, invoked: (u16, &str)) -> ReplayedAws {
    let found = in_state("rediss://there:6379", state, reason);
    let more = [(UPDATE, 200, "{}"), (LIFT, 204, ""), (INVOKE, invoked.0, invoked.1)];
    repointing("drop-admin", (200, &found), &more).await
}

#[tokio::test]
async fn an_inactive_function_is_woken_before_it_is_changed() {
    // The errors that Lambda documents for an inactive or pending function.
    for (status, code) in [
        (502, "ResourceNotReadyException"),
        (409, "CodeArtifactUserPendingException"),
        (409, "ResourceConflictException"),
        (502, "ENINotReadyException"),
    ] {
        let error = format!(r#"{{"__type":"{code}","message":"not now"}}"#);
        let aws = old_admin("Inactive", "Idle", (status, &error)).await;
        aws.repoint().await.unwrap();
        assert_eq!(aws.sent(INVOKE), [r#"{"keep_warm":true}"#], "{code}");
        assert_eq!((aws.sent(LIFT).len(), aws.sent(UPDATE).len()), (1, 0), "{code}");
        assert_eq!(aws.functions().not_repointed(None).await, ["eu-west-1"]);
    }
    let throttled = r#"{"__type":"TooManyRequestsException","message":"Rate Exceeded."}"#;
    let aws = old_admin("Inactive", "Idle", (429, throttled)).await;
    let Obstacle(why) = aws.repoint().await.unwrap_err();
    assert!(why.contains("fairdrop-drop-admin cannot be woken"), "{why}");
}

#[tokio::test]
async fn a_pending_function_is_waited_for_and_a_failed_one_is_named() {
    let aws = old_admin("Pending", "Restoring", (200, "{}")).await;
    aws.repoint().await.unwrap();
    assert_eq!((aws.sent(INVOKE).len(), aws.sent(UPDATE).len()), (0, 0));
    // A new configuration may cure a failed function; if Lambda refuses it, the state is named, too.
    let aws = old_admin("Failed", "InvalidSubnet", (200, "{}")).await;
    aws.repoint().await.unwrap();
    assert_eq!(aws.sent(UPDATE).len(), 1);
    let refused = r#"{"__type":"ResourceConflictException","message":"The function is in a failed state."}"#;
    let found = in_state("rediss://there:6379", "Failed", "InvalidSubnet");
    let aws = repointing("drop-admin", (200, &found), &[(UPDATE, 409, refused)]).await;
    let Obstacle(why) = aws.repoint().await.unwrap_err();
    assert!(why.contains("fairdrop-drop-admin is Failed (InvalidSubnet)"), "{why}");
}

#[tokio::test]
async fn states_are_shown_and_inactive_functions_woken_before_sales_open() {
    let found = in_state("rediss://here:6379", "Inactive", "Idle");
    let restoring = r#"{"__type":"ResourceNotReadyException","message":"wait"}"#;
    let more = [(LIFT, 204, ""), (INVOKE, 502, restoring)];
    let aws = repointing("drop-admin", (200, &found), &more).await;
    let states = aws.functions().not_active().await.unwrap();
    assert_eq!(states.len(), 1);
    assert_eq!((states[0].text.as_str(), states[0].is_inactive), ("drop-admin is Inactive (Idle)", true));
    let what = aws.functions().wake_here().await.unwrap();
    assert!(what.contains("drop-admin is Inactive"), "{what}");
    assert_eq!((aws.sent(LIFT).len(), aws.sent(INVOKE).len()), (1, 1));
}

#[tokio::test]
async fn the_alias_gets_a_new_version_only_when_that_is_active() {
    let (publish, update) = (format!("POST {VERSIONS}"), format!("PUT {ALIAS}"));
    let configure = format!("PUT {}", function("order-intake"));
    let more = [
        (publish.as_str(), 201, r#"{"Version":"7","State":"Pending"}"#),
        (publish.as_str(), 201, r#"{"Version":"7","State":"Failed"}"#),
        (publish.as_str(), 201, r#"{"Version":"8","State":"Active"}"#),
        (update.as_str(), 200, r#"{"Name":"live","FunctionVersion":"8"}"#),
        (configure.as_str(), 200, "{}"),
    ];
    let aws = repointing("none", (200, ""), &more).await;
    aws.answer(&of_alias(), 200, &configuration("rediss://there:6379", "Successful"));
    aws.repoint().await.unwrap();
    assert_eq!((aws.sent(&configure).len(), aws.sent(&update).len()), (0, 0), "the version is pending");
    // Lambda publishes no other version of the same configuration.
    aws.repoint().await.unwrap();
    let changed = aws.sent(&configure);
    assert!(changed.len() == 1 && changed[0].contains(r#""FAILED_VERSION":"7""#), "{changed:?}");
    assert_eq!(aws.sent(&update).len(), 0, "the version has failed");
    aws.repoint().await.unwrap();
    assert_eq!(aws.sent(&update).len(), 1);
}
