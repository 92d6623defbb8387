//! Idle items: nothing can happen to them for a while, so that drain and worker send no command for them.
//!
//! A list of idle items, each with the end of its idle time, is stored beside the set of all items. Main's functions
//! work on every item that is not in the list: an item that is missing from it, or the whole list if it is lost, only
//! costs commands. An item enters the list if the worker has [read](Queue::mark_idle) that nothing can give it work:
//! no task is unfinished, no hold ends, and no order can be reserved. It leaves the list when its time is over, at the
//! latest when the first hold ends, or when a change is about to [activate](Queue::activate) it.
//!
//! **No change is missed.** Reading an item and listing it are two calls, as an item's keys may lie on another node
//! than the list. In between, the item may change, or a change may be announced and arrive later. So every change
//! activates the item *first*, and the activation is recorded. An item is not listed if it was read before a change
//! that is recorded could have arrived. A buyer who cancels a reservation activates the item afterwards, since most
//! withdrawals change no reservation. What is overlooked nevertheless (a change by hand, a clock that jumps, a process
//! that dies after a cancellation) waits for [`IdleRules::recheck`] at most.

use super::connection::random_part_of;
use super::tasks::GROUP;
use super::{ACTIVATED_ITEMS, IDLE_ITEMS, ITEMS, Keys, LinkError, MAX_WINDOW, NO_HOLD_MICROS, Queue};
use crate::item::ItemId;
use crate::stamp::Stamp;
use redis::Script;
use std::sync::LazyLock;
use std::time::Duration;

pub(super) static ACTIVE_ITEMS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("idle/active_items.lua")));
pub(super) static ACTIVATE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("idle/activate.lua")));
static MARK_IDLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("idle/mark_idle.lua")));
static ITEM_ACTIVITY: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("idle/item_activity.lua")));

/// Records of activations are deleted after this time.
const ACTIVATION_LIFE: Duration = Duration::from_secs(600);

/// When an item is idle, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct IdleRules {
    /// The longest time from the read of an item's activity to the write of its idle time.
    pub longest_read: Duration,
    /// The longest time from the announcement of a change to the change itself. Longer than two calls may take.
    pub longest_change: Duration,
    /// An item is not idle until this time after the longest window of its last order. An edge with an old copy of the item may
    /// send orders after its end, which the drain drops.
    pub after_closing: Duration,
    /// An item is not idle from this time before it opens.
    pub before_opening: Duration,
    /// A shorter idle time is not worth its commands.
    pub shortest: Duration,
    /// The longest idle time. A random part of half of it is added, so that items do not all end it together.
    pub recheck: Duration,
}

impl Default for IdleRules {
    fn default() -> Self {
        Self {
            longest_read: Duration::from_secs(5),
            longest_change: Duration::from_secs(30),
            after_closing: Duration::from_secs(60),
            before_opening: Duration::from_secs(60),
            shortest: Duration::from_secs(60),
            recheck: Duration::from_secs(900),
        }
    }
}

/// What may give an item work, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ItemActivity {
    /// By main's clock.
    read_at: Stamp,
    stock_left: i64,
    opens_at: Stamp,
    closes_at: Option<Stamp>,
    orders_waiting: u64,
    /// The first end of a hold.
    hold_ends_at: Option<Stamp>,
    has_task: bool,
}

impl ItemActivity {
    /// Until when nothing can give the item work but a change that activates it; `None` if it has or may have work.
    fn idle_until(&self, rules: &IdleRules, recheck: Duration) -> Option<Stamp> {
        if self.has_task {
            return None;
        }
        let last_order = |closes_at: Stamp| closes_at.saturating_add(MAX_WINDOW + rules.after_closing);
        let mut until = self.read_at.saturating_add(recheck);
        // A sold-out item reserves nothing, however many orders wait: its units return only by a change or by a hold's
        // end.
        if self.stock_left > 0 {
            // The orders of a paused item wait for it, and count in the drain's metrics.
            if self.orders_waiting > 0 {
                return None;
            }
            if self.closes_at.is_none_or(|closes_at| self.read_at < last_order(closes_at)) {
                until = until.min(self.opens_at.saturating_sub(rules.before_opening));
            }
        }
        let until = self.hold_ends_at.map_or(until, |ends_at| until.min(ends_at));
        (until.saturating_since(self.read_at) >= rules.shortest).then_some(until)
    }
}

impl Queue {
    /// The ids of all items that are not idle, sorted, and of those whose idle time ends within `due_within`. Malformed
    /// ids are skipped.
    pub async fn active_item_ids(&self, due_within: Duration) -> Result<Vec<ItemId>, LinkError> {
        let names: Vec<String> = self
            .link
            .call(async |mut connection| {
                ACTIVE_ITEMS
                    .key(ITEMS)
                    .key(IDLE_ITEMS)
                    .arg(micros(due_within))
                    .invoke_async(&mut connection)
                    .await
            })
            .await?;
        let mut ids: Vec<ItemId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Ends an item's idle time. To be called right before each change that can give an idle item work.
    pub async fn activate(&self, item_id: &ItemId) -> Result<(), LinkError> {
        self.link
            .call(async |mut connection| {
                ACTIVATE
                    .key(IDLE_ITEMS)
                    .key(ACTIVATED_ITEMS)
                    .arg(item_id.as_str())
                    .arg(micros(ACTIVATION_LIFE))
                    .invoke_async::<u64>(&mut connection)
                    .await
                    .map(drop)
            })
            .await
    }

    /// Makes `item_id` idle if nothing can give it work; returns whether it is idle.
    pub async fn mark_idle(&self, item_id: &ItemId, rules: &IdleRules) -> Result<bool, LinkError> {
        let activity = self.item_activity(item_id).await?;
        let recheck = rules.recheck + random_part_of(rules.recheck / 2);
        let Some(until) = activity.idle_until(rules, recheck) else { return Ok(false) };
        self.link
            .call(async |mut connection| {
                MARK_IDLE
                    .key(IDLE_ITEMS)
                    .key(ACTIVATED_ITEMS)
                    .arg(item_id.as_str())
                    .arg(activity.read_at.to_string())
                    .arg(until.to_string())
                    .arg(micros(rules.longest_read))
                    .arg(micros(rules.longest_change))
                    .invoke_async(&mut connection)
                    .await
            })
            .await
    }

    async fn item_activity(&self, item_id: &ItemId) -> Result<ItemActivity, LinkError> {
        let keys = Keys::of(item_id);
        let reply: Vec<i64> = self
            .link
            .call(async |mut connection| {
                ITEM_ACTIVITY
                    .key(&keys.item)
                    .key(&keys.orders)
                    .key(&keys.reservations)
                    .key(&keys.tasks)
                    .arg(GROUP)
                    .arg(NO_HOLD_MICROS)
                    .invoke_async(&mut connection)
                    .await
            })
            .await?;
        parse(&reply)
            .ok_or_else(|| LinkError::Refused("the item activity script returned a malformed answer".into()))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn parse(reply: &[i64]) -> Option<ItemActivity> {
    let &[read_at, stock_left, opens_at, closes_at, orders_waiting, hold_ends_at, has_task] = reply else {
        return None;
    };
    let stamp = |micros: i64| Stamp::from_micros(micros.try_into().ok()?).ok();
    Some(ItemActivity {
        read_at: stamp(read_at)?,
        stock_left,
        opens_at: stamp(opens_at)?,
        closes_at: if closes_at < 0 { None } else { Some(stamp(closes_at)?) },
        orders_waiting: orders_waiting.try_into().ok()?,
        hold_ends_at: if hold_ends_at < 0 { None } else { Some(stamp(hold_ends_at)?) },
        has_task: has_task != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_411_248_335_999;

    /// Closed for an hour, without orders, holds and tasks.
    fn finished() -> ItemActivity {
        let at = |before_seconds: u64| Stamp::from_micros(NOW - before_seconds * 1_000_000).unwrap();
        ItemActivity {
            read_at: at(0),
            stock_left: 3,
            opens_at: at(7_200),
            closes_at: Some(at(3_600)),
            orders_waiting: 0,
            hold_ends_at: None,
            has_task: false,
        }
    }

    /// For how many seconds an item is idle.
    fn idle_seconds(activity: ItemActivity) -> Option<u64> {
        let until = activity.idle_until(&IdleRules::default(), Duration::from_secs(900))?;
        Some(until.saturating_since(activity.read_at).as_secs())
    }

    #[test]
    fn an_item_is_idle_if_only_a_change_can_give_it_work() {
        let ends_in =
            |seconds: i64| Some(Stamp::from_micros(NOW.saturating_add_signed(seconds * 1_000_000)).unwrap());
        let closed = |seconds: i64| ItemActivity { closes_at: ends_in(-seconds), ..finished() };
        let opens =
            |seconds| ItemActivity { opens_at: ends_in(seconds).unwrap(), closes_at: None, ..finished() };
        let sold_out = ItemActivity { stock_left: 0, closes_at: None, ..finished() };
        for (what, activity, expected) in [
            ("finished", finished(), Some(900)),
            ("closed within the grace period", closed(69), None),
            ("closed before it", closed(70), Some(900)),
            ("open", ItemActivity { closes_at: None, ..finished() }, None),
            ("open until later", ItemActivity { closes_at: ends_in(3_600), ..finished() }, None),
            ("opens tomorrow", opens(86_400), Some(900)),
            ("opens soon", opens(300), Some(240)),
            ("opens very soon", opens(119), None),
            ("closed before it opens", ItemActivity { closes_at: ends_in(-70), ..opens(80) }, Some(900)),
            ("an order waits", ItemActivity { orders_waiting: 1, ..finished() }, None),
            ("a hold ends soon", ItemActivity { hold_ends_at: ends_in(59), ..finished() }, None),
            ("a hold has ended", ItemActivity { hold_ends_at: ends_in(-1), ..finished() }, None),
            ("a hold ends", ItemActivity { hold_ends_at: ends_in(300), ..finished() }, Some(300)),
            (
                "a hold ends in a week",
                ItemActivity { hold_ends_at: ends_in(604_800), ..finished() },
                Some(900),
            ),
            (
                "a hold ends, open",
                ItemActivity { hold_ends_at: ends_in(300), closes_at: None, ..finished() },
                None,
            ),
            ("a task is unfinished", ItemActivity { has_task: true, ..finished() }, None),
            ("sold out", sold_out, Some(900)),
            ("oversold by the ledger", ItemActivity { stock_left: -1, ..sold_out }, Some(900)),
            ("sold out, orders wait", ItemActivity { orders_waiting: 9, ..sold_out }, Some(900)),
            ("sold out, a hold ends", ItemActivity { hold_ends_at: ends_in(60), ..sold_out }, Some(60)),
            ("sold out, a task is unfinished", ItemActivity { has_task: true, ..sold_out }, None),
        ] {
            assert_eq!(idle_seconds(activity), expected, "{what}");
        }
    }

    #[test]
    fn the_script_s_answer_is_read_exactly() {
        let now = i64::try_from(NOW).unwrap();
        let activity = parse(&[now, -2, now - 5, -1, 7, now + 1, 0]).unwrap();
        assert_eq!((activity.read_at.as_micros(), activity.stock_left), (NOW, -2));
        assert_eq!(activity.closes_at, None);
        assert_eq!((activity.orders_waiting, activity.has_task), (7, false));
        assert_eq!(activity.hold_ends_at, Some(Stamp::from_micros(NOW + 1).unwrap()));
        assert_eq!(parse(&[now]), None);
        assert_eq!(parse(&[-1, 0, 0, 0, 0, 0, 0]), None);
    }
}
