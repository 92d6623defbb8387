//! The keep-warm event: every built function answers it, although no store is reachable.

use crate::start::{read_by, start, valid_variables};
use axum::Router;
use axum::body::Bytes;
use axum::http::Method;
use axum::response::IntoResponse;
use local::aws::identity::IdentityProvider;
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tests::template;
use tokio::sync::mpsc::unbounded_channel;

/// A function must have answered by then.
const LIMIT: Duration = Duration::from_secs(20);

/// Starts a function, gives it `event`, and returns the path and the body of its answer.
async fn answer(function: &str, event: &Value, jwks: &str, folder: &WorkFolder) -> (String, Value) {
    let (sender, mut answers) = unbounded_channel();
    let event = event.to_string();
    let deadline = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + LIMIT;
    let api = Router::new().fallback(move |method: Method, uri: axum::http::Uri, body: Bytes| {
        let (sender, event) = (sender.clone(), event.clone());
        async move {
            if method == Method::GET {
                let headers = [
                    ("lambda-runtime-aws-request-id", "1".to_owned()),
                    ("lambda-runtime-deadline-ms", deadline.as_millis().to_string()),
                    ("lambda-runtime-invoked-function-arn", "arn".to_owned()),
                ];
                return (headers, event).into_response();
            }
            sender.send((uri.path().to_owned(), body)).unwrap();
            axum::http::StatusCode::ACCEPTED.into_response()
        }
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move { axum::serve(listener, api).await });
    let names = read_by(&template::read().unwrap()).remove(function).unwrap();
    let log = folder.path().join(format!("{function}.log"));
    let mut process = start(function, &valid_variables(function, &names, jwks), &address, &log);
    let answered = tokio::time::timeout(LIMIT, answers.recv()).await;
    // It may have exited already.
    let _ = process.kill();
    process.wait().unwrap();
    served.abort();
    let output = std::fs::read_to_string(log).unwrap();
    let (path, body) = answered.unwrap_or_default().unwrap_or_else(|| panic!("{function}: {output}"));
    (path, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn every_function_answers_the_keep_warm_event_without_a_store() {
    let folder = WorkFolder::new().unwrap();
    let jwks = IdentityProvider::new().unwrap().jwks().to_string();
    let event = tests::sample("all.keep_warm.json");
    assert_eq!(event.to_string(), shared::keep_warm::KEEP_WARM_EVENT);
    let mut functions = 0;
    for function in read_by(&template::read().unwrap()).into_keys() {
        let (path, answered) = answer(&function, &event, &jwks, &folder).await;
        assert!(path.ends_with("/response"), "{function}: {answered}");
        assert_eq!(answered, json!({ "kept_warm": true }), "{function}");
        functions += 1;
    }
    assert!(functions >= 12, "{functions}");
}

/// Lambda makes a function in a VPC inactive if nothing invokes it for about two weeks.
#[test]
fn every_vpc_function_without_a_frequent_schedule_is_kept_warm() {
    let resources = template::resources(&template::read().unwrap());
    let schedules: Vec<&String> =
        resources.values().filter(|text| text.contains("Type: AWS::Scheduler::Schedule\n")).collect();
    let mut kept_warm = 0;
    for (name, text) in &resources {
        let is_idle = text.contains("      VpcConfig: ") && !text.contains("rate(1 minute)");
        // token-keys invokes it every 15 s.
        let is_busy = name == "TokenKeysStoreFunction";
        if !is_idle || is_busy || !text.contains("Type: AWS::Serverless::Function") {
            continue;
        }
        let mut targets = vec![format!("        Arn: !GetAtt {name}.Arn\n")];
        if text.contains("AutoPublishAlias: live") {
            // A published version becomes idle apart from the function's newest code.
            targets.push(format!("        Arn: !Ref {name}.Alias\n"));
        }
        for target in targets {
            let schedule = schedules.iter().find(|text| text.contains(&target));
            let schedule = schedule.unwrap_or_else(|| panic!("no schedule has the target {target}"));
            let input = format!("Input: '{}'", shared::keep_warm::KEEP_WARM_EVENT);
            assert!(schedule.contains(&input), "{schedule}");
            let right = target.trim().trim_start_matches("Arn: ");
            assert!(resources["KeepWarmRole"].contains(right), "KeepWarmRole may not invoke {right}");
            kept_warm += 1;
        }
    }
    assert_eq!((kept_warm, schedules.len()), (8, 8));
}
