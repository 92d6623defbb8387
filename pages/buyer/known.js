// The state of item and order: the newest that was received, by the version that every message carries.

/** Keeps the newest state of an item and of the buyer's order, and drops older messages. */
export class Known {
  item = null;
  order = null;
  #itemId;
  /** Server time since which an order is known to be accepted or queued: an older "none" cannot be true. */
  #storedSince = 0;

  constructor(itemId) {
    this.#itemId = itemId;
  }

  /** Takes a message of the socket. Returns whether it contradicts an HTTP answer, so that the state must be requested again. */
  take(message) {
    if (message.type === "subscribed") {
      const itemContradicts = this.take(message.item);
      return this.take(message.order) || itemContradicts;
    }
    if (message.item_id !== this.#itemId) return false;
    if (message.type === "item") this.item = newer(this.item, message);
    if (message.type === "order") {
      if (message.status === "none" && message.version < this.#storedSince) return true;
      this.order = newer(this.order, message);
    }
    return false;
  }

  /** Takes the item of an HTTP answer. It has no version, so that any message of the socket replaces it. */
  takeItem(item) {
    this.item = newer(this.item, { ...item, version: 0 });
  }

  /**
   * Takes the order of an HTTP answer. It was requested when main's clock showed at least `askedAt` (µs), so that
   * the answer is at least that new.
   */
  takeOrder(order, askedAt) {
    this.order = newer(this.order, { ...order, item_id: this.#itemId, version: askedAt });
  }

  /** `order` was answered "accepted" or "queued" when the server's clock showed at most `answeredAt`. */
  isStored(order, askedAt, answeredAt) {
    this.#storedSince = answeredAt;
    const isNewer = this.order && this.order.version >= order.placed_at && !["none", "accepted", "released", "voided", "excluded", "refused", "over"].includes(this.order.status);
    if (!isNewer) this.takeOrder(order, askedAt);
  }

  /** Forgets the order when the buyer signs out. */
  forgetOrder() {
    this.order = null;
    this.#storedSince = 0;
  }

  /** The buyer has left the queue, so that "none" is no contradiction any more. */
  hasLeft() {
    this.#storedSince = 0;
  }
}

function newer(known, received) {
  return known && known.version > received.version ? known : received;
}
