use super::*;
use redis::{ErrorKind, RedisError};
use std::future::{pending, ready};

fn failed() -> Opening {
    let opening = ready(Err(RedisError::from((ErrorKind::Io, "refused")))).boxed().shared();
    assert!(opening.clone().now_or_never().is_some());
    opening
}

fn in_progress(_: Start) -> Opening {
    pending().boxed().shared()
}

#[test]
fn a_replacement_that_is_not_open_yet_changes_nothing_until_the_longest_life_ends() {
    let mut slot = ConnectionSlot::default();
    let mut now = Instant::now();
    let began = now;
    let (first, _) = slot.take(now, false, in_progress).unwrap();
    while now < began + REPLACE_AFTER - MAX_IDLE / 10 {
        now += MAX_IDLE / 10;
        assert_eq!(slot.take(now, false, in_progress).unwrap().0, first);
        assert!(slot.replacement.is_none());
    }
    now = began + REPLACE_AFTER + REPLACE_JITTER;
    assert_eq!(slot.take(now, false, in_progress).unwrap().0, first);
    assert_eq!(slot.replacement.as_ref().unwrap().generation, first + 1);
    // It is one attempt, and the next one after the longest life.
    assert_eq!(slot.take(began + MAX_LIFE - Duration::from_secs(1), false, in_progress).unwrap().0, first);
    assert_eq!(slot.take(began + MAX_LIFE, false, in_progress).unwrap().0, first + 1);
    assert!(slot.replacement.is_none());
}

#[test]
fn a_replacement_that_fails_is_tried_again_after_a_pause() {
    let mut slot = ConnectionSlot::default();
    let began = Instant::now();
    let (first, _) = slot.take(began, false, in_progress).unwrap();
    let due = began + REPLACE_AFTER + REPLACE_JITTER;
    assert_eq!(slot.take(due - Duration::from_secs(200), false, in_progress).unwrap().0, first);
    assert_eq!(slot.take(due, false, |_| failed()).unwrap().0, first);
    assert_eq!(slot.take(due, false, |_| failed()).unwrap().0, first);
    assert!(slot.replacement.is_none());
    assert_eq!(slot.take(due + REPLACE_PAUSE, false, in_progress).unwrap().0, first);
    assert_eq!(slot.replacement.as_ref().unwrap().generation, first + 2);
    // If the connection in use fails, its replacement takes over.
    slot.discard(due, first);
    assert_eq!(slot.take(due + REPLACE_PAUSE, false, in_progress).unwrap().0, first + 2);
}

/// The pauses before the attempts of a slot whose attempts all fail, one every `step`.
fn pauses_of_failures(attempts: usize, step: Duration) -> Vec<Duration> {
    let (mut slot, mut now) = (ConnectionSlot::default(), Instant::now());
    let pauses = std::cell::RefCell::new(Vec::new());
    for _ in 0..attempts {
        slot.take(now, false, |start| {
            let Start::After(pause) = start else { panic!("nothing was open") };
            pauses.borrow_mut().push(pause);
            failed()
        });
        now += step;
    }
    pauses.into_inner()
}

#[test]
fn pauses_between_attempts_in_vain_grow_and_are_spread() {
    let second = Duration::from_secs(1);
    let drawn: Vec<Vec<Duration>> = (0..200).map(|_| pauses_of_failures(8, second * 5)).collect();
    for (attempt, longest_ms) in [(0, 0), (1, 200), (2, 400), (3, 800), (4, 1_600), (5, 2_000), (7, 2_000)] {
        let of_attempt = drawn.iter().map(|pauses| pauses[attempt].as_millis());
        let (least, most) = (of_attempt.clone().min().unwrap(), of_attempt.max().unwrap());
        assert!(most <= longest_ms, "attempt {attempt}: {most} ms");
        // Full jitter: from nothing to the longest.
        assert!(attempt == 0 || most > longest_ms * 3 / 4 && least < longest_ms / 4, "{least}, {most}");
    }
    // Attempts that fail at once keep their distance.
    let fast = pauses_of_failures(4, Duration::ZERO);
    assert!(fast[1..].iter().all(|pause| *pause >= RECONNECT_PAUSE), "{fast:?}");
}

#[test]
fn a_slot_that_breaks_lets_one_caller_try_after_a_while() {
    let (mut slot, mut now) = (ConnectionSlot::default(), Instant::now());
    let mut outcomes = Vec::new();
    for _ in 0..300 {
        outcomes.push(slot.take(now, true, |_| failed()).is_some());
        now += Duration::from_millis(100);
    }
    // Five seconds of failures, and then one attempt every 2 to 5 s.
    assert!(outcomes[..50].iter().all(|tried| *tried), "{outcomes:?}");
    let later = outcomes[55..].iter().filter(|tried| **tried).count();
    assert!((4..=13).contains(&later), "{later} attempts in 24.5 s");
    // A slot that does not break always tries.
    assert!(slot.take(now, false, |_| failed()).is_some());
}

#[test]
fn the_moments_of_replacement_are_spread() {
    let moments: Vec<Duration> = (0..100).map(|_| random_part_of(REPLACE_JITTER)).collect();
    assert!(moments.iter().all(|moment| *moment <= REPLACE_JITTER));
    let earliest = moments.iter().min().unwrap();
    let latest = moments.iter().max().unwrap();
    assert!(*latest - *earliest > REPLACE_JITTER / 2, "{earliest:?} {latest:?}");
}
