use super::*;
use proptest::prelude::*;
use shared::queue::Hold;

fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

const SECOND: u64 = 1_000_000;

fn item() -> Item {
    Item {
        item_id: "a".parse().unwrap(),
        name: "A".into(),
        stock_total: 10,
        stock_left: 7,
        units_sold: 1,
        withheld: 0,
        opens_at: at(100 * SECOND),
        closes_at: Some(at(200 * SECOND)),
        hold_seconds: 0,
        settle_window_ms: 2_000,
        settle_delay_ms: 2_000,
        paused: false,
        epoch: 1,
        finished_at: None,
    }
}

fn buyer(name: &str) -> UserToken {
    UserToken::parse(name).unwrap()
}

fn watch(name: &str, version: u64, status: Status) -> Subscription {
    Subscription {
        buyer: buyer(name),
        ends_at: at(9_000 * SECOND),
        sent: SentStatus { version: at(version), status },
    }
}

fn connection(name: &str) -> ConnectionId {
    name.parse().unwrap()
}

fn watched_by(watchers: &[(&str, &str, u64, Status)]) -> Watchers {
    let mut added = Watchers::new(item().item_id);
    for (name, of, version, status) in watchers {
        added.add(connection(name), watch(of, *version, *status), false);
    }
    added
}

fn observe(watchers: &mut Watchers, of: &str, state: OrderState, as_of: u64) -> Vec<OrderUpdate> {
    watchers.observe_order(&buyer(of), state, &item(), at(as_of), at(as_of))
}

#[test]
fn each_connection_gets_only_its_own_buyer_s_messages() {
    let mut watchers = watched_by(&[
        ("c1", "alice", 1, Status::None),
        ("c2", "alice", 1, Status::None),
        ("c3", "bob", 1, Status::None),
    ]);
    let sent = observe(&mut watchers, "alice", OrderState::Sold, 2);
    let names: Vec<&str> = sent.iter().map(|one| one.connection.as_str()).collect();
    assert_eq!(names, ["c1", "c2"]);
    assert!(sent[0].text.contains(r#""status":"sold""#) && sent[0].text.contains(r#""version":2"#));
    assert_eq!(observe(&mut watchers, "carol", OrderState::Sold, 2), []);
}

#[test]
fn after_the_end_each_watcher_without_a_unit_is_notified_once_and_then_not_read_until_the_item_opens_again() {
    let queued = Status::Queued { placed_at: at(150), ahead: 3 };
    let held = Status::Reserved { reserved_until: Some(at(9 * SECOND)), cancelling: false };
    let mut watchers = watched_by(&[
        ("c1", "alice", 1, queued),
        ("c2", "bob", 1, held),
        ("c3", "carol", 1, Status::None),
        ("c4", "dora", 1, Status::Sold),
    ]);
    let ended = Item { finished_at: Some(at(2)), ..item() };
    watchers.observe_item(&ended, at(2), at(2));
    let buyers = watchers.next_in_ring(10, at(2));
    assert_eq!(buyers, ["alice", "bob", "carol"].map(buyer));
    // Alice's order has not been removed yet.
    let waits = OrderState::Queued { placed_at: at(150), ahead: 3 };
    let holds = OrderState::Reserved(Hold::Until(at(9 * SECOND)));
    for (of, state, expected) in [
        ("alice", waits, 1),
        ("bob", holds, 0),
        ("carol", OrderState::None, 1),
        ("dora", OrderState::Sold, 0),
    ] {
        let updates = watchers.observe_order(&buyer(of), state, &ended, at(3), at(3));
        assert_eq!(updates.len(), expected, "{of}");
        for update in updates {
            assert_eq!(update.sent.status, Status::Over);
            assert!(update.text.contains(r#""status":"over""#), "{}", update.text);
            watchers.record_delivery(&update.connection, Some(update.sent), at(3));
        }
    }
    assert_eq!(watchers.next_in_ring(10, at(4)), [buyer("bob")], "nothing changes for the others");
    let released = watchers.observe_order(&buyer("bob"), OrderState::Released, &ended, at(5), at(5));
    assert_eq!(released[0].sent.status, Status::Over);

    watchers.observe_item(&item(), at(6), at(6));
    assert_eq!(watchers.next_in_ring(10, at(6)).len(), 3);
    let again = watchers.observe_order(&buyer("alice"), OrderState::None, &item(), at(6), at(6));
    assert_eq!(again[0].sent.status, Status::None);
}

#[test]
fn nothing_older_or_equal_is_sent() {
    let mut watchers = watched_by(&[("c1", "alice", 50, Status::Sold)]);
    assert_eq!(observe(&mut watchers, "alice", OrderState::None, 50), []);
    assert_eq!(observe(&mut watchers, "alice", OrderState::None, 49), []);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Sold, 51), []);
}

#[test]
fn one_message_is_in_flight_at_a_time_and_a_failed_one_is_retried() {
    let mut watchers = watched_by(&[("c1", "alice", 1, Status::None)]);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Released, 2).len(), 1);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Sold, 3), [], "a message is in flight");
    assert_eq!(watchers.record_delivery(&connection("c1"), None, at(3)), None);
    assert_eq!(watchers.due_retries(at(4)), []);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Sold, 4), [], "the pause after a failure");
    assert_eq!(
        watchers.due_retries(at(4 + RETRY_PAUSE.as_micros() as u64)),
        [buyer("alice")],
        "the retry is due"
    );
    let sent = observe(&mut watchers, "alice", OrderState::Sold, 4 + RETRY_PAUSE.as_micros() as u64);
    assert_eq!(sent.len(), 1);
    let stored = watchers.record_delivery(&connection("c1"), Some(sent[0].sent), at(5)).unwrap();
    assert_eq!(stored.sent.status, Status::Sold);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Sold, 9 * SECOND), []);
}

#[test]
fn a_change_during_a_message_is_read_again_immediately() {
    let mut watchers = watched_by(&[("c1", "alice", 1, Status::None)]);
    let sent = observe(&mut watchers, "alice", OrderState::Released, 2).remove(0);
    assert_eq!(watchers.due_retries(at(2)), []);
    assert_eq!(observe(&mut watchers, "alice", OrderState::Sold, 3), []);
    watchers.record_delivery(&connection("c1"), Some(sent.sent), at(4));
    assert_eq!(watchers.due_retries(at(4)), [buyer("alice")]);
    assert_eq!(watchers.due_retries(at(4)), []);
}

#[test]
fn a_vanished_order_outside_the_gates_was_refused_and_any_other_has_left() {
    let queued = |placed_at: u64| Status::Queued { placed_at: at(placed_at * SECOND), ahead: 0 };
    let mut watchers = watched_by(&[
        ("c1", "early", 1, queued(99)),
        ("c2", "late", 1, queued(200)),
        ("c3", "left", 1, queued(150)),
    ]);
    let mut status = |of: &str| observe(&mut watchers, of, OrderState::None, 2)[0].sent.status;
    assert!(matches!(status("early"), Status::Refused { reason: DropReason::NotOpenYet, .. }));
    assert!(matches!(status("late"), Status::Refused { reason: DropReason::Closed, .. }));
    assert_eq!(status("left"), Status::None);
    let refused = Status::Refused { placed_at: at(99 * SECOND), reason: DropReason::NotOpenYet };
    watchers.record_delivery(&connection("c1"), Some(SentStatus { version: at(2), status: refused }), at(2));
    assert_eq!(observe(&mut watchers, "early", OrderState::None, 3), [], "it stays refused");
}

#[test]
fn a_position_in_the_queue_is_sent_in_steps() {
    let queued = |ahead| OrderState::Queued { placed_at: at(150 * SECOND), ahead };
    let mut watchers = watched_by(&[("c1", "alice", 0, queued(1_000).into())]);
    assert_eq!(observe(&mut watchers, "alice", queued(700), SECOND - 1), [], "too soon");
    assert_eq!(observe(&mut watchers, "alice", queued(801), 2 * SECOND), [], "too small a change");
    assert_eq!(observe(&mut watchers, "alice", queued(800), 2 * SECOND).len(), 1);
    watchers.record_delivery(&connection("c1"), None, at(2 * SECOND));
    assert_eq!(observe(&mut watchers, "alice", queued(999), 10 * SECOND).len(), 1, "any change after 10 s");
}

#[test]
fn an_item_message_goes_to_watchers_that_lack_it() {
    let mut watchers = watched_by(&[("c1", "alice", 5, Status::None), ("c2", "bob", 20, Status::None)]);
    watchers.observe_item(&item(), at(10), at(10));
    let (version, text, to) = watchers.due_broadcast(at(10)).unwrap();
    assert_eq!((version, to), (at(10), vec![connection("c1")]), "c2 has a newer version");
    assert!(text.contains(r#""stock_left":7"#));
    watchers.record_broadcast(&[connection("c1")], version);
    assert_eq!(watchers.due_broadcast(at(11)), None);
    watchers.observe_item(&item(), at(30), at(30));
    assert_eq!(watchers.due_broadcast(at(30)), None, "nothing has changed");
    watchers.observe_item(&Item { stock_left: 3, ..item() }, at(29), at(30));
    let (version, _, to) = watchers.due_broadcast(at(30)).unwrap();
    assert_eq!((version, to.len()), (at(29), 2));
    watchers.pause(&to, at(30));
    assert_eq!(watchers.due_broadcast(at(31)), None, "the pause after a failure");
    watchers.observe_item(&item(), at(28), at(30));
    assert_eq!(watchers.published_item().unwrap().0, at(29), "an older observation changes nothing");
}

#[test]
fn the_next_publisher_continues_where_the_last_one_stopped() {
    let mut before = watched_by(&[("c1", "alice", 5, Status::None)]);
    before.observe_item(&item(), at(10), at(10));
    let (version, page) = before.published_item().unwrap();
    let mut after = Watchers::new(item().item_id);
    after.restore_item(version, page);
    after.add(connection("c1"), watch("alice", 5, Status::None), true);
    after.observe_item(&item(), at(40), at(40));
    assert_eq!(after.due_broadcast(at(40)), None, "c1 received it from the last publisher");
    after.add(connection("c2"), watch("bob", 9, Status::None), false);
    assert_eq!(after.due_broadcast(at(40)).unwrap().2, [connection("c2")]);
}

#[test]
fn the_ring_passes_all_watchers_except_those_who_bought_or_left() {
    let mut watchers = watched_by(&[
        ("c1", "alice", 1, Status::None),
        ("c2", "bob", 1, Status::Sold),
        ("c3", "carol", 1, Status::Released),
    ]);
    assert_eq!(watchers.next_in_ring(1, at(2)), [buyer("alice")]);
    assert_eq!(watchers.next_in_ring(1, at(2)), [buyer("carol")]);
    assert_eq!(watchers.next_in_ring(9, at(2)), [buyer("alice"), buyer("carol")]);
    watchers.remove(&connection("c1"));
    assert_eq!(watchers.next_in_ring(9, at(2)), [buyer("carol")]);
    assert!(!watchers.watches(&buyer("alice")));
    assert_eq!(watchers.next_in_ring(9, at(9_000 * SECOND)), [], "the connections have expired");
    assert_eq!(watchers.len(), 0);
}

/// Changes at main, and observations that come late or out of order, or whose messages are lost.
#[derive(Clone, Debug)]
enum HistoryStep {
    Change(OrderState),
    Observe { behind: usize, is_lost: bool },
    Subscribe,
}

fn steps() -> impl Strategy<Value = Vec<HistoryStep>> {
    let state = prop_oneof![
        Just(OrderState::None),
        (100..200_u64)
            .prop_map(|second| OrderState::Queued { placed_at: at(second * SECOND), ahead: second % 7 }),
        Just(OrderState::Released),
        Just(OrderState::Voided),
        Just(OrderState::Excluded),
        Just(OrderState::Sold),
    ];
    let step = prop_oneof![
        state.prop_map(HistoryStep::Change),
        (0..3_usize, any::<bool>()).prop_map(|(behind, is_lost)| HistoryStep::Observe { behind, is_lost }),
        Just(HistoryStep::Subscribe),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn despite_late_and_lost_messages_a_client_never_goes_back_and_ends_up_to_date(steps in steps()) {
        let name = connection("c1");
        let mut history = vec![(20 * SECOND, OrderState::None)];
        let mut watchers = watched_by(&[("c1", "alice", 20 * SECOND, Status::None)]);
        let mut client = SentStatus { version: at(20 * SECOND), status: Status::None };
        let mut now = 20 * SECOND;
        // The last observation is current, and its message arrives.
        let last = [HistoryStep::Observe { behind: 0, is_lost: false }];
        for step in steps.into_iter().chain(last) {
            now += 20 * SECOND;
            let mut received = None;
            match step {
                HistoryStep::Change(state) => history.push((now, state)),
                HistoryStep::Subscribe => {
                    let sent = SentStatus { version: at(now), status: history.last().unwrap().1.into() };
                    watchers.add(name.clone(), Subscription { sent, ..watch("alice", 0, Status::None) }, false);
                    received = Some(sent);
                }
                HistoryStep::Observe { behind, is_lost } => {
                    let index = history.len().saturating_sub(1 + behind);
                    // Its version is the last moment at which the state was still this one.
                    let until = history.get(index + 1).map_or(now, |(next, _)| next - 1);
                    for one in watchers.observe_order(&buyer("alice"), history[index].1, &item(), at(until), at(now)) {
                        watchers.record_delivery(&name, (!is_lost).then_some(one.sent), at(now));
                        received = (!is_lost).then_some(one.sent);
                    }
                }
            }
            if let Some(sent) = received && sent.version >= client.version {
                client = sent;
            }
            // The client shows the state as of its version, or a refusal that follows from it.
            let then = history.iter().rev().find(|(since, _)| *since <= client.version.as_micros()).unwrap().1;
            let is_refusal = matches!(client.status, Status::Refused { .. }) && then == OrderState::None;
            prop_assert!(is_refusal || client.status == then.into(), "{client:?} {then:?}");
        }
        let truth: Status = history.last().unwrap().1.into();
        let is_refusal = matches!(client.status, Status::Refused { .. }) && truth == Status::None;
        prop_assert!(is_refusal || client.status == truth, "{client:?} {truth:?}");
    }
}

#[test]
fn an_accepted_order_is_not_the_one_whose_unit_was_released_before_it() {
    let accepted = Status::Accepted { placed_at: at(150), decided_by: at(165) };
    let watchers = watched_by(&[("c1", "alice", 1, accepted), ("c2", "ben", 1, Status::Released)]);
    let has =
        |name, released_at| watchers.main_has(&buyer(name), OrderState::Released, Some(at(released_at)));
    assert_eq!(has("alice", 149), OrderState::None);
    assert_eq!(has("alice", 150), OrderState::Released);
    assert_eq!(has("ben", 149), OrderState::Released);
}

#[test]
fn an_accepted_order_stays_accepted_until_main_has_it_or_the_log_refuses_it() {
    let accepted = |stamp| Status::Accepted { placed_at: at(stamp), decided_by: at(stamp + 15) };
    let refused = Status::Refused { placed_at: at(150), reason: DropReason::TooLate };
    let mut watchers = watched_by(&[("c1", "alice", 1, accepted(150)), ("c2", "ben", 1, accepted(150))]);
    let sent = |updates: Vec<OrderUpdate>| updates.first().map(|update| update.sent.status);
    assert_eq!(sent(observe(&mut watchers, "alice", OrderState::None, 2)), None);
    let queued = OrderState::Queued { placed_at: at(150), ahead: 0 };
    assert_eq!(sent(observe(&mut watchers, "ben", queued, 3)), Some(queued.into()));
    assert_eq!(watchers.accepted(&buyer("alice")), Some(accepted(150)));

    // A record from before the order says nothing about it.
    watchers.observe_log(buyer("alice"), at(149), Status::None, at(4));
    assert_eq!(sent(observe(&mut watchers, "alice", OrderState::None, 4)), None);
    watchers.observe_log(buyer("alice"), at(150), refused, at(5));
    assert_eq!(watchers.due_retries(at(5)), [buyer("alice")], "it is read at once");
    let updates = observe(&mut watchers, "alice", OrderState::None, 5);
    assert_eq!(sent(updates.clone()), Some(refused));
    watchers.record_delivery(&connection("c1"), Some(updates[0].sent), at(5));

    // The buyer has ordered again: the older refusal is not that order's.
    watchers.add(connection("c1"), watch("alice", 6, accepted(160)), false);
    assert_eq!(sent(observe(&mut watchers, "alice", OrderState::None, 7)), None);
    watchers.observe_log(buyer("alice"), at(150), refused, at(8));
    assert_eq!(sent(observe(&mut watchers, "alice", OrderState::None, 8)), None);
    // A withdrawal in the log.
    watchers.observe_log(buyer("alice"), at(170), Status::None, at(9));
    assert_eq!(sent(observe(&mut watchers, "alice", OrderState::None, 9)), Some(Status::None));
}
