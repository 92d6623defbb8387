use super::*;
use tokio::time::Instant;

async fn invoke() -> Invoke {
    Emulator::start().await.unwrap().invoke_api()
}

#[tokio::test(start_paused = true)]
async fn a_throttled_event_is_tried_again_until_it_is_too_old() {
    let invoke = invoke().await;
    invoke.park("checkout-drain", true);
    let (retries, began) = (EventRetries::of("checkout-drain"), Instant::now());
    let end = invoke.send_event("checkout-drain", "{}".into(), LIMIT, retries).await;
    // After 0, 1, 3, 7, 15 and 31 s.
    assert_eq!(end, EventEnd { is_processed: false, errors: 0, throttled: 6 });
    assert_eq!(began.elapsed().as_secs(), 31);

    // In a world whose minutes are a second long.
    let began = Instant::now();
    let retries = retries.with_minutes_of(Duration::from_secs(1));
    let end = invoke.send_event("checkout-drain", "{}".into(), LIMIT, retries).await;
    assert_eq!(end.throttled, 6);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_event_is_tried_again_after_one_minute_and_after_two_more() {
    // It does not exist.
    let invoke = invoke().await;
    for (function, errors, seconds) in [("order-confirm", 3, 180), ("checkout-drain", 1, 0)] {
        let began = Instant::now();
        let end = invoke.send_event(function, "{}".into(), LIMIT, EventRetries::of(function)).await;
        assert_eq!(end, EventEnd { is_processed: false, errors, throttled: 0 }, "{function}");
        assert_eq!(began.elapsed().as_secs(), seconds, "{function}");
    }
}

const LIMIT: Duration = Duration::from_secs(10);
