// What is known of item and order: the newest that was heard, by the version that every message carries.

/** Keeps the newest of an item and of the buyer's order; what is older is dropped. */
export class Known {
  item = null;
  order = null;
  #itemId;
  /** Since then an order is known to be in the queue: an older "none" cannot be true. */
  #queuedSince = 0;

  constructor(itemId) {
    this.#itemId = itemId;
  }

  /** Takes a message of the socket; says whether it contradicts what an answer has said, so that it is worth asking again. */
  take(message) {
    if (message.type === "subscribed") {
      const itemIsOdd = this.take(message.item);
      return this.take(message.order) || itemIsOdd;
    }
    if (message.item_id !== this.#itemId) return false;
    if (message.type === "item") this.item = newer(this.item, message);
    if (message.type === "order") {
      if (message.status === "none" && message.version < this.#queuedSince) return true;
      this.order = newer(this.order, message);
    }
    return false;
  }

  /** Takes the item as an HTTP answer has it, which has no version: good until the socket speaks. */
  takeItem(item) {
    this.item = newer(this.item, { ...item, version: 0 });
  }

  /**
   * Takes an order as an HTTP answer has it. It was asked for when main's clock showed at least `askedAt`
   * (µs), so that the answer is that new, or newer.
   */
  takeOrder(order, askedAt) {
    this.order = newer(this.order, { ...order, item_id: this.#itemId, version: askedAt });
  }

  /** An order was answered "queued" when the server's clock showed `answeredAt` at most. */
  isQueued(placedAt, askedAt, answeredAt) {
    this.#queuedSince = answeredAt;
    const stands = this.order && this.order.version >= placedAt && !["none", "released", "refused"].includes(this.order.status);
    if (!stands) this.takeOrder({ status: "queued", placed_at: placedAt }, askedAt);
  }

  /** Somebody else may sign in. */
  forgetOrder() {
    this.order = null;
    this.#queuedSince = 0;
  }

  /** The buyer has left: "none" is no contradiction any more. */
  hasLeft() {
    this.#queuedSince = 0;
  }
}

function newer(known, heard) {
  return known && known.version > heard.version ? known : heard;
}
