//! What the shop's backend and an operator read from the ledger.

use super::*;
use sqlx::{Connection, PgConnection};
use tests::Client;

/// The shop's reads and the operator's export against what the shop was told.
#[tokio::test(flavor = "multi_thread")]
async fn reads_and_exports_show_the_ledger() {
    let (system, bus) = start(10, 2).await;
    drop_of(&system, 12, 40, "buyer").await.unwrap();
    accepted(&bus, 10).await;
    let invoke = system.main_invoke_api().unwrap();
    let reserved = bus.accepted();
    for event in reserved.iter().take(4) {
        let buyer = event.detail["user_token"].as_str().unwrap();
        let notice = json!({
            "item_id": item_id(), "user_token": buyer, "outcome": "paid", "payment_reference": format!("pi_{buyer}"),
        });
        invoke.call("order-confirm", &notice).await.unwrap();
    }
    let client = Client::of(&system, 0).unwrap();
    let get = async |path: &str| {
        let answer = client
            .send("GET", path, |request| request.header("authorization", "AWS4-HMAC-SHA256 Credential=shop"))
            .await
            .unwrap();
        (answer.status, answer.body)
    };
    assert_eq!(client.send("GET", "/items/drop/sales", |request| request).await.unwrap().status, 403);
    let paid = &reserved[0].detail;
    let buyer = paid["user_token"].as_str().unwrap();
    let (status, body) = get(&format!("/items/drop/reservations?user_token={buyer}")).await;
    let expected = json!({
        "user_token": buyer, "status": "sold", "placed_at": paid["placed_at"], "reserved_at": paid["reserved_at"],
        "payment_reference": format!("pi_{buyer}"),
    });
    assert_eq!((status, body), (200, expected));
    let waiting = &reserved[9].detail;
    let buyer = waiting["user_token"].as_str().unwrap();
    let (_, body) = get(&format!("/items/drop/reservations?user_token={buyer}")).await;
    assert_eq!(
        (&body["status"], &body["reserved_until"]),
        (&json!("reserved"), &waiting["hold_until"]),
        "{body}"
    );
    let (status, body) = get("/items/drop/reservations?user_token=auth0%7Cstranger").await;
    assert_eq!((status, body), (200, json!({ "user_token": "auth0|stranger", "status": "none" })));
    for (path, status) in [("/items/other/sales", 404), ("/items/drop/sales?limit=0", 400)] {
        assert_eq!(get(path).await.0, status, "{path}");
    }

    let (mut sales, mut after) = (Vec::new(), String::new());
    loop {
        let (status, body) = get(&format!("/items/drop/sales?limit=3{after}")).await;
        assert_eq!(status, 200, "{body}");
        sales.extend(body["sales"].as_array().unwrap().iter().map(|sale| sale["user_token"].clone()));
        let Some(next) = body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let told: Vec<Value> = reserved.iter().take(10).map(|event| event.detail["user_token"].clone()).collect();
    assert_eq!(sales, told, "in the order of the reservations, without gaps between pages");

    let mut command = sample("drop-admin.export.json");
    command["item_id"] = json!(item_id());
    let csv = system.admin(&command).await.unwrap();
    let lines: Vec<&str> = csv["csv"].as_str().unwrap().lines().collect();
    assert_eq!((csv["units"].as_u64(), lines.len()), (Some(4), 5), "{csv}");
    let first = format!("{},\"pi_{}\",", told[0], told[0].as_str().unwrap());
    assert!(lines[1].starts_with(&first), "{csv}");
    command["format"] = json!("json");
    let listed = system.admin(&command).await.unwrap();
    assert_eq!(listed["sold"][3]["user_token"], told[3], "{listed}");
    let mut connection = PgConnection::connect(&system.postgres.url()).await.unwrap();
    let recorded: Vec<(String, i32)> =
        sqlx::query_as("SELECT exported_by, units FROM fairdrop.exports ORDER BY export_id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(recorded, [("Ann".to_owned(), 4), ("Ann".to_owned(), 4)]);
    command.as_object_mut().unwrap().remove("by");
    assert!(matches!(invoke.call("drop-admin", &command).await.unwrap(), Invoked::FunctionError(_)));
}
