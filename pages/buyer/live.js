// The live connection to the region: one WebSocket, which is opened again when it breaks (docs/LIVE.md).

const PROTOCOL = "fairdrop.live.v1";
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
const PING_INTERVAL_MS = 60_000;
/** The first ping comes soon after the subscription, to estimate the server's clock. */
const FIRST_PING_MS = 2_000;
const ASK_INTERVAL_MS = 1_000;
const ANSWER_LIMIT_MS = 10_000;

/**
 * Keeps a connection open. `receive(message, receivedMs, sentMs)` is called for every message, `change(state)` when
 * `state.name` becomes `connecting`, `live`, `disconnected` (with `since`, and `again`: the time of the next try) or
 * `ended` (with `why`: `bad-token` or `too-many-connections`).
 */
export class LiveConnection {
  #url; #token; #itemId; #receive; #change;
  #socket = null;
  #pause = FIRST_PAUSE_MS;
  #timer = 0;
  #pingSentMs = 0;
  #since = 0;
  #asking = 0;
  #askedMs = 0;
  #state = { name: "connecting" };

  constructor({ url, token, itemId, receive, change }) {
    this.#url = url;
    this.#token = token;
    this.#itemId = itemId;
    this.#receive = receive;
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

  /** Requests the current state, at most once a second. */
  ask() {
    if (this.#asking) return;
    const wait = Math.max(0, this.#askedMs + ASK_INTERVAL_MS - Date.now());
    this.#asking = setTimeout(() => {
      this.#asking = 0;
      this.#askedMs = Date.now();
      if (this.#state.name === "live") this.#send({ action: "subscribe", item_id: this.#itemId });
    }, wait);
  }

  /** Checks the connection after the network has changed or the page has become visible. */
  wake() {
    if (this.#state.name === "disconnected" && navigator.onLine) this.#connect();
    else if (this.#state.name === "live" && document.visibilityState === "visible") this.#ping();
  }

  /** Closes the connection permanently. */
  close(why) {
    removeEventListener("online", this.wake);
    removeEventListener("offline", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    this.#closeSocket();
    this.#become({ name: "ended", why });
  }

  #become(state) {
    this.#state = state;
    this.#change(state);
  }

  #connect() {
    this.#closeSocket();
    this.#become({ name: "connecting", since: this.#since });
    const socket = new WebSocket(this.#url, [PROTOCOL, `bearer.${this.#token}`]);
    this.#socket = socket;
    this.#expectMessage();
    socket.onopen = () => {
      this.#expectMessage();
      this.#send({ action: "subscribe", item_id: this.#itemId });
    };
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = () => {
      if (socket === this.#socket) this.#disconnect();
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
      this.#pingAfter(FIRST_PING_MS);
      this.#receive(message, receivedMs);
      this.#become({ name: "live" });
    } else if (kind === "pong") {
      if (this.#pingSentMs) this.#receive(message, receivedMs, this.#pingSentMs);
      this.#pingSentMs = 0;
      if (message.items.includes(this.#itemId)) this.#pingAfter(PING_INTERVAL_MS);
      else this.#disconnect();
    } else if (kind === "item" || kind === "order") {
      this.#receive(message, receivedMs);
    } else if (kind === "problem") {
      this.#refused(message);
    } else if (kind === undefined) {
      // API Gateway's own message: it could not invoke the function.
      this.#disconnect();
    }
  }

  #refused({ problem, ends }) {
    const name = problem.type.split(":").pop();
    if (name === "bad-token" || name === "too-many-connections") this.close(name);
    // A request that came too soon does no harm while the connection is live.
    else if (ends || this.#state.name !== "live") this.#disconnect(name);
  }

  #ping() {
    // With two pings in flight it would be unclear which one a pong answers.
    if (this.#pingSentMs) return;
    this.#pingSentMs = Date.now();
    if (this.#send({ action: "ping" })) this.#expectMessage();
    else this.#disconnect();
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Disconnects if no message comes within the limit. */
  #expectMessage() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#disconnect(), ANSWER_LIMIT_MS);
  }

  /** Pings after a while. */
  #pingAfter(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ping(), ms);
  }

  #disconnect(problem) {
    this.#closeSocket();
    this.#since ||= Date.now();
    const pause = this.#pause * (0.5 + Math.random());
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#become({ name: "disconnected", since: this.#since, again: Date.now() + pause, problem });
  }

  #closeSocket() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#pingSentMs = 0;
    socket?.close();
  }
}
