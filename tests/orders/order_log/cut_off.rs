//! A region whose functions cannot reach main.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_from_main_is_refused_truthfully_and_slows_no_other() {
    let world = World::start(2, 0.2).await.unwrap();
    announce(&world.system, "a", json!({ "stock_total": 50, "settle_window_ms": WINDOW_MS })).await.unwrap();
    // A process reads an id that it does not know once a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sell = async |wave: &str| {
        let began = Instant::now();
        for number in 0..5 {
            world.order(0, "a", &format!("{wave}-{number}")).await.unwrap();
        }
        for number in 0..5 {
            world.until("a", &format!("{wave}-{number}"), "sold").await;
        }
        began.elapsed()
    };
    let usual = sell("before").await;
    let main = &world.system.regions[1].connection;
    main.set(ConnectionState::Refusing);
    for number in 0..5 {
        world.order(1, "a", &format!("cut-{number}")).await.unwrap();
    }
    let meanwhile = sell("meanwhile").await;
    println!("sold after {usual:?}, and after {meanwhile:?} while the other region is cut off");
    assert!(meanwhile < 2 * usual + Duration::from_secs(3), "{usual:?}, {meanwhile:?}");

    main.set(ConnectionState::Up);
    let log = order_log(&world.tables.url(), world.system.regions[1].region.name).unwrap();
    for number in 0..5 {
        let buyer = format!("cut-{number}");
        let refusal = eventually("the log has the refusal", SOON, async || {
            let newest = log.latest_of(&"a".parse()?, &UserToken::parse(buyer.as_str())?).await?;
            Ok(newest.and_then(|record| record.refusal))
        });
        assert_eq!(refusal.await.unwrap().reason.slug(), "too-late");
        // The region reconnects to main after a pause.
        let status = eventually("main can be asked again", SOON, async || {
            let status = world.clients[1].mine("a", &world.token(&buyer)).await?.body;
            Ok((status["status"] != 503).then_some(status))
        });
        let status = status.await.unwrap();
        assert_eq!((&status["status"], &status["reason"]), (&json!("refused"), &json!("too-late")));
    }
    assert_eq!(world.queued("a").await.unwrap(), []);
    let outcome = world.system.drop_result(&"a".parse().unwrap()).await.unwrap();
    assert!(outcome.taken.iter().all(|buyer| !buyer.starts_with("cut")), "{:?}", outcome.taken);
}
