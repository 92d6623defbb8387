// What the page shows: a pure function of the known state. It never claims more than is known.

import { count, counted, left, timeOf } from "./words.js";

/** The meaning of a refusal for the buyer. The names are those of docs/PROBLEMS.md. */
const REFUSALS = {
  "too-late": ["Too late", "Your order took too long to reach the main region and is not in the queue. You may order again; your place will be that of the new order."],
  "main-unreachable": ["Not accepted", "This region cannot reach the main region at the moment, so your order is not in the queue. Please try again in a moment."],
  "clock-ahead": ["Not accepted", "The clock of this region is wrong, so your order is not in the queue. Please try again in a moment."],
  "clock-off": ["Not accepted", "The clock of this region is wrong, so your order is not in the queue. Please try again in a moment."],
  "not-open-yet": ["Not open yet", "Your order came before the opening and is not in the queue. Please order again after the opening."],
  closed: ["Closed", "Your order came after the sale had closed and is not in the queue."],
  "sold-out": ["Sold out", "All units are sold. Your order is not in the queue."],
  "outcome-unknown": ["We do not know yet", "Your order was sent, but no answer came back. It may be in the queue. You can safely order again: the first order counts."],
  "no-such-item": ["No such item", "There is no item with this name."],
  "already-reserved": ["You have one", "A unit is already reserved for you."],
  "already-sold": ["You have one", "You have already bought one. Each buyer can buy one unit."],
};

/** Whether the buyer has an order or a unit. */
export function hasOrder(order) {
  return ["accepted", "queued", "reserved", "sold"].includes(order?.status);
}

/** The notice while an order is repeated, because its answer said nothing about it. */
export function repeating({ status }) {
  const why = status === 0 ? "No answer came back" : "The shop is very busy";
  return { title: "Sending again", text: `${why}. The page repeats your order by itself; the first order counts.` };
}

/**
 * The notice for an answer to an order; null if the order's state says enough. If the answer is a refusal, and an earlier
 * attempt had no answer, that one may be in the queue.
 */
export function noticeOf({ status, problem, isAfterSilence }) {
  if (status === 200 || status === 202 || status === 401) return null;
  const notice = noticeOfRefusal(status, problem);
  // A buyer who has a unit has no order that could be unknown.
  if (!isAfterSilence || notice.isUnknown || problem?.startsWith("already-")) return notice;
  return { title: "We do not know yet", text: "Your last order is not in the queue. No usable answer came back to an earlier one, which may be in the queue.", isUnknown: true };
}

function noticeOfRefusal(status, problem) {
  if (REFUSALS[problem]) {
    const [title, text] = REFUSALS[problem];
    return { title, text, isUnknown: problem === "outcome-unknown" };
  }
  if (status === 429) return { title: "Too busy", text: "Too many orders arrived at once, and yours is not in the queue. Please try again." };
  if (status >= 400 && status < 500) return { title: "Not accepted", text: "Your order was refused and is not in the queue." };
  const text = "No usable answer came back. Your order may or may not be in the queue. You can safely order again: the first order counts.";
  return { title: status === 0 ? "No connection" : "We do not know yet", text, isUnknown: true };
}

/**
 * Decides what the page shows.
 *
 * `model`: `item` and `order` as received, or null; `nowMs`: the server's clock; `clockIsKnown`;
 * `connection`: its state; `isSending`, `notice`, `isSignedIn`.
 *
 * Returns `mood`, `title`, `text`, `figure` (`number`, `caption`, `ticks` if it changes each second), `notice`,
 * `act` (`label`, `isEnabled`) or null, `leave` (a label) or null, `canPay`.
 */
export function view(model) {
  const { item, order, nowMs, notice, isSending, isSignedIn } = model;
  if (!item) return { mood: "neutral", title: notice?.title ?? "One moment …", text: notice?.text ?? "", act: null };
  const shown = { figure: null, act: null, leave: null, ...orderState(item, order, nowMs, model.clockIsKnown) };
  if (!isSignedIn) {
    const withHint = shown.isOver ? shown.text : `${shown.text} Sign in to order.`.trim();
    return { ...shown, text: withHint, act: null, leave: null, canPay: false, notice };
  }
  if (!order && model.connection.name !== "live" && shown.act) shown.text = `${shown.text} The state of your own order is not known yet.`.trim();
  if (notice && !shown.hasUnit) shown.notice = notice;
  if (isSending) return { ...shown, act: { label: "Sending …", isEnabled: false }, leave: null };
  return shown;
}

/** Why an order was refused after it had been taken. */
const REFUSED = {
  "not-open-yet": "Your order came before the opening.",
  closed: "Your order came after the sale had closed.",
  "too-late": "Your order reached the checkout too late.",
  "clock-ahead": "The clock of your region is wrong.",
  "no-such-item": "There is no item with this name.",
};

/** The state of the buyer's order, or of the item. */
function orderState(item, order, nowMs, clockIsKnown) {
  switch (order?.status) {
    case "sold":
      return { mood: "good", title: "It is yours", text: `You have bought ${item.name}. The sale is recorded.`, hasUnit: true, isOver: true };
    case "reserved":
      return reserved(order, nowMs, clockIsKnown);
    case "accepted":
      return accepted(order, nowMs, clockIsKnown);
    case "queued":
      return queued(item, order);
    case "released":
      return again(item, nowMs, clockIsKnown, "Your reservation has ended", "Your reservation was not paid in time, or you cancelled it.");
    case "voided":
      return again(item, nowMs, clockIsKnown, "Your unit was taken back", "The shop has taken your reservation or purchase back. Please ask the shop about it.");
    case "excluded":
      return { mood: "warn", title: "No unit for you", text: `The shop has excluded you from ${item.name}. Please ask the shop about it.`, isOver: true };
    case "over":
      // While the item opens again, the state of the order is about the sale before.
      return item.phase === "closed" ? over(item) : offer(item, nowMs, clockIsKnown);
    case "refused":
      return again(item, nowMs, clockIsKnown, "Not accepted", REFUSED[order.reason] ?? "The checkout did not queue your order.");
    default:
      return offer(item, nowMs, clockIsKnown);
  }
}

/** The region has stored the order; the main region has not decided about it. */
function accepted(order, nowMs, clockIsKnown) {
  const shown = { mood: "wait", title: "Your order is stored", leave: "Withdraw the order", act: null };
  const until = order.decided_by;
  if (!clockIsKnown || !until || nowMs * 1000 < until) {
    const by = until ? ` You will know by ${timeOf(until, nowMs)} whether it is in the queue.` : "";
    return { ...shown, text: `It is on its way to the checkout. Its place in the queue is the moment at which it reached your region.${by}` };
  }
  return {
    ...shown,
    mood: "warn",
    title: "Your order is still waiting",
    text: "The checkout has not answered in time. Your order is stored and may still come into the queue. You can safely order again: the first order that the checkout gets counts.",
    act: { label: "Order again", isEnabled: true },
  };
}

function reserved(order, nowMs, clockIsKnown) {
  if (order.cancelling) return { mood: "neutral", title: "Cancelling", text: "You have cancelled your reservation. The unit goes to the next buyer in the queue.", hasUnit: true };
  const until = order.reserved_until;
  if (!until) return { mood: "wait", title: "A unit is reserved for you", text: "The reservation is being recorded.", hasUnit: true };
  const leftMs = until / 1000 - nowMs;
  if (leftMs <= 0) return { mood: "warn", title: "The time to pay is over", text: "Unless your payment arrived in time, the unit goes to the next buyer in the queue.", hasUnit: true };
  return {
    mood: "wait",
    title: `Reserved until ${timeOf(until, nowMs)}`,
    figure: clockIsKnown ? { number: left(leftMs), caption: "left to pay", ticks: true } : null,
    text: "One unit is reserved for you. It is yours when it is paid; otherwise it goes to the next buyer in the queue.",
    leave: "Cancel the reservation",
    canPay: true,
    hasUnit: true,
  };
}

function queued(item, order) {
  const ahead = order.ahead;
  const figure =
    Number.isInteger(ahead) && { number: count(ahead + 1), caption: ahead === 0 ? "Your place in the queue: you are next." : `Your place in the queue. ${counted(ahead, "order is", "orders are")} before yours.` };
  const shown = { mood: "wait", title: "You are in the queue", figure: figure || null, leave: "Leave the queue", act: null };
  switch (item.phase) {
    case "sold_out":
      return { ...shown, mood: "bad", title: "Sold out", text: "All units are sold. You keep your place in case more units are added." };
    case "paused":
      return { ...shown, mood: "warn", title: "Paused", text: "The sale is paused. You keep your place." };
    case "closed":
      return { ...shown, text: "No more orders are accepted. Yours is in the queue." };
    default:
      return { ...shown, text: chances(item.stock_left, ahead) };
  }
}

/** The item was finished, and the buyer has no unit. */
function over(item) {
  return { mood: "bad", title: "The sale is over", text: `The sale of ${item.name} has ended, and you have no unit. Orders that were still waiting have ended, too.`, act: { label: "Closed", isEnabled: false }, isOver: true };
}

/** The units that are left, compared with the orders before this one: both change while the sale goes on. */
function chances(unitsLeft, ahead) {
  if (unitsLeft === 0) return "All units are reserved for other buyers. A unit that is not paid goes to the next buyer in the queue.";
  if (!Number.isInteger(unitsLeft) || !Number.isInteger(ahead)) return "Units are sold in the order in which buyers ordered, wherever they are.";
  const units = counted(unitsLeft, "unit is", "units are");
  if (unitsLeft > ahead) return `${units} left: enough for the orders before yours and for yours.`;
  return `${units} left, for ${counted(ahead, "order", "orders")} before yours. You get one if enough of these buyers do not pay or leave the queue.`;
}

/** The buyer's order has ended, and another one is possible if the item is open. */
function again(item, nowMs, clockIsKnown, title, text) {
  const next = offer(item, nowMs, clockIsKnown);
  const then = next.act?.isEnabled ? "You may order again." : `${next.title}.`;
  return { mood: "warn", title, text: `${text} ${then}`, act: next.act?.isEnabled ? { label: "Order again", isEnabled: true } : null };
}

function offer(item, nowMs, clockIsKnown) {
  switch (item.phase) {
    case "upcoming":
      return upcoming(item, nowMs, clockIsKnown);
    case "paused":
      return { mood: "warn", title: "Paused", text: "Orders are accepted and keep their places. Units are sold again when the sale resumes.", act: { label: "Order one", isEnabled: true } };
    case "sold_out":
      return { mood: "bad", title: "Sold out", text: "All units are sold.", act: { label: "Sold out", isEnabled: false }, isOver: true };
    case "closed":
      return { mood: "bad", title: "Closed", text: "No more orders are accepted.", act: { label: "Closed", isEnabled: false }, isOver: true };
    default:
      return {
        mood: "neutral",
        title: "Open",
        text: item.stock_left === 0 ? "All units are reserved for other buyers. You can join the queue for a unit that becomes available again." : "One unit for each buyer. The first orders are served first, wherever the buyers are.",
        act: { label: "Order one", isEnabled: true },
      };
  }
}

/**
 * The server reports the opening. A page that waited for the message would lose time, so the button works as
 * soon as the server's clock must have passed the opening. An order that is too early is refused and costs nothing.
 */
function upcoming(item, nowMs, clockIsKnown) {
  const leftMs = item.opens_at / 1000 - nowMs;
  if (!clockIsKnown) return { mood: "neutral", title: `Opens at ${timeOf(item.opens_at, nowMs)}`, text: "", act: { label: "Not open yet", isEnabled: false } };
  if (leftMs <= 0) return { mood: "wait", title: "Opening …", text: "", act: { label: "Order one", isEnabled: true } };
  return {
    mood: "neutral",
    title: "Opens in",
    figure: { number: left(leftMs), caption: `at ${timeOf(item.opens_at, nowMs)}, by the shop's clock`, ticks: true },
    text: "",
    act: { label: "Not open yet", isEnabled: false },
  };
}

/** The state of the connection in words. */
export function connectionText(connection, region, nowMs) {
  switch (connection.name) {
    case "live":
      return `Live, from ${region}`;
    case "ended":
      return "This page is not live any more, because it was opened elsewhere. Reload it to continue here.";
    case "signed-out":
      return "Not live: sign in to see changes as they happen";
    case "disconnected":
    case "connecting": {
      if (!connection.since) return `Connecting to ${region} …`;
      const wait = Math.ceil((connection.again - nowMs) / 1000);
      const then = connection.again && wait > 0 ? `Trying again in ${counted(wait, "second", "seconds")}.` : "Trying again …";
      return `Disconnected since ${timeOf(connection.since * 1000, nowMs)}. The page shows the state of that time. ${then}`;
    }
    default:
      return "";
  }
}
