// An estimate of the server's clock, from the times in its messages.

/** Two clocks drift a little between two messages; more than this means that one of them was set. */
const DRIFT_MS = 5;

/** The offset of the server's clock from this device's: between two bounds, which every message tightens. */
export class ServerClock {
  #low = -Infinity;
  #high = Infinity;

  /**
   * Takes a message that the server made `at` (µs, server's clock) and that was received at `receivedMs` (device's
   * clock). If it answers a message that was sent at `sentMs`, it was made after that.
   */
  observe(at, receivedMs, sentMs) {
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

  /** A lower bound of the server's time, in µs; 0 if it is not known. */
  atLeast(deviceMs) {
    return this.isKnown ? Math.floor((deviceMs + this.#low) * 1000) : 0;
  }
}
