// The server's clock, as far as its messages tell.

/** Two clocks drift apart a little between two messages; more than this means that one was set. */
const DRIFT_MS = 5;

/** How far the server's clock is ahead of this device's: between two bounds, which every message draws closer. */
export class ServerClock {
  #low = -Infinity;
  #high = Infinity;

  /**
   * A message says that it was made `at` (µs, the server's), and came at `receivedMs` (this device's). If it
   * answers what was sent at `sentMs`, it was made after that.
   */
  hear(at, receivedMs, sentMs) {
    const low = at / 1000 - receivedMs;
    const high = sentMs === undefined ? Infinity : at / 1000 - sentMs;
    if (low > this.#high + DRIFT_MS || high < this.#low - DRIFT_MS) {
      this.#low = low;
      this.#high = high;
      return;
    }
    this.#low = Math.max(this.#low, low);
    this.#high = Math.max(this.#low, Math.min(this.#high, high));
  }

  get isKnown() {
    return Number.isFinite(this.#low);
  }

  /** The server's time, in milliseconds since 1970. */
  nowMs(deviceMs = Date.now()) {
    if (!this.isKnown) return deviceMs;
    const offset = Number.isFinite(this.#high) ? (this.#low + this.#high) / 2 : this.#low;
    return deviceMs + offset;
  }

  /** What the server's time is at least, in µs; 0 where it is not known. */
  atLeast(deviceMs) {
    return this.isKnown ? Math.floor((deviceMs + this.#low) * 1000) : 0;
  }
}
