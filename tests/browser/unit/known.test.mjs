import assert from "node:assert/strict";
import { test } from "node:test";
import { Known } from "../../../pages/buyer/known.js";

const order = (version, status, more = {}) => ({ type: "order", item_id: "a", version, status, ...more });
const item = (version, stock_left) => ({ type: "item", item_id: "a", version, stock_left });

test("the newest state is kept in whatever order messages come", () => {
  const messages = [order(1, "none"), order(2, "queued", { ahead: 3 }), order(3, "queued", { ahead: 0 }), order(4, "reserved"), order(5, "sold")];
  // Each order in which five messages can come.
  const permutations = (rest) => (rest.length < 2 ? [rest] : rest.flatMap((first, at) => permutations(rest.toSpliced?.(at, 1) ?? rest.filter((_, other) => other !== at)).map((more) => [first, ...more])));
  for (const some of permutations(messages)) {
    const known = new Known("a");
    let version = 0;
    for (const message of some) {
      known.take(message);
      assert.ok(known.order.version >= version, "the state went backwards");
      version = known.order.version;
    }
    assert.equal(known.order.status, "sold");
  }
});

test("messages of another item are ignored", () => {
  const known = new Known("b");
  known.take(order(9, "sold"));
  known.take(item(9, 1));
  assert.deepEqual([known.order, known.item], [null, null]);
});

test("item and order each have their own version", () => {
  const known = new Known("a");
  known.take({ type: "subscribed", item_id: "a", item: item(9, 5), order: order(9, "none") });
  known.take(item(8, 7));
  known.take(order(9, "queued"));
  assert.deepEqual([known.item.stock_left, known.order.status], [5, "queued"]);
});

test("an order that was answered 'queued' is not 'none' because of an older message", () => {
  const known = new Known("a");
  known.take(order(100, "none"));
  known.isStored({ status: "queued", placed_at: 110 }, 105, 130);
  assert.equal(known.order.status, "queued");
  assert.ok(known.take(order(120, "none")), "the state must be requested again");
  assert.equal(known.order.status, "queued");
  assert.ok(!known.take(order(140, "none")), "a newer message is true");
  assert.equal(known.order.status, "none");
});

test("an HTTP answer that comes after a newer message does not undo it", () => {
  const known = new Known("a");
  known.take(order(120, "sold"));
  known.isStored({ status: "queued", placed_at: 110 }, 105, 130);
  assert.equal(known.order.status, "sold");
  known.takeOrder({ status: "reserved" }, 119);
  assert.equal(known.order.status, "sold");
  known.takeOrder({ status: "queued" }, 0);
  assert.equal(known.order.status, "sold", "an answer without a known time is older than all messages");
});

test("the item of an HTTP answer is kept until the first message of the socket", () => {
  const known = new Known("a");
  known.takeItem({ item_id: "a", stock_left: 9 });
  assert.equal(known.item.stock_left, 9);
  known.take(item(1, 8));
  known.takeItem({ item_id: "a", stock_left: 9 });
  assert.equal(known.item.stock_left, 8);
});

test("a buyer who has left the queue can have no order", () => {
  const known = new Known("a");
  known.isStored({ status: "queued", placed_at: 110 }, 105, 130);
  known.hasLeft();
  known.take(order(120, "none"));
  assert.equal(known.order.status, "none");
});

test("an accepted order is not 'none' because of an older message, and another order replaces it", () => {
  const known = new Known("a");
  known.isStored({ status: "accepted", placed_at: 110, decided_by: 125 }, 105, 130);
  assert.deepEqual([known.order.status, known.order.decided_by], ["accepted", 125]);
  assert.ok(known.take(order(120, "none")), "the state must be requested again");
  assert.equal(known.order.status, "accepted");
  known.isStored({ status: "accepted", placed_at: 140, decided_by: 155 }, 135, 150);
  assert.equal(known.order.placed_at, 140, "an overdue order may be followed by another");
  known.take(order(160, "refused", { placed_at: 140, reason: "too-late" }));
  assert.equal(known.order.status, "refused");
});
