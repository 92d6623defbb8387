//! A replay of an item that is sold already: it begins only if it is still due, and its failure stops no sales.

use super::*;
use shared::queue::{RESTORE_REPETITIONS, RestoreCause};

fn because_of(cause: RestoreCause) -> ReplayOptions {
    let again_after = (cause != RestoreCause::Again).then_some(Duration::ZERO);
    ReplayOptions { cause: Some(cause), again_after, ..ReplayOptions::default() }
}

impl Drop<'_> {
    async fn field(&self, name: &str) -> Option<String> {
        let mut connection = self.world.redis.redis.connect().await.unwrap();
        connection.hget(Keys::of(&self.item_id).item, name).await.unwrap()
    }

    async fn set(&self, name: &str, value: &str) {
        let mut connection = self.world.redis.redis.connect().await.unwrap();
        let _: () = connection.hset(Keys::of(&self.item_id).item, name, value).await.unwrap();
    }

    /// The item is sold after its first replay, and is due again.
    async fn restored(&self) {
        let kept = self.dump().await.unwrap();
        self.lose(Some(&kept)).await.unwrap();
        assert_eq!(self.drain(500).await.unwrap(), 0);
        self.replay(&because_of(RestoreCause::Wanted)).await.unwrap();
        assert_eq!(self.due().await, Some(RestoreCause::Again));
    }

    async fn due(&self) -> Option<RestoreCause> {
        let due = self.world.queue.restores_due(std::slice::from_ref(&self.item_id)).await.unwrap();
        due.first().map(|(_, cause)| *cause)
    }

    async fn is_restoring(&self) -> bool {
        self.world.queue.is_restoring(&self.item_id).await.unwrap()
    }
}

#[tokio::test]
async fn a_caller_whose_list_is_old_begins_no_replay_of_an_item_that_was_restored_meanwhile() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    item.restored().await;
    item.replay(&because_of(RestoreCause::Again)).await.unwrap();
    // An unreadable log would leave an item unsold that waits for nothing.
    item.logs[1].is_unreadable.store(true, Ordering::Relaxed);
    for cause in [RestoreCause::Wanted, RestoreCause::InProgress, RestoreCause::Again] {
        let error = item.replay(&because_of(cause)).await.unwrap_err();
        assert!(matches!(error, ReplayError::NotDue), "{cause:?}: {error}");
        assert!(!item.is_restoring().await, "{cause:?}");
    }
    // It is due later.
    let later = (micros_now() + 60_000_000).to_string();
    item.set("restore_again_at", &later).await;
    let error = item.replay(&because_of(RestoreCause::Again)).await.unwrap_err();
    assert!(matches!(error, ReplayError::NotDue), "{error}");
    // An operator replays it all the same; and by then an old primary may have taken more orders.
    item.logs[1].is_unreadable.store(false, Ordering::Relaxed);
    item.replay(&ReplayOptions::default()).await.unwrap();
    assert_eq!(item.field("restore_again_at").await, Some(later));
    // One that waits, on another primary than before, waits for more than a second replay.
    item.set("restore_again_at", "1").await;
    item.set("restoring", RESTORE_WANTED).await;
    let error = item.replay(&because_of(RestoreCause::Again)).await.unwrap_err();
    assert!(matches!(error, ReplayError::NotDue), "{error}");
    item.replay(&because_of(RestoreCause::Wanted)).await.unwrap();
}

#[tokio::test]
async fn a_second_replay_that_fails_stops_no_sales_and_is_repeated_a_few_times() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    item.restored().await;
    let elsewhere = item.record(RecordKind::Order, 1, micros_now() - 1_000_000);
    item.logs[0].append(&elsewhere);
    item.logs[1].is_unreadable.store(true, Ordering::Relaxed);
    let mut pause = 30_000_000;
    for failure in 0..=RESTORE_REPETITIONS {
        let before = micros_now();
        let error = item.replay(&because_of(RestoreCause::Again)).await.unwrap_err();
        let ReplayError::SalesGoOn { error, is_repeated } = error else { panic!("{error}") };
        assert!(matches!(*error, ReplayError::RegionUnreadable { .. }), "{error}");
        assert!(!item.is_restoring().await);
        assert_eq!(is_repeated, failure < RESTORE_REPETITIONS, "failure {failure}");
        assert_eq!(item.due().await, None);
        let again_at = item.field("restore_again_at").await;
        assert_eq!(again_at.is_some(), is_repeated, "{again_at:?}");
        if let Some(again_at) = again_at {
            let found = again_at.parse::<u64>().unwrap() - before;
            assert!((pause..pause + 20_000_000).contains(&found), "failure {failure}: {found} us");
            item.set("restore_again_at", &before.to_string()).await;
        }
        pause *= 2;
    }
    // What it did not put back is put back once the log can be read, also by the worker.
    item.logs[1].is_unreadable.store(false, Ordering::Relaxed);
    item.set("restore_again_at", "1").await;
    item.replay(&because_of(RestoreCause::Again)).await.unwrap();
    assert_eq!(item.queued().await.unwrap().len(), 1);
    assert_eq!((item.field("restore_failures").await, item.field("sold_before").await), (None, None));
}

#[tokio::test]
async fn a_log_that_fails_in_the_middle_of_a_second_replay_stops_no_sales_either() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    item.restored().await;
    let (queue, item_id, at_once) = (&world.queue, &item.item_id, Duration::ZERO);
    let begin =
        async |token, cause| queue.restore_begin_if(item_id, token, at_once, Some(cause)).await.unwrap();
    // The first run is killed. Another one finds its replay in progress, and takes it over.
    assert_eq!(begin("first", RestoreCause::Again).await, RestoreBegin::Begun);
    assert_eq!(begin("first", RestoreCause::Again).await, RestoreBegin::Begun, "a repetition of the call");
    assert_eq!(item.due().await, Some(RestoreCause::InProgress));
    assert_eq!(begin("second", RestoreCause::InProgress).await, RestoreBegin::Begun);
    assert_eq!(queue.restore_give_up(item_id, "first").await.unwrap(), RestoreGivenUp::NotMine);
    assert!(item.is_restoring().await);
    assert_eq!(queue.restore_give_up(item_id, "second").await.unwrap(), RestoreGivenUp::SoldAndRepeated);
    assert!(!item.is_restoring().await);
    // An item that waited before does not get sold by the failure of a later replay.
    item.set("restoring", RESTORE_WANTED).await;
    assert_eq!(begin("third", RestoreCause::Wanted).await, RestoreBegin::Begun);
    assert_eq!(queue.restore_give_up(item_id, "third").await.unwrap(), RestoreGivenUp::Waits);
    assert_eq!(item.field("restoring").await.as_deref(), Some(RESTORE_WANTED));
}

#[tokio::test]
async fn an_item_waits_if_the_primary_has_changed_before_or_during_its_second_replay() {
    let world = World::start().await.unwrap();
    let item = world.announce(6).await.unwrap();
    for changes_before in [true, false] {
        item.restored().await;
        if changes_before {
            item.set("primary", "another").await;
        }
        let begun =
            world.queue.restore_begin_if(&item.item_id, "again", Duration::ZERO, Some(RestoreCause::Again));
        assert_eq!(begun.await.unwrap(), RestoreBegin::Begun);
        if !changes_before {
            item.set("primary", "another").await;
        }
        let given_up = world.queue.restore_give_up(&item.item_id, "again").await.unwrap();
        assert_eq!(given_up, RestoreGivenUp::Waits, "{changes_before}");
        assert_eq!(item.due().await, Some(RestoreCause::Wanted));
        assert_eq!(item.drain(500).await.unwrap(), 0);
        item.replay(&because_of(RestoreCause::Wanted)).await.unwrap();
    }
}
