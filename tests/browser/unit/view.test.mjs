import assert from "node:assert/strict";
import { test } from "node:test";
import { connectionText, noticeOf, repeating, view } from "../../../pages/buyer/view.js";
import { left } from "../../../pages/buyer/words.js";

const NOW = 1_795_500_000_000;
const item = (phase, more = {}) => ({ item_id: "a", name: "A <b>thing</b>", phase, stock_total: 10, stock_left: 3, opens_at: (NOW + 65_000) * 1000, hold_seconds: 60, ...more });
const model = (more) => ({ item: item("open"), order: { status: "none" }, nowMs: NOW, clockIsKnown: true, connection: { name: "live" }, isSending: false, notice: null, isSignedIn: true, ...more });
const shown = (more) => view(model(more));

test("each phase and each status has its own text, and only useful actions are enabled", () => {
  const table = [
    ["upcoming", "none", /^Opens in/, false, null],
    ["open", "none", /^Open$/, true, null],
    ["paused", "none", /^Paused/, true, null],
    ["sold_out", "none", /^Sold out/, false, null],
    ["closed", "none", /^Closed/, false, null],
    ["open", "queued", /^You are in the queue/, undefined, /Leave/],
    ["paused", "queued", /^Paused/, undefined, /Leave/],
    ["sold_out", "queued", /^Sold out/, undefined, /Leave/],
    ["closed", "queued", /^You are in the queue/, undefined, /Leave/],
    ["open", "reserved", /^Reserved until/, undefined, /Cancel the reservation/],
    ["sold_out", "sold", /^It is yours/, undefined, null],
    ["open", "released", /^Your reservation has ended/, true, null],
    ["sold_out", "released", /^Your reservation has ended/, undefined, null],
    ["open", "voided", /^Your unit was taken back/, true, null],
    ["open", "excluded", /^No unit for you/, undefined, null],
    ["open", "refused", /^Not accepted/, true, null],
    ["open", "accepted", /^Your order is stored$/, undefined, /Withdraw/],
  ];
  for (const [phase, status, title, enabled, leave] of table) {
    const order = { status, ahead: 4, placed_at: NOW * 1000, reserved_until: (NOW + 30_000) * 1000, reason: "not-open-yet" };
    const one = shown({ item: item(phase), order });
    const name = `${phase}, ${status}`;
    assert.match(one.title, title, name);
    assert.equal(one.act?.isEnabled, enabled, name);
    if (leave) assert.match(one.leave, leave, name);
    else assert.ok(!one.leave, name);
  }
});

test("the countdown is by the server's clock, and the button does not wait for the message", () => {
  assert.equal(shown({ item: item("upcoming") }).figure.number, "1:05");
  const due = shown({ item: item("upcoming"), nowMs: NOW + 65_000 });
  assert.deepEqual([due.title, due.act.isEnabled], ["Opening …", true]);
  const unknown = shown({ item: item("upcoming"), clockIsKnown: false });
  assert.match(unknown.title, /^Opens at/);
  assert.ok(!unknown.figure);
});

test("an expired hold is not shown as sold or lost", () => {
  const one = shown({ order: { status: "reserved", reserved_until: (NOW - 1) * 1000 } });
  assert.equal(one.title, "The time to pay is over");
  assert.ok(!one.figure);
  assert.ok(!one.canPay);
});

test("a place in the queue has a caption in correct grammar", () => {
  const caption = (ahead) => shown({ order: { status: "queued", ahead } }).figure.caption;
  assert.match(caption(0), /you are next/);
  assert.match(caption(1), /1 order is before yours/);
  assert.match(caption(17), /17 orders are before yours/);
  assert.equal(shown({ order: { status: "queued", placed_at: 1 } }).figure, null, "no number if the place is not known");
});

test("every documented refusal of an order says whether the order is in the queue", async () => {
  const { readFileSync } = await import("node:fs");
  const listed = readFileSync(new URL("../../../docs/PROBLEMS.md", import.meta.url), "utf8").split("`POST /items")[0];
  const names = [...listed.matchAll(/^\| `([a-z-]+)` \| (\d+) \|/gm)];
  assert.ok(names.length > 15, "the list is read");
  for (const [, problem, status] of names) {
    const notice = noticeOf({ status: Number(status), problem });
    if (status === "401") assert.equal(notice, null);
    else assert.ok(notice.title && notice.text, problem);
    const isFirm = /\*\*nothing is queued\*\*/.test(listed.split("\n").find((line) => line.startsWith(`| \`${problem}\``)));
    if (isFirm) assert.match(notice.text, /not in the queue/i, problem);
  }
  for (const status of [0, 500, 502, 503, 504]) {
    assert.match(noticeOf({ status }).text, /may or may not be in the queue/, String(status));
    assert.ok(noticeOf({ status }).isUnknown);
  }
  assert.match(noticeOf({ status: 429 }).text, /not in the queue/);
  assert.equal(noticeOf({ status: 202 }), null);
});

test("a refusal is not the end if an earlier attempt had no answer", () => {
  for (const answer of [{ status: 410, problem: "closed" }, { status: 503, problem: "main-unreachable" }, { status: 429 }]) {
    assert.ok(!noticeOf(answer).isUnknown);
    const after = noticeOf({ ...answer, isAfterSilence: true });
    assert.ok(after.isUnknown);
    assert.match(after.text, /may be in the queue/);
  }
  assert.equal(noticeOf({ status: 202, isAfterSilence: true }), null);
  assert.equal(noticeOf({ status: 409, problem: "already-sold", isAfterSilence: true }).title, "You have one");
  assert.doesNotMatch(repeating({ status: 503 }).text, /refused|not accepted|not in the queue/i);
});

test("the page claims no more than is known", () => {
  assert.equal(view(model({ item: null })).act, null);
  assert.match(shown({ order: null, connection: { name: "disconnected" } }).text, /not known yet/);
  assert.ok(!shown({ isSignedIn: false }).act);
  assert.match(shown({ isSignedIn: false }).text, /Sign in to order/);
  assert.equal(shown({ isSignedIn: false, notice: noticeOf({ status: 0 }) }).notice.title, "No connection", "why the buyer was signed out, or cannot sign in");
  assert.deepEqual(shown({ isSending: true }).act, { label: "Sending …", isEnabled: false });
});

test("the connection text says since when it is broken, and why it ended", () => {
  const cut = { name: "disconnected", since: NOW, again: NOW + 3_500 };
  assert.match(connectionText(cut, "eu-west-1", NOW), /^Disconnected since .* state of that time\. Trying again in 4 seconds\./);
  assert.match(connectionText({ name: "connecting", since: NOW }, "eu-west-1", NOW), /^Disconnected since/);
  assert.match(connectionText({ name: "connecting", since: 0 }, "eu-west-1", NOW), /^Connecting to eu-west-1/);
  assert.match(connectionText({ name: "live" }, "eu-west-1", NOW), /^Live, from eu-west-1/);
  assert.match(connectionText({ name: "ended", why: "too-many-connections" }, "x", NOW), /opened elsewhere/);
});

test("the remaining time is rounded up, so that a countdown never ends early", () => {
  const table = [[-5, "0:00"], [0, "0:00"], [1, "0:01"], [999, "0:01"], [61_000, "1:01"], [3_600_000, "1:00:00"], [90_000_000, "1 day 1:00:00"]];
  for (const [ms, words] of table) assert.equal(left(ms), words);
});

test("an accepted order says by when it is decided, and then that it is not", () => {
  const order = { status: "accepted", placed_at: NOW * 1000, decided_by: (NOW + 15_000) * 1000 };
  const before = shown({ order });
  assert.match(before.text, /You will know by \d/);
  assert.equal(before.act, null);
  const after = shown({ order, nowMs: NOW + 15_000 });
  assert.match(after.title, /^Your order is still waiting$/);
  assert.match(after.text, /may still come into the queue/);
  assert.deepEqual([after.act.isEnabled, after.leave], [true, "Withdraw the order"]);
  assert.match(shown({ order: { status: "refused", reason: "clock-ahead" } }).text, /clock of your region/);
});
