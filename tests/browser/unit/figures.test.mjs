import assert from "node:assert/strict";
import { test } from "node:test";
import { by, find, held, largest, newest, perSecond, runningTotal, sum, total } from "../../../pages/operator/figures.js";
import { roundUp, short } from "../../../pages/operator/charts.js";

const one = (metric, dimensions, values, total = 0) => ({ metric, statistic: "Sum", dimensions, values, total });

test("results are found, added up and sorted", () => {
  const results = [
    one("orders_refused", { Region: "a", Reason: "too-late" }, [1, null], 1),
    one("orders_refused", { Region: "b", Reason: "too-late" }, [2, null], 2),
    one("orders_refused", { Region: "b", Reason: "sold-out" }, [null, 7], 7),
    one("orders_queued", { Region: "b" }, [5, 5], 10),
  ];
  const refused = find(results, "orders_refused", "Sum");
  assert.equal(total(refused), 10);
  assert.deepEqual(sum(refused, 2), [3, 7]);
  assert.deepEqual(largest(refused, 2), [2, 7]);
  assert.deepEqual(by(refused, "Reason").map(([name, found]) => [name, total(found)]), [["sold-out", 7], ["too-late", 3]]);
  assert.equal(find(results, "orders_refused", "Sum", { Region: "a" }).length, 1);
  assert.deepEqual(sum([], 2), [null, null]);
  const queued = find([...results, one("orders_placed", { Region: "a" }, [3, null], 3)], ["orders_queued", "orders_placed"], "Sum");
  assert.deepEqual([total(queued), sum(queued, 2)], [13, [8, 5]]);
});

test("a running total ends with the total", () => {
  assert.deepEqual(runningTotal([1, null, 4], 15), [11, 11, 15]);
  assert.deepEqual(runningTotal([1, null, 4], 5), [1, 1, 5]);
});

test("gaps repeat the last level, and count 0 in rates", () => {
  assert.deepEqual(held([null, 3, null, 1]), [null, 3, 3, 1]);
  assert.deepEqual(perSecond([null, 4], 2), [0, 2]);
  assert.equal(newest({ values: [3, null] }), 3);
  assert.equal(newest(undefined), null);
});

test("an axis ends at a round number, and numbers are short", () => {
  for (const [value, end] of [[0, 1], [0.7, 1], [1, 1], [11, 20], [45, 60], [61, 100], [3_999, 4_000]]) assert.equal(roundUp(value), end, String(value));
  for (const [value, words] of [[null, "–"], [3, "3"], [0.25, "0.25"], [12.345, "12"], [12_345, "12.3k"]]) assert.equal(short(value), words);
});
