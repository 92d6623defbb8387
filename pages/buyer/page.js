// The buyer's page: hears what happens, shows it, and places the order.
//
// `known.js` keeps the newest of what was heard, `view.js` decides what to show of it, `live.js` keeps the line up.
// All text goes in as text: nothing here writes HTML.

import { Api, nearest } from "./api.js";
import { ServerClock } from "./clock.js";
import { Known } from "./known.js";
import { Line } from "./live.js";
import * as session from "./session.js";
import { lineText, noticeOf, view } from "./view.js";
import { count } from "./words.js";

const at = (id) => document.getElementById(id);
/** How often somebody who is not signed in, and so has no line, is shown the item anew. */
const LOOK_INTERVAL_MS = 15_000;
const absent = { title: "Cut off", text: "The shop does not answer. Trying again." };
const runOut = { title: "Signed out", text: "Your sign-in has run out. Sign in again." };
/** Ears get no more than one place in line in so long. */
const SAY_INTERVAL_MS = 10_000;

const clock = new ServerClock();
let region, itemId, known, api, line;
let signedIn = session.current();
let notice = null;
let isSending = false;
/** How long an order can be on its way to the line. */
let settleMs = 2_000;
const said = { text: "", caption: "", atMs: 0 };

async function start() {
  const settings = await (await fetch("settings.json")).json();
  const wish = new URLSearchParams(location.search);
  itemId = wish.get("item") ?? settings.item_id;
  known = new Known(itemId);
  const named = settings.regions.find(({ name }) => name === wish.get("region"));
  region = named ?? (await nearest(settings.regions, itemId));
  at("act").addEventListener("click", order);
  at("leave").addEventListener("click", leave);
  at("sign-in").addEventListener("submit", signIn);
  at("sign-out").addEventListener("click", () => signOut(null));
  setInterval(show, 250);
  setInterval(() => signedIn || document.hidden || look(), LOOK_INTERVAL_MS);
  await look();
  if (signedIn) connect();
  show();
}

/** Without a line there is at least the item, as the region last had it. */
async function look() {
  const answer = await new Api(region.api, itemId).item();
  if (answer.status === 200) {
    known.takeItem(answer.body);
    settleMs = answer.body.settle_window_ms;
    if (notice === absent) notice = null;
  } else if (!known.item) {
    notice = answer.problem === "no-such-item" ? noticeOf(answer) : absent;
    setTimeout(() => known.item || look(), LOOK_INTERVAL_MS * Math.random());
  }
}

function connect() {
  api = new Api(region.api, itemId, signedIn.token);
  line = new Line({ url: region.live, token: signedIn.token, itemId, hear, change });
}

function hear(message, receivedMs, sentMs) {
  const moment = message.type === "subscribed" ? message.order.at : message.at;
  if (Number.isFinite(moment)) clock.hear(moment, receivedMs, sentMs);
  const before = known.order?.status;
  if (known.take(message)) line.ask();
  if (notice?.isUnknown && message.type === "subscribed") settle(message.order);
  if (before !== known.order?.status && known.order?.status !== "none") notice = null;
  show();
}

/** An order of which nobody knew whether it is in line: the state knows, once nothing can be on its way any more. */
function settle(order) {
  if (order.status !== "none") notice = null;
  else if (order.version > notice.finalAfter) notice = { title: "Not taken", text: "Your order did not arrive. Nothing is in line." };
  else setTimeout(() => line?.ask(), settleMs);
}

function change(state) {
  if (state.name === "ended" && state.why === "bad-token") signOut(runOut);
  // A browser does not say why a handshake failed; the API does.
  else if (state.name === "cut") askWhy();
  show();
}

/** Whether the token is still good, and how the order stands meanwhile. */
async function askWhy() {
  const asked = line;
  const answer = await api.mine();
  if (asked !== line) return;
  if (answer.status === 401) signOut(runOut);
  if (answer.status === 200) known.takeOrder(answer.body, clock.atLeast(answer.sentMs));
  show();
}

async function order() {
  if (isSending) return;
  isSending = true;
  notice = null;
  show();
  const answer = await api.order();
  isSending = false;
  if (answer.status === 401) return signOut(runOut);
  notice = noticeOf(answer);
  const stamped = answer.status === 200 || answer.status === 202;
  if (stamped) known.isQueued(answer.body.placed_at, clock.atLeast(answer.sentMs), clock.nowMs(answer.receivedMs) * 1000);
  if (notice?.isUnknown) notice.finalAfter = (clock.nowMs(answer.receivedMs) + settleMs) * 1000;
  // What is refused is this order; an earlier one without an answer may have been taken.
  if (notice?.isUnknown || answer.status === 409 || answer.status === 410) line?.ask();
  show();
}

async function leave() {
  if (!confirm(`${at("leave").textContent}? There is no way back to the same place.`)) return;
  isSending = true;
  show();
  const answer = await api.leave();
  isSending = false;
  if (answer.status === 401) return signOut(runOut);
  if (answer.status === 200 || answer.status === 202 || answer.problem === "no-order") known.hasLeft();
  if (answer.status === 200 && answer.body?.status) known.takeOrder(answer.body, clock.atLeast(answer.sentMs));
  if (answer.status === 0 || answer.status >= 500) notice = { title: "We do not know yet", text: "No usable answer came back. You may still be in line." };
  line?.ask();
  show();
}

async function signIn(event) {
  event.preventDefault();
  const buyer = at("buyer").value.trim();
  try {
    await session.signIn(buyer);
    signedIn = session.current();
    notice = null;
    connect();
    at("act").focus();
  } catch {
    notice = { title: "Not signed in", text: "The login does not answer. Try again." };
  }
  show();
}

function signOut(why) {
  session.signOut();
  signedIn = null;
  notice = why;
  line?.close("signed-out");
  line = null;
  isSending = false;
  known.forgetOrder();
  show();
}

function show() {
  const nowMs = clock.nowMs();
  const state = line?.state ?? { name: "signed-out" };
  const shown = view({
    item: known.item, order: known.order, line: state, nowMs, clockIsKnown: clock.isKnown,
    notice, isSending, isSignedIn: Boolean(signedIn),
  });
  showItem(known.item);
  const isCut = state.name === "cut" || (state.name === "connecting" && Boolean(state.since)) || state.name === "ended";
  put(document.querySelector("main").dataset, "line", isCut ? "cut" : state.name);
  put(at("state").dataset, "mood", shown.mood);
  text("title", shown.title);
  text("text", shown.text);
  text("number", shown.figure?.number ?? "");
  text("caption", shown.figure?.caption ?? "");
  put(at("figure"), "hidden", !shown.figure);
  text("notice", shown.notice ? `${shown.notice.title}: ${shown.notice.text}` : "");
  put(at("notice"), "hidden", !shown.notice);
  button("act", shown.act?.label, shown.act?.isEnabled);
  button("leave", shown.leave, true);
  put(at("sign-in"), "hidden", Boolean(signedIn) || !known.item);
  put(at("sign-out"), "hidden", !signedIn);
  text("who", signedIn ? `Signed in as ${signedIn.buyer}.` : "");
  text("line-text", lineText(state, region?.name ?? "", Date.now()));
  say(shown, isCut);
}

function showItem(item) {
  put(at("stock"), "hidden", !item);
  if (!item) return;
  text("name", item.name);
  put(document, "title", item.name);
  text("left", count(item.stock_left));
  text("of", `of ${count(item.stock_total)} left`);
  const share = item.stock_total > 0 ? item.stock_left / item.stock_total : 0;
  put(at("bar").style, "width", `${(100 * share).toFixed(1)}%`);
}

/** Tells ears what has changed: a new state at once, a new place in line now and then, a countdown never. */
function say(shown, isCut) {
  const words = [shown.title, shown.text, shown.notice ? at("notice").textContent : "", isCut ? "Cut off: this is as it was." : ""];
  const text = words.filter(Boolean).join(" ");
  const caption = shown.figure && !shown.figure.ticks ? `${shown.figure.number}. ${shown.figure.caption}` : "";
  const isDue = Date.now() - said.atMs >= SAY_INTERVAL_MS;
  if (text === said.text && (caption === said.caption || !isDue)) return;
  at("aloud").textContent = text === said.text ? caption : `${text} ${caption}`;
  Object.assign(said, { text, caption, atMs: Date.now() });
}

function button(id, label, isEnabled) {
  put(at(id), "hidden", !label);
  put(at(id), "disabled", !isEnabled);
  if (label) text(id, label);
}

function text(id, words) {
  put(at(id), "textContent", words);
}

/** Writes only what is new, so that nothing is drawn or read aloud again. */
function put(target, name, value) {
  if (target[name] !== value) target[name] = value;
}

start().catch(() => {
  text("title", "The page could not start");
  text("text", "Its settings did not come. Reload it in a moment.");
});
