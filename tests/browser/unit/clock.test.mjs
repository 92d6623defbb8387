import assert from "node:assert/strict";
import { test } from "node:test";
import { ServerClock } from "../../../pages/buyer/clock.js";

// A server whose clock is an hour ahead, and messages that take some time in either direction.
const HOUR = 3_600_000;
const at = (deviceMs) => (deviceMs + HOUR) * 1000;

test("the fastest message and the answer to a ping bound the offset", () => {
  const clock = new ServerClock();
  assert.ok(!clock.isKnown);
  assert.equal(clock.atLeast(1_000), 0);
  clock.observe(at(1_000), 1_400);
  assert.equal(clock.nowMs(2_000), 2_000 + HOUR - 400);
  clock.observe(at(3_000), 3_050);
  clock.observe(at(4_000), 4_900);
  assert.equal(clock.nowMs(5_000), 5_000 + HOUR - 50, "a slow message adds nothing");
  clock.observe(at(6_000), 6_040, 5_980);
  assert.equal(clock.nowMs(7_000), 7_000 + HOUR - 10);
  assert.ok(clock.atLeast(7_000) <= at(7_000));
  assert.ok(clock.atLeast(7_000) >= at(7_000) - 41_000);
});

test("whatever the delays, the error of the estimate is at most the shortest round trip", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = (n) => ((seed * 7_919 + n * 104_729) % 1_000) / 1_000;
    const clock = new ServerClock();
    let best = Infinity;
    for (let n = 0; n < 20; n += 1) {
      const made = 10_000 + n * 1_000;
      const [to, from] = [random(2 * n) * 300, random(2 * n + 1) * 300];
      best = Math.min(best, to + from);
      clock.observe(at(made), made + from, made - to);
    }
    const off = Math.abs(clock.nowMs(50_000) - 50_000 - HOUR);
    assert.ok(off <= best, `${off} ms off, with a round trip of ${best} ms`);
  }
});

test("a device's clock that was set is estimated again", () => {
  const clock = new ServerClock();
  clock.observe(at(1_000), 1_010, 990);
  clock.observe(at(2_000), 2_010 + HOUR, 1_990 + HOUR);
  assert.equal(clock.nowMs(3_000 + HOUR), 3_000 + HOUR);
});
