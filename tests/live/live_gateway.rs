//! The local WebSocket API against AWS's documents: sizes, timeouts, `@connections`.

use local::aws::sockets::SocketLimits;
use local::crowd::socket::Socket;
use local::system::System;
use serde_json::{Value, json};
use std::time::Duration;
use tests::live::{MESSAGE_TIMEOUT, live, options, socket, system_with};
use tokio_tungstenite::tungstenite::Message;

const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/execute-api/aws4_request, Signature=0";

/// The ID of the only connection in the registry.
async fn only_connection(system: &System) -> String {
    let mut registry = system.registry.as_ref().unwrap().connect().await.unwrap();
    let ids: Vec<String> =
        redis::cmd("ZRANGE").arg("ends").arg(0).arg(-1).query_async(&mut registry).await.unwrap();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids[0].clone()
}

async fn call(system: &System, method: &str, id: &str, body: String) -> (u16, String, String) {
    let endpoint = live(system, 0).unwrap().sockets.endpoint();
    let id = id.replace('=', "%3D");
    let request = reqwest::Client::new()
        .request(method.parse().unwrap(), format!("{endpoint}/@connections/{id}"))
        .header("authorization", SIGNATURE);
    let response = request.body(body).send().await.unwrap();
    let kind = response.headers().get("x-amzn-errortype").map(|kind| kind.to_str().unwrap().to_owned());
    (response.status().as_u16(), kind.unwrap_or_default(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_can_be_sent_to_read_and_closed() {
    let system = system_with(&options(1, SocketLimits::default()), json!({})).await.unwrap();
    let mut alice = socket(&system, 0, "alice").await.unwrap();
    let id = only_connection(&system).await;
    let endpoint = live(&system, 0).unwrap().sockets.endpoint();
    let unsigned = reqwest::Client::new().post(format!("{endpoint}/@connections/{id}")).send().await.unwrap();
    assert_eq!(unsigned.status(), 403);
    assert_eq!(call(&system, "POST", &id, json!({ "type": "hello" }).to_string()).await.0, 200);
    assert_eq!(alice.receive(MESSAGE_TIMEOUT).await.unwrap()["type"], "hello");
    let (status, _, state) = call(&system, "GET", &id, String::new()).await;
    let state: Value = serde_json::from_str(&state).unwrap();
    assert!(status == 200 && state["connectedAt"].as_str().unwrap().starts_with("20"), "{state}");
    let (status, kind, _) = call(&system, "POST", &id, "x".repeat(128 * 1024 + 1)).await;
    assert_eq!((status, kind.as_str()), (413, "PayloadTooLargeException"));
    assert_eq!(call(&system, "POST", "not an id", String::new()).await.0, 400);
    assert_eq!(call(&system, "POST", "AAAAAAAAAAAAAAA=", String::new()).await.0, 410);
    assert_eq!(call(&system, "DELETE", &id, String::new()).await.0, 204);
    assert_eq!(alice.receive(MESSAGE_TIMEOUT).await, None);
    assert!(alice.closed_with.is_some());
    tests::eventually("the connection is gone", MESSAGE_TIMEOUT, async || {
        let (status, kind, _) = call(&system, "POST", &id, String::new()).await;
        Ok(((status, kind.as_str()) == (410, "GoneException")).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_idleness_that_aws_does_not_allow_close_the_connection() {
    let limits = SocketLimits {
        idle: Duration::from_secs(4),
        life: Duration::from_secs(10),
        ..SocketLimits::default()
    };
    let system = system_with(&options(1, limits), json!({})).await.unwrap();
    let frames = [(Message::binary(vec![1]), 1003), (Message::text("x".repeat(32 * 1024 + 1)), 1009)];
    for (frame, code) in frames {
        let mut alice = socket(&system, 0, "alice").await.unwrap();
        alice.send(frame).await.unwrap();
        assert_eq!(alice.receive(Duration::from_secs(3)).await, None);
        assert_eq!(alice.closed_with, Some(code));
    }
    let ping = json!({ "action": "ping" });
    let (mut quiet, mut chatty) =
        (socket(&system, 0, "quiet").await.unwrap(), socket(&system, 0, "chatty").await.unwrap());
    let started = std::time::Instant::now();
    let talk = async |socket: &mut Socket| {
        while socket.closed_with.is_none() && started.elapsed() < MESSAGE_TIMEOUT {
            let _ = socket.send_message(&ping).await;
            while socket.receive(Duration::from_secs(1)).await.is_some() {}
        }
        started.elapsed()
    };
    let (silence, lived) = tokio::join!(quiet.receive(MESSAGE_TIMEOUT), talk(&mut chatty));
    assert_eq!((silence, quiet.closed_with), (None, Some(1001)));
    assert_eq!(chatty.closed_with, Some(1001));
    assert!(lived >= Duration::from_secs(9), "the connection lived {lived:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connects_and_requests_are_throttled() {
    let limits =
        SocketLimits { connects_per_second: 2, requests_per_second: 5, burst: 10, ..SocketLimits::default() };
    let system = system_with(&options(1, limits), json!({})).await.unwrap();
    let url = live(&system, 0).unwrap().sockets.url();
    let mut refused = 0;
    let mut open = Vec::new();
    for number in 0..6 {
        let token = system.identity.token(&format!("buyer-{number}")).unwrap();
        match Socket::connect(&url, &token).await {
            Ok(socket) => open.push(socket),
            Err(local::crowd::socket::HandshakeError::Refused(429)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0 && !open.is_empty(), "{refused}");
    let alice = &mut open[0];
    for _ in 0..20 {
        alice.send_message(&json!({ "action": "ping" })).await.unwrap();
    }
    let mut throttled = 0;
    while let Some(message) = alice.receive(Duration::from_secs(3)).await {
        throttled += usize::from(message["message"] == "Too Many Requests");
    }
    assert!(throttled > 0);
}
