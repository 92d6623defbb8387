import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { untilUsable } from "../../../pages/buyer/repeat.js";

/** Orders with these answers, one after another; the last one repeats. */
async function orders(answers, options = {}) {
  const seen = { sent: 0, pauses: [], notices: 0 };
  const send = async () => answers[Math.min(seen.sent++, answers.length - 1)];
  const answer = await untilUsable(send, {
    isWanted: () => true,
    repeats: () => (seen.notices += 1),
    sleep: async (ms) => void seen.pauses.push(ms),
    random: () => 0,
    ...options,
  });
  return { ...seen, answer };
}

test("an order that API Gateway or the network does not answer is repeated after the documented pauses", async () => {
  const page = readFileSync(new URL("../../../docs/PROBLEMS.md", import.meta.url), "utf8");
  const [, documented] = page.match(/after ([\d, and]+) seconds/);
  const seconds = documented.match(/\d+/g).map(Number);
  for (const status of [0, 429, 500, 502, 503, 504]) {
    const { sent, pauses, notices, answer } = await orders([{ status }]);
    assert.equal(sent, 5, String(status));
    assert.deepEqual(pauses.map((ms) => ms / 1_000), seconds);
    assert.equal(notices, 4);
    assert.equal(answer.isAfterSilence, status !== 429, "a throttle of API Gateway executes nothing");
  }
  const shortest = await orders([{ status: 503 }], { random: () => 1 });
  assert.deepEqual(shortest.pauses, [500, 1_000, 2_000, 4_000]);
});

test("a throttled order is repeated until it is accepted", async () => {
  const { sent, answer } = await orders([{ status: 503 }, { status: 500 }, { status: 202, body: { status: "accepted" } }]);
  assert.equal(sent, 3);
  assert.equal(answer.status, 202);
});

test("an answer of fairdrop is not repeated", async () => {
  for (const answer of [{ status: 200 }, { status: 202 }, { status: 401, problem: "bad-token" }, { status: 410, problem: "sold-out" }, { status: 503, problem: "main-unreachable" }, { status: 404 }]) {
    const { sent, answer: last } = await orders([answer]);
    assert.equal(sent, 1, JSON.stringify(answer));
    assert.equal(last.isAfterSilence, false);
  }
});

test("no order is sent after the buyer has signed out, or the order is known", async () => {
  const { sent, answer } = await orders([{ status: 503 }], { isWanted: () => false });
  assert.equal(sent, 1);
  assert.equal(answer.status, 503);
});
