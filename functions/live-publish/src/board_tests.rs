use super::*;
use proptest::prelude::*;

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
        held_back: 0,
        opens_at: at(100 * SECOND),
        closes_at: Some(at(200 * SECOND)),
        hold_seconds: 0,
        settle_window_ms: 2_000,
        paused: false,
        epoch: 1,
        leased_until: None,
    }
}

fn buyer(name: &str) -> UserToken {
    UserToken::parse(name).unwrap()
}

fn watch(name: &str, version: u64, status: Status) -> Watch {
    Watch { buyer: buyer(name), ends_at: at(9_000 * SECOND), told: Told { version: at(version), status } }
}

fn connection(name: &str) -> ConnectionId {
    name.parse().unwrap()
}

fn board(watchers: &[(&str, &str, u64, Status)]) -> Board {
    let mut board = Board::new(item().item_id);
    for (name, of, version, status) in watchers {
        board.begin(connection(name), watch(of, *version, *status), false);
    }
    board
}

fn see(board: &mut Board, of: &str, state: OrderState, as_of: u64) -> Vec<ToTell> {
    board.see_order(&buyer(of), state, &item(), at(as_of), at(as_of))
}

#[test]
fn each_connection_hears_of_its_own_buyer_alone() {
    let mut board = board(&[
        ("c1", "alice", 1, Status::None),
        ("c2", "alice", 1, Status::None),
        ("c3", "bob", 1, Status::None),
    ]);
    let told = see(&mut board, "alice", OrderState::Sold, 2);
    let names: Vec<&str> = told.iter().map(|one| one.connection.as_str()).collect();
    assert_eq!(names, ["c1", "c2"]);
    assert!(told[0].text.contains(r#""status":"sold""#) && told[0].text.contains(r#""version":2"#));
    assert_eq!(see(&mut board, "carol", OrderState::Sold, 2), []);
}

#[test]
fn what_is_not_newer_is_not_told() {
    let mut board = board(&[("c1", "alice", 50, Status::Sold)]);
    assert_eq!(see(&mut board, "alice", OrderState::None, 50), []);
    assert_eq!(see(&mut board, "alice", OrderState::None, 49), []);
    assert_eq!(see(&mut board, "alice", OrderState::Sold, 51), []);
}

#[test]
fn one_message_at_a_time_and_what_was_lost_is_told_again() {
    let mut board = board(&[("c1", "alice", 1, Status::None)]);
    assert_eq!(see(&mut board, "alice", OrderState::Released, 2).len(), 1);
    assert_eq!(see(&mut board, "alice", OrderState::Sold, 3), [], "it is being told");
    assert_eq!(board.told(&connection("c1"), None, at(3)), None);
    assert_eq!(board.again(at(4)), []);
    assert_eq!(see(&mut board, "alice", OrderState::Sold, 4), [], "it rests");
    assert_eq!(board.again(at(4 + AGAIN_MICROS)), [buyer("alice")], "she is tried again");
    let told = see(&mut board, "alice", OrderState::Sold, 4 + AGAIN_MICROS);
    assert_eq!(told.len(), 1);
    let kept = board.told(&connection("c1"), Some(told[0].told), at(5)).unwrap();
    assert_eq!(kept.told.status, Status::Sold);
    assert_eq!(see(&mut board, "alice", OrderState::Sold, 9 * SECOND), []);
}

#[test]
fn what_happens_while_somebody_is_being_told_is_looked_at_at_once() {
    let mut board = board(&[("c1", "alice", 1, Status::None)]);
    let told = see(&mut board, "alice", OrderState::Released, 2).remove(0);
    assert_eq!(board.again(at(2)), []);
    assert_eq!(see(&mut board, "alice", OrderState::Sold, 3), []);
    board.told(&connection("c1"), Some(told.told), at(4));
    assert_eq!(board.again(at(4)), [buyer("alice")]);
    assert_eq!(board.again(at(4)), []);
}

#[test]
fn an_order_that_the_gates_forbid_was_refused_and_another_has_left() {
    let queued = |placed_at: u64| Status::Queued { placed_at: at(placed_at * SECOND), ahead: 0 };
    let mut board = board(&[
        ("c1", "early", 1, queued(99)),
        ("c2", "late", 1, queued(200)),
        ("c3", "left", 1, queued(150)),
    ]);
    let mut status = |of: &str| see(&mut board, of, OrderState::None, 2)[0].told.status;
    assert!(matches!(status("early"), Status::Refused { reason: Refusal::NotOpenYet, .. }));
    assert!(matches!(status("late"), Status::Refused { reason: Refusal::Closed, .. }));
    assert_eq!(status("left"), Status::None);
    let refused = Status::Refused { placed_at: at(99 * SECOND), reason: Refusal::NotOpenYet };
    board.told(&connection("c1"), Some(Told { version: at(2), status: refused }), at(2));
    assert_eq!(see(&mut board, "early", OrderState::None, 3), [], "it stays refused");
}

#[test]
fn a_place_in_line_is_told_in_steps() {
    let queued = |ahead| OrderState::Queued { placed_at: at(150 * SECOND), ahead };
    let mut board = board(&[("c1", "alice", 0, queued(1_000).into())]);
    assert_eq!(see(&mut board, "alice", queued(700), SECOND - 1), [], "too soon");
    assert_eq!(see(&mut board, "alice", queued(801), 2 * SECOND), [], "too little");
    assert_eq!(see(&mut board, "alice", queued(800), 2 * SECOND).len(), 1);
    board.told(&connection("c1"), None, at(2 * SECOND));
    assert_eq!(see(&mut board, "alice", queued(999), 10 * SECOND).len(), 1, "settled");
}

#[test]
fn an_item_is_told_to_those_who_are_behind() {
    let mut board = board(&[("c1", "alice", 5, Status::None), ("c2", "bob", 20, Status::None)]);
    board.see_item(&item(), at(10), at(10));
    let (version, text, to) = board.round(at(10)).unwrap();
    assert_eq!((version, to), (at(10), vec![connection("c1")]), "c2 knows something newer");
    assert!(text.contains(r#""stock_left":7"#));
    board.has_page(&[connection("c1")], version);
    assert_eq!(board.round(at(11)), None);
    board.see_item(&item(), at(30), at(30));
    assert_eq!(board.round(at(30)), None, "nothing has changed");
    board.see_item(&Item { stock_left: 3, ..item() }, at(29), at(30));
    let (version, _, to) = board.round(at(30)).unwrap();
    assert_eq!((version, to.len()), (at(29), 2));
    board.missed(&to, at(30));
    assert_eq!(board.round(at(31)), None, "they rest");
    board.see_item(&item(), at(28), at(30));
    assert_eq!(board.page().unwrap().0, at(29), "an older look changes nothing");
}

#[test]
fn the_next_publisher_goes_on_where_the_last_has_stopped() {
    let mut before = board(&[("c1", "alice", 5, Status::None)]);
    before.see_item(&item(), at(10), at(10));
    let (version, page) = before.page().unwrap();
    let mut after = Board::new(item().item_id);
    after.recall(version, page);
    after.begin(connection("c1"), watch("alice", 5, Status::None), true);
    after.see_item(&item(), at(40), at(40));
    assert_eq!(after.round(at(40)), None, "it was told");
    after.begin(connection("c2"), watch("bob", 9, Status::None), false);
    assert_eq!(after.round(at(40)).unwrap().2, [connection("c2")]);
}

#[test]
fn everybody_s_turn_comes_but_that_of_those_who_have_bought_or_gone() {
    let mut board = board(&[
        ("c1", "alice", 1, Status::None),
        ("c2", "bob", 1, Status::Sold),
        ("c3", "carol", 1, Status::Released),
    ]);
    assert_eq!(board.next_in_turn(1, at(2)), [buyer("alice")]);
    assert_eq!(board.next_in_turn(1, at(2)), [buyer("carol")]);
    assert_eq!(board.next_in_turn(9, at(2)), [buyer("alice"), buyer("carol")]);
    board.forget(&connection("c1"));
    assert_eq!(board.next_in_turn(9, at(2)), [buyer("carol")]);
    assert!(!board.watches(&buyer("alice")));
    assert_eq!(board.next_in_turn(9, at(9_000 * SECOND)), [], "the connections' time is over");
    assert_eq!(board.len(), 0);
}

/// A history of main, and looks at it that come late, out of order, and are lost on their way to the client.
#[derive(Clone, Debug)]
enum Step {
    Change(OrderState),
    Look { behind: usize, is_lost: bool },
    Subscribe,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = prop_oneof![
        Just(OrderState::None),
        (100..200_u64)
            .prop_map(|second| OrderState::Queued { placed_at: at(second * SECOND), ahead: second % 7 }),
        Just(OrderState::Released),
        Just(OrderState::Sold),
    ];
    let step = prop_oneof![
        state.prop_map(Step::Change),
        (0..3_usize, any::<bool>()).prop_map(|(behind, is_lost)| Step::Look { behind, is_lost }),
        Just(Step::Subscribe),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn whatever_is_late_or_lost_a_client_never_goes_back_and_ends_with_the_truth(steps in steps()) {
        let name = connection("c1");
        let mut history = vec![(20 * SECOND, OrderState::None)];
        let mut board = board(&[("c1", "alice", 20 * SECOND, Status::None)]);
        let mut client = Told { version: at(20 * SECOND), status: Status::None };
        let mut now = 20 * SECOND;
        // A last look that is not late and not lost comes in any case.
        let last = [Step::Look { behind: 0, is_lost: false }];
        for step in steps.into_iter().chain(last) {
            now += 20 * SECOND;
            let mut heard = None;
            match step {
                Step::Change(state) => history.push((now, state)),
                Step::Subscribe => {
                    let told = Told { version: at(now), status: history.last().unwrap().1.into() };
                    board.begin(name.clone(), Watch { told, ..watch("alice", 0, Status::None) }, false);
                    heard = Some(told);
                }
                Step::Look { behind, is_lost } => {
                    let index = history.len().saturating_sub(1 + behind);
                    // It is as of any moment at which that was so.
                    let until = history.get(index + 1).map_or(now, |(next, _)| next - 1);
                    for one in board.see_order(&buyer("alice"), history[index].1, &item(), at(until), at(now)) {
                        board.told(&name, (!is_lost).then_some(one.told), at(now));
                        heard = (!is_lost).then_some(one.told);
                    }
                }
            }
            if let Some(told) = heard && told.version >= client.version {
                client = told;
            }
            // What it shows was so at its version, or was refused out of what was so.
            let then = history.iter().rev().find(|(since, _)| *since <= client.version.as_micros()).unwrap().1;
            let is_refusal = matches!(client.status, Status::Refused { .. }) && then == OrderState::None;
            prop_assert!(is_refusal || client.status == then.into(), "{client:?} {then:?}");
        }
        let truth: Status = history.last().unwrap().1.into();
        let is_refusal = matches!(client.status, Status::Refused { .. }) && truth == Status::None;
        prop_assert!(is_refusal || client.status == truth, "{client:?} {truth:?}");
    }
}
