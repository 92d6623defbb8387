// The line to the region: one WebSocket, opened again whenever it breaks (docs/LIVE.md).

const PROTOCOL = "fairdrop.live.v1";
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
const PING_INTERVAL_MS = 60_000;
/** The second ping comes soon: the first draws the clock's bounds while the page is still busy. */
const FIRST_PING_MS = 2_000;
const ASK_INTERVAL_MS = 1_000;
const ANSWER_LIMIT_MS = 10_000;

/**
 * Keeps a line up. `hear(message, receivedMs, sentMs)` is called for every message, `change(state)` whenever
 * `state.name` becomes `connecting`, `live`, `cut` (with `since`, `again`: when it is tried again) or `ended`
 * (with `why`: `bad-token` or `too-many-connections`).
 */
export class Line {
  #url; #token; #itemId; #hear; #change;
  #socket = null;
  #pause = FIRST_PAUSE_MS;
  #timer = 0;
  #asked = 0;
  #since = 0;
  #asking = 0;
  #askedMs = 0;
  #state = { name: "connecting" };

  constructor({ url, token, itemId, hear, change }) {
    this.#url = url;
    this.#token = token;
    this.#itemId = itemId;
    this.#hear = hear;
    this.#change = change;
    this.wake = this.wake.bind(this);
    addEventListener("online", this.wake);
    addEventListener("offline", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    this.#connect();
  }

  get state() {
    return this.#state;
  }

  /** Asks for the state as it is now; not more than once a second. */
  ask() {
    if (this.#asking) return;
    const wait = Math.max(0, this.#askedMs + ASK_INTERVAL_MS - Date.now());
    this.#asking = setTimeout(() => {
      this.#asking = 0;
      this.#askedMs = Date.now();
      if (this.#state.name === "live") this.#say({ action: "subscribe", item_id: this.#itemId });
    }, wait);
  }

  /** The network has changed, or somebody looks again: is the line still there? */
  wake() {
    if (this.#state.name === "cut" && navigator.onLine) this.#connect();
    else if (this.#state.name === "live" && document.visibilityState === "visible") this.#ping();
  }

  /** Hangs up for good. */
  close(why) {
    removeEventListener("online", this.wake);
    removeEventListener("offline", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    this.#hangUp();
    this.#become({ name: "ended", why });
  }

  #become(state) {
    this.#state = state;
    this.#change(state);
  }

  #connect() {
    this.#hangUp();
    this.#become({ name: "connecting", since: this.#since });
    const socket = new WebSocket(this.#url, [PROTOCOL, `bearer.${this.#token}`]);
    this.#socket = socket;
    this.#expect();
    socket.onopen = () => {
      this.#expect();
      this.#say({ action: "subscribe", item_id: this.#itemId });
    };
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = () => {
      if (socket === this.#socket) this.#cut();
    };
  }

  #take(text) {
    const receivedMs = Date.now();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    const kind = message?.type;
    if (kind === "subscribed" && message.item_id === this.#itemId) {
      this.#pause = FIRST_PAUSE_MS;
      this.#since = 0;
      this.#rest(FIRST_PING_MS);
      this.#hear(message, receivedMs);
      this.#become({ name: "live" });
    } else if (kind === "pong") {
      if (this.#asked) this.#hear(message, receivedMs, this.#asked);
      this.#asked = 0;
      if (message.items.includes(this.#itemId)) this.#rest(PING_INTERVAL_MS);
      else this.#cut();
    } else if (kind === "item" || kind === "order") {
      this.#hear(message, receivedMs);
    } else if (kind === "problem") {
      this.#refused(message);
    } else if (kind === undefined) {
      // API Gateway's own word: it could not run the function.
      this.#cut();
    }
  }

  #refused({ problem, ends }) {
    const name = problem.type.split(":").pop();
    if (name === "bad-token" || name === "too-many-connections") this.close(name);
    // Asking too often does no harm while the line stands.
    else if (ends || this.#state.name !== "live") this.#cut(name);
  }

  #ping() {
    // A second one would make it unclear which of them a pong answers.
    if (this.#asked) return;
    this.#asked = Date.now();
    if (this.#say({ action: "ping" })) this.#expect();
    else this.#cut();
  }

  #say(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Something must come soon, or the line is cut. */
  #expect() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#cut(), ANSWER_LIMIT_MS);
  }

  /** Nothing need come; the line is tried after a while. */
  #rest(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ping(), ms);
  }

  #cut(problem) {
    this.#hangUp();
    this.#since ||= Date.now();
    const pause = this.#pause * (0.5 + Math.random());
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#become({ name: "cut", since: this.#since, again: Date.now() + pause, problem });
  }

  #hangUp() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#asked = 0;
    socket?.close();
  }
}
