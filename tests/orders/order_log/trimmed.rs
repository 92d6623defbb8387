//! Orders whose records have left the stream: DynamoDB trims it after 24 hours.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_left_the_stream_undelivered_are_found_by_a_replay() {
    const HOUR: u64 = 3_600_000_000;
    let world = World::start(1, 0.0).await.unwrap();
    let opened = json!({ "opens_at": micros_now() - 26 * HOUR, "settle_window_ms": WINDOW_MS });
    announce(&world.system, "a", opened).await.unwrap();
    let mapping = &world.mappings[0];
    mapping.pause(true);
    // A read that was in transit has ended.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = order_log(&world.tables.url(), "us-east-1").unwrap();
    for (buyer, hours) in [("alice", 25), ("ben", 24)] {
        let stamp = Stamp::from_micros(micros_now() - hours * HOUR).unwrap();
        let buyer = UserToken::parse(buyer).unwrap();
        log.append(&LogRecord::new(RecordKind::Order, "a".parse().unwrap(), buyer, stamp)).await.unwrap();
    }
    // Records come into the stream within half a second, and can leave it then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.tables.trim_stream("us-east-1", "order-log").unwrap();
    mapping.pause(false);
    // The mapping goes on with what comes later.
    world.order(0, "a", "cid").await.unwrap();
    world.until("a", "cid", "sold").await;
    println!("{:?}", mapping.delivered());
    assert_eq!(mapping.delivered().records, 1);
    for buyer in ["alice", "ben"] {
        assert_eq!(world.status("a", buyer).await.unwrap()["status"], "accepted", "{buyer}");
    }
    let replayed = world.system.admin(&json!({ "command": "replay", "item_id": "a" })).await.unwrap();
    println!("{replayed}");
    for buyer in ["alice", "ben"] {
        world.until("a", buyer, "sold").await;
    }
    let outcome = world.system.drop_result(&"a".parse().unwrap()).await.unwrap();
    assert_eq!(outcome.sold.len(), 3);
    // Behind what was sold meanwhile, and in the order of their stamps.
    let served: Vec<&str> = outcome.reservations.iter().map(|one| one.user_token.as_str()).collect();
    assert_eq!(served, ["cid", "alice", "ben"]);
}
