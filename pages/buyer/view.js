// What the page shows: a pure function of what is known. It never says more than that.

import { count, counted, left, timeOf } from "./words.js";

/** What an order's refusal means to the buyer. Names are those of docs/PROBLEMS.md. */
const REFUSALS = {
  "too-late": ["Too late on the way", "Your order took too long to the main region and is not in line. You may order again; your place will be that of the new order."],
  "main-unreachable": ["Not taken", "This region cannot reach the main region now, so nothing is in line. Try again in a moment."],
  "clock-ahead": ["Not taken", "This region's clock is off, so nothing is in line. Try again in a moment."],
  "clock-off": ["Not taken", "This region's clock is off, so nothing is in line. Try again in a moment."],
  "not-open-yet": ["Not open yet", "By your region's clock it was not open yet, and nothing is in line. Order again once it is."],
  closed: ["Closed", "Your order came after the end. Nothing is in line."],
  "sold-out": ["Sold out", "No unit is left and none is on hold. Nothing is in line."],
  "outcome-unknown": ["We do not know yet", "Your order was sent, and no answer came back. It may be in line. Ordering again is harmless: the first one counts."],
  "no-such-item": ["No such item", "There is nothing here by this name."],
  "already-reserved": ["You have one", "A unit is held for you already."],
  "already-sold": ["You have one", "You have bought one already. It is one to each buyer."],
};

/** What to say of an answer to an order; null where the order's own state says it all. */
export function noticeOf({ status, problem }) {
  if (status === 200 || status === 202 || status === 401) return null;
  if (REFUSALS[problem]) {
    const [title, text] = REFUSALS[problem];
    return { title, text, isUnknown: problem === "outcome-unknown" };
  }
  if (status === 429) return { title: "Too busy", text: "The region turned your order away before it had a place. Nothing is in line. Try again." };
  if (status >= 400 && status < 500) return { title: "Not taken", text: "Your order was refused, and nothing is in line." };
  const text = "No usable answer came back. Your order may be in line, or not. Ordering again is harmless: the first one counts.";
  return { title: status === 0 ? "Cut off" : "We do not know yet", text, isUnknown: true };
}

/**
 * What is to be shown.
 *
 * `model`: `item` and `order` as the socket says them, or null; `nowMs`: the server's clock; `clockIsKnown`;
 * `line`: the line's state; `isSending`, `notice`, `isSignedIn`.
 *
 * Returns `mood`, `title`, `text`, `figure` (`number`, `caption`, `ticks` where it changes each second), `notice`,
 * `act` (`label`, `isEnabled`) or null, `leave` (a label) or null.
 */
export function view(model) {
  const { item, order, nowMs, notice, isSending, isSignedIn } = model;
  if (!item) return { mood: "calm", title: notice?.title ?? "One moment …", text: notice?.text ?? "", act: null };
  const shown = { figure: null, act: null, leave: null, ...stand(item, order, nowMs, model.clockIsKnown) };
  if (!isSignedIn) {
    const says = shown.isOver ? shown.text : `${shown.text} Sign in to order.`.trim();
    return { ...shown, text: says, act: null, leave: null, notice };
  }
  if (!order && model.line.name !== "live" && shown.act) shown.text = `${shown.text} How your own order stands is not known yet.`.trim();
  if (notice && !shown.hasUnit) shown.notice = notice;
  if (isSending) return { ...shown, act: { label: "Sending …", isEnabled: false }, leave: null };
  return shown;
}

/** How the buyer's order stands, or else the item. */
function stand(item, order, nowMs, clockIsKnown) {
  switch (order?.status) {
    case "sold":
      return { mood: "good", title: "It is yours", text: `${item.name} is sold to you, and recorded.`, hasUnit: true, isOver: true };
    case "reserved":
      return reserved(order, nowMs, clockIsKnown);
    case "queued":
      return queued(item, order);
    case "released":
      return again(item, nowMs, clockIsKnown, "Yours went back", "The unit that was held for you was not paid in time, or you gave it back.");
    case "refused":
      return again(item, nowMs, clockIsKnown, "Not taken", order.reason === "closed" ? "Your order came after the end." : "Your order came before the opening.");
    default:
      return offer(item, nowMs, clockIsKnown);
  }
}

function reserved(order, nowMs, clockIsKnown) {
  if (order.cancelling) return { mood: "calm", title: "Going back", text: "You have given the unit back. It goes to the next in line.", hasUnit: true };
  const until = order.reserved_until;
  if (!until) return { mood: "wait", title: "A unit is taken out for you", text: "It is being recorded.", hasUnit: true };
  const leftMs = until / 1000 - nowMs;
  if (leftMs <= 0) return { mood: "warn", title: "The time to pay is over", text: "Unless your payment came in time, the unit goes to the next in line.", hasUnit: true };
  return {
    mood: "wait",
    title: `Reserved until ${timeOf(until, nowMs)}`,
    figure: clockIsKnown ? { number: left(leftMs), caption: "left to pay", ticks: true } : null,
    text: "One unit is held for you. It is yours once it is paid; otherwise it goes to the next in line.",
    leave: "Give it back",
    hasUnit: true,
  };
}

function queued(item, order) {
  const ahead = order.ahead;
  const figure =
    Number.isInteger(ahead) && { number: count(ahead + 1), caption: ahead === 0 ? "Your place in line: you are next." : `Your place in line. ${counted(ahead, "order is", "orders are")} before yours.` };
  const line = { mood: "wait", title: "You are in line", figure: figure || null, leave: "Leave the line", act: null };
  switch (item.phase) {
    case "sold_out":
      return { ...line, mood: "bad", title: "Sold out", text: "Every unit is taken. You keep your place, in case more are added." };
    case "paused":
      return { ...line, mood: "warn", title: "Paused", text: "Nothing is sold at the moment. You keep your place." };
    case "closed":
      return { ...line, text: "No more orders are taken. Yours is in line." };
    default:
      return { ...line, text: item.stock_left === 0 ? "Every unit is on hold for somebody. One that is not paid goes to the next in line." : "Units go out in the order in which people asked, wherever they are." };
  }
}

/** The buyer has had an order, and may have another where the item allows it. */
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
      return { mood: "warn", title: "Paused", text: "Orders are taken and keep their places, and nothing is sold until it goes on.", act: { label: "Order one", isEnabled: true } };
    case "sold_out":
      return { mood: "bad", title: "Sold out", text: "Every unit is taken, and none can come back.", act: { label: "Sold out", isEnabled: false }, isOver: true };
    case "closed":
      return { mood: "bad", title: "Closed", text: "No more orders are taken.", act: { label: "Closed", isEnabled: false }, isOver: true };
    default:
      return {
        mood: "calm",
        title: "Open",
        text: item.stock_left === 0 ? "Every unit is on hold for somebody. You can stand in line for one that comes back." : "One to each buyer. Who asked first is served first, wherever they are.",
        act: { label: "Order one", isEnabled: true },
      };
  }
}

/**
 * The server says when it is open. But who waits for that to be told loses time, so that the button works as
 * soon as the server's clock must have passed the opening; an order that is early is refused and costs nothing.
 */
function upcoming(item, nowMs, clockIsKnown) {
  const leftMs = item.opens_at / 1000 - nowMs;
  if (!clockIsKnown) return { mood: "calm", title: `Opens at ${timeOf(item.opens_at, nowMs)}`, text: "", act: { label: "Not open yet", isEnabled: false } };
  if (leftMs <= 0) return { mood: "wait", title: "Opening …", text: "", act: { label: "Order one", isEnabled: true } };
  return {
    mood: "calm",
    title: "Opens in",
    figure: { number: left(leftMs), caption: `at ${timeOf(item.opens_at, nowMs)}, by the shop's clock`, ticks: true },
    text: "",
    act: { label: "Not open yet", isEnabled: false },
  };
}

/** The line's state in words. */
export function lineText(line, region, nowMs) {
  switch (line.name) {
    case "live":
      return `Live, from ${region}`;
    case "ended":
      return "This page was opened elsewhere, and is not live any more. Reload it to go on here.";
    case "signed-out":
      return "Not live: sign in to follow it as it happens";
    case "cut":
    case "connecting": {
      if (!line.since) return `Connecting to ${region} …`;
      const wait = Math.ceil((line.again - nowMs) / 1000);
      const then = line.again && wait > 0 ? `Trying again in ${counted(wait, "second", "seconds")}.` : "Trying again …";
      return `Cut off since ${timeOf(line.since * 1000, nowMs)}. What you see is as it was then. ${then}`;
    }
    default:
      return "";
  }
}
