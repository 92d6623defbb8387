import assert from "node:assert/strict";
import { test } from "node:test";
import { ServerClock } from "../../../pages/buyer/clock.js";

// A server that is an hour ahead, and lines that take some time either way.
const HOUR = 3_600_000;
const at = (deviceMs) => (deviceMs + HOUR) * 1000;

test("the shortest way and the answer to a question bound the offset", () => {
  const clock = new ServerClock();
  assert.ok(!clock.isKnown);
  assert.equal(clock.atLeast(1_000), 0);
  clock.hear(at(1_000), 1_400);
  assert.equal(clock.nowMs(2_000), 2_000 + HOUR - 400);
  clock.hear(at(3_000), 3_050);
  clock.hear(at(4_000), 4_900);
  assert.equal(clock.nowMs(5_000), 5_000 + HOUR - 50, "a long way says nothing new");
  clock.hear(at(6_000), 6_040, 5_980);
  assert.equal(clock.nowMs(7_000), 7_000 + HOUR - 10);
  assert.ok(clock.atLeast(7_000) <= at(7_000));
  assert.ok(clock.atLeast(7_000) >= at(7_000) - 41_000);
});

test("whatever the ways, the estimate is wrong by no more than the shortest of them", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const lot = (n) => ((seed * 7_919 + n * 104_729) % 1_000) / 1_000;
    const clock = new ServerClock();
    let best = Infinity;
    for (let n = 0; n < 20; n += 1) {
      const made = 10_000 + n * 1_000;
      const [there, back] = [lot(2 * n) * 300, lot(2 * n + 1) * 300];
      best = Math.min(best, there + back);
      clock.hear(at(made), made + back, made - there);
    }
    const off = Math.abs(clock.nowMs(50_000) - 50_000 - HOUR);
    assert.ok(off <= best, `${off} ms off, with a round trip of ${best} ms`);
  }
});

test("a device's clock that is set is measured anew", () => {
  const clock = new ServerClock();
  clock.hear(at(1_000), 1_010, 990);
  clock.hear(at(2_000), 2_010 + HOUR, 1_990 + HOUR);
  assert.equal(clock.nowMs(3_000 + HOUR), 3_000 + HOUR);
});
