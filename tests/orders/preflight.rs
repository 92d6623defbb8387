//! `local/preflight.py` against five regions with the built functions, and Lambda's API as its documents describe it.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use local::aws::emulators::Moto;
use local::system::System;
use local::system::folder::WorkFolder;
use local::system::process::tool;
use local::system::regions;
use local::system::wan::ConnectionState;
use serde_json::{Value, json};
use shared::keep_warm::KEEP_WARM_EVENT;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tests::{Client, quick};

/// What a stack without options lacks.
const NOT_DEPLOYED: [&str; 5] =
    ["order-place", "live-updates", "live-publish", "token-keys", "token-keys-store"];

/// States by region and function; all others are active.
type States = Arc<Mutex<HashMap<(String, String), &'static str>>>;

/// Lambda's API of all regions: states are the test's, and drop-admin is the system's.
async fn lambda_api(system: Arc<System>, states: States) -> String {
    let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
        let (system, states) = (system.clone(), states.clone());
        async move {
            // The scope of the signature names the region.
            let scope = headers["authorization"].to_str().unwrap().split("Credential=").nth(1).unwrap();
            let region = scope.split('/').nth(2).unwrap().to_owned();
            let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
            if path[1] == "account-settings" {
                let limit = json!({ "ConcurrentExecutions": 1200, "UnreservedConcurrentExecutions": 1100 });
                return json!({ "AccountLimit": limit }).to_string().into_response();
            }
            let function = path[2].strip_prefix("fairdrop-").unwrap().to_owned();
            let key = (region, function);
            let state = states.lock().unwrap().get(&key).copied().unwrap_or("Active");
            match (method, path[3]) {
                (Method::GET, "concurrency") => json!({}).to_string().into_response(),
                (Method::GET, _) if NOT_DEPLOYED.contains(&&*key.1) => {
                    error(StatusCode::NOT_FOUND, "ResourceNotFoundException")
                }
                (Method::GET, _) => {
                    // A pending function is active the next time.
                    if state == "Pending" {
                        states.lock().unwrap().remove(&key);
                    }
                    let status = if state == "Failed" { "Failed" } else { "Successful" };
                    json!({ "State": state, "LastUpdateStatus": status }).to_string().into_response()
                }
                // Both refuse invocations; the first one wakes an inactive function.
                (_, _) if ["Inactive", "Pending"].contains(&state) => {
                    assert_eq!(body, KEEP_WARM_EVENT);
                    states.lock().unwrap().insert(key, "Pending");
                    error(StatusCode::BAD_GATEWAY, "ResourceNotReadyException")
                }
                (..) => match system.admin(&serde_json::from_slice(&body).unwrap()).await {
                    // A buyer who knows the item could reserve its unit. Not a panic, which boto3 would retry.
                    Ok(answer) if answer["phase"] == "open" => {
                        let error =
                            json!({ "errorType": "Error", "errorMessage": "the item is open to buyers" });
                        ([("x-amz-function-error", "Unhandled")], error.to_string()).into_response()
                    }
                    Ok(answer) => answer.to_string().into_response(),
                    Err(why) => {
                        let error = json!({ "errorType": "Error", "errorMessage": format!("{why:#}") });
                        ([("x-amz-function-error", "Unhandled")], error.to_string()).into_response()
                    }
                },
            }
        }
    });
    serve(app).await
}

/// Serves `app` on a free port; returns its address.
async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The address of an API that redirects every request to another host, and the number of requests that reach it.
async fn redirecting_api() -> (String, Arc<AtomicUsize>) {
    let followed = Arc::new(AtomicUsize::new(0));
    let counter = followed.clone();
    let elsewhere = serve(Router::new().fallback(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        json!({ "phase": "paused" }).to_string()
    }))
    .await;
    let redirect = move || async move { (StatusCode::FOUND, [("location", elsewhere)]) };
    (serve(Router::new().fallback(redirect)).await, followed)
}

fn error(status: StatusCode, code: &str) -> Response {
    let headers = [("x-amzn-errortype", code.to_owned())];
    (status, headers, json!({ "message": "no" }).to_string()).into_response()
}

/// Runs the check with a buyer's token, or without one; returns its exit code and its output.
async fn preflight(arguments: Vec<String>, token: Option<&str>, lambda: &str, moto: &Moto) -> (i32, String) {
    let script = local::system::process::workspace().join("local/preflight.py");
    let mut command = tokio::process::Command::new(tool("python"));
    command.arg(script).args(arguments).envs(Moto::environment_at(&moto.url()));
    command.env("AWS_ENDPOINT_URL_LAMBDA", lambda).env_remove("FAIRDROP_PREFLIGHT_TOKEN");
    let output = command.envs(token.map(|token| ("FAIRDROP_PREFLIGHT_TOKEN", token))).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_finds_what_would_refuse_orders_and_orders_in_every_region() {
    let folder = WorkFolder::new().unwrap();
    let moto = Moto::start(folder.path(), &[]).await.unwrap();
    let system = Arc::new(System::start(&quick(regions::first(5))).await.unwrap());
    system.admin(&json!({ "command": "migrate" })).await.unwrap();
    let states = States::default();
    let lambda = lambda_api(system.clone(), states.clone()).await;
    let names: Vec<String> = system.regions.iter().map(|region| region.region.name.to_owned()).collect();
    let mut arguments = vec![
        "--main".to_owned(),
        names[0].clone(),
        "--regions".into(),
        names.join(","),
        "--wait".into(),
        "20".into(),
    ];
    for (name, region) in names.iter().zip(&system.regions) {
        arguments.extend(["--api".into(), format!("{name}={}", region.gateway.url())]);
    }

    // Without a token the order is skipped, and the check says so.
    let (code, text) = preflight(arguments.clone(), None, &lambda, &moto).await;
    assert_eq!(code, 2, "{text}");
    let to_do = "next: set FAIRDROP_PREFLIGHT_TOKEN";
    assert!(text.contains("no access token") && text.contains(to_do), "{text}");

    // An inactive function is woken; a failed one is named with what to do.
    arguments.push("--json".into());
    let token = system.identity.token("preflight").unwrap();
    let token = Some(token.as_str());
    let intake = |index: usize| (names[index].clone(), "order-intake".to_owned());
    states.lock().unwrap().insert(intake(1), "Inactive");
    states.lock().unwrap().insert(intake(2), "Failed");
    let (code, text) = preflight(arguments.clone(), token, &lambda, &moto).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let failed: Vec<&Value> = rows.iter().filter(|row| row["result"] == "failed").collect();
    assert_eq!((code, failed.len()), (1, 1), "{text}");
    assert_eq!((&failed[0]["region"], &failed[0]["check"]), (&json!(names[2]), &json!("order-intake")));
    assert!(failed[0]["next"].as_str().unwrap().contains("deploy it again"), "{text}");
    let woken = rows.iter().find(|row| row["region"] == names[1] && row["check"] == "order-intake").unwrap();
    assert!(woken["detail"].as_str().unwrap().contains("was inactive"), "{text}");
    let ordered = rows.iter().filter(|row| row["check"] == "canary order" && row["result"] == "ok").count();
    assert_eq!(ordered, 5, "{text}");

    // Again, with the same item.
    states.lock().unwrap().clear();
    let (code, text) = preflight(arguments.clone(), token, &lambda, &moto).await;
    assert_eq!(code, 0, "{text}");

    // The token goes to no other host than the region's API, and over no plain connection.
    let (redirecting, followed) = redirecting_api().await;
    let apis = [format!("{}={redirecting}", names[1]), format!("{}=http://shop.invalid", names[2])];
    let wrong = arguments.iter().cloned().chain(apis.into_iter().flat_map(|api| ["--api".into(), api]));
    let (code, text) = preflight(wrong.collect(), token, &lambda, &moto).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    let rows = report["rows"].as_array().unwrap().iter();
    let failed: Vec<(&Value, String)> = rows
        .filter(|row| row["result"] == "failed")
        .map(|row| (&row["region"], row["detail"].to_string()))
        .collect();
    assert_eq!((code, failed.len()), (1, 2), "{text}");
    assert!(failed[0].0 == &names[1] && failed[0].1.contains("302"), "{text}");
    assert!(failed[1].0 == &names[2] && failed[1].1.contains("is not https"), "{text}");
    assert_eq!(followed.load(Ordering::SeqCst), 0, "{text}");

    // A region that cannot reach main is found.
    system.regions[3].connection.set(ConnectionState::Refusing);
    let (code, text) = preflight(arguments, token, &lambda, &moto).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let failed: Vec<&Value> =
        rows.iter().filter(|row| row["result"] == "failed").map(|row| &row["region"]).collect();
    assert_eq!((code, failed), (1, vec![&json!(names[3])]), "{text}");

    // No unit was sold, no order is left, and the item is closed.
    let item = system.admin(&json!({ "command": "describe", "item_id": "preflight-canary" })).await.unwrap();
    assert_eq!(
        (&item["phase"], &item["stock_left"], &item["orders_waiting"]),
        (&json!("closed"), &json!(1), &json!(0))
    );
    let client = Client::of(&system, 0).unwrap();
    let mine = client.mine("preflight-canary", &system.identity.token("preflight").unwrap()).await.unwrap();
    assert_eq!(mine.body["status"], "none");
}
