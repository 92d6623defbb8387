// The buyer's page: receives changes, shows them, and places the order.
//
// `known.js` keeps the newest state, `view.js` decides what to show, `live.js` keeps the connection open.
// All texts are inserted as text; no code here writes HTML.

import { Api, nearest } from "./api.js";
import { ServerClock } from "./clock.js";
import { Known } from "./known.js";
import { LiveConnection } from "./live.js";
import { untilUsable } from "./repeat.js";
import * as session from "./session.js";
import { connectionText, hasOrder, noticeOf, repeating, view } from "./view.js";
import { count } from "./words.js";

const at = (id) => document.getElementById(id);
/** How often the item is requested while the buyer is not signed in, and so has no live connection. */
const ITEM_INTERVAL_MS = 15_000;
const unavailable = { title: "No connection", text: "The shop does not answer. Trying again." };
const expired = { title: "Signed out", text: "Your sign-in has expired. Please sign in again." };
/** A screen reader announces the place in the queue at most once in this time. */
const ANNOUNCE_INTERVAL_MS = 10_000;

const clock = new ServerClock();
let region, itemId, known, api, connection, shop;
let signedIn = session.current();
let notice = null;
let isSending = false;
/** The stamp of the accepted order about which the page has asked after it should have been decided. */
let askedAbout = 0;
/** How long an order can be in transit to the queue: main refuses older ones. */
const MAX_WINDOW_MS = 10_000;
const announced = { text: "", caption: "", atMs: 0 };

async function start() {
  const settings = await (await fetch("settings.json")).json();
  const wish = new URLSearchParams(location.search);
  itemId = wish.get("item") ?? settings.item_id;
  known = new Known(itemId);
  const named = settings.regions.find(({ name }) => name === wish.get("region"));
  region = named ?? (await nearest(settings.regions, itemId));
  shop = settings.shop;
  at("act").addEventListener("click", order);
  at("leave").addEventListener("click", leave);
  at("sign-in").addEventListener("submit", signIn);
  at("sign-out").addEventListener("click", () => signOut(null));
  setInterval(show, 250);
  setInterval(() => signedIn || document.hidden || loadItem(), ITEM_INTERVAL_MS);
  await loadItem();
  if (signedIn) connect();
  show();
}

/** Loads the item over HTTP, as the region last read it. */
async function loadItem() {
  const answer = await new Api(region.api, itemId).item();
  if (answer.status === 200) {
    known.takeItem(answer.body);
    if (notice === unavailable) notice = null;
  } else if (!known.item) {
    notice = answer.problem === "no-such-item" ? noticeOf(answer) : unavailable;
    setTimeout(() => known.item || loadItem(), ITEM_INTERVAL_MS * Math.random());
  }
}

function connect() {
  api = new Api(region.api, itemId, signedIn.token);
  connection = new LiveConnection({ url: region.live, token: signedIn.token, itemId, receive, change });
}

function receive(message, receivedMs, sentMs) {
  const moment = message.type === "subscribed" ? message.order.at : message.at;
  if (Number.isFinite(moment)) clock.observe(moment, receivedMs, sentMs);
  const before = known.order?.status;
  if (known.take(message)) connection.ask();
  if (notice?.isUnknown && message.type === "subscribed") settle(message.order);
  if (before !== known.order?.status && known.order?.status !== "none") notice = null;
  show();
}

/** Settles an order with an unknown outcome: the state is final when the order can no longer be in transit. */
function settle(order) {
  if (order.status !== "none") notice = null;
  else if (order.version > notice.finalAfter) notice = { title: "Not accepted", text: "Your order did not arrive and is not in the queue." };
  else setTimeout(() => connection?.ask(), MAX_WINDOW_MS);
}

function change(state) {
  if (state.name === "ended" && state.why === "bad-token") signOut(expired);
  // A browser does not report why a handshake failed; the API does.
  else if (state.name === "disconnected") askWhy();
  show();
}

/** Checks whether the token is still valid, and reads the order meanwhile. */
async function askWhy() {
  const asked = connection;
  const answer = await api.mine();
  if (asked !== connection) return;
  if (answer.status === 401) signOut(expired);
  if (answer.status === 200) known.takeOrder(answer.body, clock.atLeast(answer.sentMs));
  show();
}

async function order() {
  if (isSending) return;
  isSending = true;
  notice = null;
  show();
  const [buyer, before] = [signedIn, known.order];
  const isKnown = () => known.order !== before && hasOrder(known.order);
  const answer = await untilUsable(() => api.order(), {
    isWanted: () => signedIn === buyer && !isKnown(),
    repeats: (last) => {
      if (signedIn !== buyer) return;
      notice = repeating(last);
      show();
    },
  });
  if (signedIn !== buyer) return;
  isSending = false;
  if (answer.status === 401) return signOut(expired);
  notice = isKnown() ? null : noticeOf(answer);
  const stamped = answer.status === 200 || answer.status === 202;
  if (stamped) {
    const { status, placed_at, decided_by } = answer.body;
    known.isStored({ status, placed_at, decided_by }, clock.atLeast(answer.sentMs), clock.nowMs(answer.receivedMs) * 1000);
  }
  if (notice?.isUnknown) notice.finalAfter = (clock.nowMs(answer.receivedMs) + MAX_WINDOW_MS) * 1000;
  // This order was refused, and an earlier one without an answer may have been accepted; or it was accepted, which live
  // updates do not know before the next subscription.
  if (notice?.isUnknown || answer.status === 409 || answer.status === 410 || known.order?.status === "accepted") connection?.ask();
  show();
}

async function leave() {
  if (!confirm(`${at("leave").textContent}? You cannot return to the same place.`)) return;
  isSending = true;
  show();
  const answer = await api.leave();
  isSending = false;
  if (answer.status === 401) return signOut(expired);
  if (answer.status === 200 || answer.status === 202 || answer.problem === "no-order") known.hasLeft();
  if (answer.status === 200 && answer.body?.status) known.takeOrder(answer.body, clock.atLeast(answer.sentMs));
  if (answer.status === 0 || answer.status >= 500) notice = { title: "We do not know yet", text: "No usable answer came back. You may still be in the queue." };
  connection?.ask();
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
    notice = { title: "Not signed in", text: "The login does not answer. Please try again." };
  }
  show();
}

function signOut(why) {
  session.signOut();
  signedIn = null;
  notice = why;
  connection?.close("signed-out");
  connection = null;
  isSending = false;
  known.forgetOrder();
  show();
}

function show() {
  const nowMs = clock.nowMs();
  const state = connection?.state ?? { name: "signed-out" };
  askIfOverdue(nowMs);
  const shown = view({
    item: known.item, order: known.order, connection: state, nowMs, clockIsKnown: clock.isKnown,
    notice, isSending, isSignedIn: Boolean(signedIn),
  });
  showItem(known.item);
  const isDisconnected = state.name === "disconnected" || (state.name === "connecting" && Boolean(state.since)) || state.name === "ended";
  put(document.querySelector("main").dataset, "connection", isDisconnected ? "disconnected" : state.name);
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
  put(at("pay"), "hidden", !(shop && shown.canPay));
  if (shop) put(at("pay"), "href", new URL(`${shop}?${new URLSearchParams({ item: itemId, region: region.name })}`, location).href);
  put(at("sign-in"), "hidden", Boolean(signedIn) || !known.item);
  put(at("sign-out"), "hidden", !signedIn);
  text("who", signedIn ? `Signed in as ${signedIn.buyer}.` : "");
  text("connection-text", connectionText(state, region?.name ?? "", Date.now()));
  announce(shown, isDisconnected);
}

/** Asks again about an accepted order that should be decided by now: a message may have been lost. */
function askIfOverdue(nowMs) {
  const order = known.order;
  if (order?.status !== "accepted" || order.placed_at === askedAbout || nowMs * 1000 < order.decided_by) return;
  askedAbout = order.placed_at;
  connection?.ask();
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

/** Announces changes to screen readers: a new state at once, a new place in the queue now and then, a countdown never. */
function announce(shown, isDisconnected) {
  const words = [shown.title, shown.text, shown.notice ? at("notice").textContent : "", isDisconnected ? "Disconnected: the page shows an older state." : ""];
  const text = words.filter(Boolean).join(" ");
  const caption = shown.figure && !shown.figure.ticks ? `${shown.figure.number}. ${shown.figure.caption}` : "";
  const isDue = Date.now() - announced.atMs >= ANNOUNCE_INTERVAL_MS;
  if (text === announced.text && (caption === announced.caption || !isDue)) return;
  at("announcement").textContent = text === announced.text ? caption : `${text} ${caption}`;
  Object.assign(announced, { text, caption, atMs: Date.now() });
}

function button(id, label, isEnabled) {
  put(at(id), "hidden", !label);
  put(at(id), "disabled", !isEnabled);
  if (label) text(id, label);
}

function text(id, words) {
  put(at(id), "textContent", words);
}

/** Writes only changes, so that nothing is drawn or announced again. */
function put(target, name, value) {
  if (target[name] !== value) target[name] = value;
}

start().catch(() => {
  text("title", "The page could not start");
  text("text", "Its settings could not be loaded. Please reload the page in a moment.");
});
