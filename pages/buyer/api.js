// The public HTTP API of one region (docs/openapi.json).

/** API Gateway gives up after 30 s. */
const ANSWER_LIMIT_MS = 35_000;

/** A region's API for one item, on behalf of the buyer whom `token` names. */
export class Api {
  #item;
  #token;

  constructor(api, itemId, token) {
    this.#item = `${api}/items/${encodeURIComponent(itemId)}`;
    this.#token = token;
  }

  item() {
    return call("GET", this.#item);
  }

  order() {
    return call("POST", `${this.#item}/orders`, this.#token);
  }

  mine() {
    return call("GET", `${this.#item}/orders/me`, this.#token);
  }

  leave() {
    return call("DELETE", `${this.#item}/orders/me`, this.#token);
  }
}

/** Sends a request. `status` is 0 without an answer; `problem` is set if the function refused the request. */
async function call(method, url, token) {
  const sentMs = Date.now();
  try {
    const response = await fetch(url, {
      method,
      headers: token ? { authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
    const body = await response.json().catch(() => null);
    const problem = typeof body?.type === "string" ? body.type.split(":").pop() : undefined;
    return { status: response.status, body, problem, sentMs, receivedMs: Date.now() };
  } catch {
    return { status: 0, body: null, sentMs, receivedMs: Date.now() };
  }
}

/** The nearest of several regions: the first that returns the item. A single region needs no request. */
export async function nearest(regions, itemId) {
  if (regions.length === 1) return regions[0];
  const asked = regions.map(async (region) => {
    const { status } = await new Api(region.api, itemId).item();
    if (status === 0 || status >= 500) throw new Error(region.name);
    return region;
  });
  return Promise.any(asked).catch(() => regions[0]);
}
