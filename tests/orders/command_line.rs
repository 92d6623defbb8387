//! The built `fairdrop`, against the built `drop-admin` on this machine's Lambda.

use anyhow::{Context, Result};
use local::system::System;
use local::system::process::{binaries, free_port};
use serde_json::{Value, json};
use std::io::Read;
use std::process::Output;
use tests::one_region;
use tokio::process::Command;

/// Runs `fairdrop` with `line`, without a terminal.
async fn fairdrop(system: &System, line: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries()?.join("fairdrop"));
    command.env_clear().arg("--local").arg(system.main_invoke_api()?.endpoint()).args(line);
    command.stdin(std::process::Stdio::null()).output().await.context("could not run fairdrop")
}

/// The exit code, standard output and standard error.
pub(crate) async fn ran(system: &System, line: &[&str]) -> (i32, String, String) {
    let output = fairdrop(system, line).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const CREATE: [&str; 11] = [
    "--yes",
    "create",
    "shoe",
    "--name",
    "Shoe",
    "--stock-total",
    "3",
    "--opens-at",
    "2026-01-01T00:00:00Z",
    "--hold-seconds",
    "60",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_creates_sells_audits_and_closes_an_item() {
    let system = one_region().await.unwrap();
    let (code, out, err) = ran(&system, &CREATE).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("opens_at") && out.contains("2026-01-01 00:00:00 UTC"), "{out}");
    assert_eq!(ran(&system, &["list"]).await.1, "shoe\n");

    let client = tests::Client::of(&system, 0).unwrap();
    client.order("shoe", &system.identity.token("alice").unwrap()).await.unwrap();
    tests::eventually("the ledger has the reservation", std::time::Duration::from_secs(20), async || {
        let (_, out, _) = ran(&system, &["--json", "describe", "shoe"]).await;
        let item: Value = serde_json::from_str(&out)?;
        Ok((item["ledger"]["units_taken"] == 1).then_some(()))
    })
    .await
    .unwrap();
    // Exactly what the function answers, on one line.
    let answer =
        system.admin(&json!({ "command": "audit", "item_id": "shoe", "format": "json" })).await.unwrap();
    let (code, out, _) = ran(&system, &["audit", "shoe", "--json"]).await;
    assert_eq!((code, out.lines().count()), (0, 1));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), answer);
    let (_, table, _) = ran(&system, &["audit", "shoe"]).await;
    let buyer = answer["sales"][0]["buyer"].as_str().unwrap();
    assert!(table.lines().last().unwrap().contains(&format!("{buyer}  reserved")), "{table}");
    let (_, csv, _) = ran(&system, &["audit", "shoe", "--format", "csv"]).await;
    assert!(csv.starts_with("number,buyer,") && csv.lines().count() == 2, "{csv}");

    assert_eq!(ran(&system, &["reconcile", "shoe", "--repair", "--yes"]).await.0, 0);
    let (code, out, err) = ran(&system, &["close", "shoe", "--yes"]).await;
    assert!(code == 0 && out.contains("closed"), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_needs_yes_and_a_refusal_shows_the_function_s_problem() {
    let system = one_region().await.unwrap();
    assert_eq!(ran(&system, &CREATE).await.0, 0);
    let (code, out, err) = ran(&system, &["close", "shoe"]).await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("--yes") && err.contains("nothing was sent"), "{err}");
    let open = system.admin(&json!({ "command": "describe", "item_id": "shoe" })).await.unwrap();
    assert_eq!(open["phase"], "open");

    let (code, out, err) = ran(&system, &CREATE).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("drop-admin refused: ItemExists: "), "{err}");
    let (code, _, err) = ran(&system, &["--json", "describe", "nothing"]).await;
    assert_eq!(code, 1);
    assert_eq!(serde_json::from_str::<Value>(&err).unwrap()["errorType"], "NoSuchItem");
    assert_eq!(ran(&system, &["describe"]).await.0, 2);
    let (code, out, _) = ran(&system, &["invoke", "drop-admin", r#"{"command":"list"}"#, "--yes"]).await;
    assert_eq!((code, out.trim()), (0, "items  shoe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_exit_code_says_that_the_result_is_unknown() {
    let nothing_listens = free_port().unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closes = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // It has read the command, and ends without an answer.
        let (mut connection, _) = server.accept().unwrap();
        assert!(connection.read(&mut [0; 16_384]).unwrap() > 0);
    });
    for port in [nothing_listens, closes] {
        let mut command = Command::new(binaries().unwrap().join("fairdrop"));
        let output =
            command.args(["--local", &format!("http://127.0.0.1:{port}"), "list"]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
