// Repeats an order whose answer says nothing about it: none at all, or one of API Gateway itself.

/** The pauses before the repetitions, as docs/PROBLEMS.md has them. Each is shortened at random by up to a half. */
const PAUSES_MS = [1_000, 2_000, 4_000, 8_000];

/** Whether the request may have been executed, or not: the network or API Gateway failed. */
const isSilent = ({ status, problem }) => !problem && (status === 0 || status >= 500);

/** Whether a repetition may get a better answer. fairdrop's own refusals are problems; 429 is API Gateway's throttle. */
const isUnusable = (answer) => isSilent(answer) || (!answer.problem && answer.status === 429);

/**
 * Sends an order until its answer is usable, five times at most. Repeating is harmless: the first order counts.
 *
 * Calls `repeats` before each pause; stops if `isWanted` says no after one. `isAfterSilence` of the answer says that an
 * earlier attempt may have been executed.
 */
export async function untilUsable(send, { isWanted, repeats, sleep = pause, random = Math.random }) {
  let answer = await send();
  let isAfterSilence = false;
  for (const pauseMs of PAUSES_MS) {
    if (!isUnusable(answer)) break;
    isAfterSilence ||= isSilent(answer);
    repeats(answer);
    await sleep(pauseMs * (1 - random() / 2));
    if (!isWanted()) break;
    answer = await send();
  }
  return { ...answer, isAfterSilence };
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
