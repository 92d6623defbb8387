// The shop's checkout. The buyer is who the access token names, the same as on the buyer's page: the token is in the
// header of each request, and never in an address. All texts are inserted as text.

import * as session from "./session.js";
import { price, view } from "./view.js";

const at = (id) => document.getElementById(id);
/** The shop answers a payment within 20 s. */
const ANSWER_LIMIT_MS = 35_000;
/** How often the shop is asked while a payment is under way. */
const ASK_INTERVAL_MS = 1_500;

const wish = new URLSearchParams(location.search);
const itemId = wish.get("item") ?? "";
const buyer = session.current();
let checkout = null;
let clockMs = 0;
let trouble = null;
let isPaying = false;

/** Sends a request to the shop, and takes the checkout in its answer. */
async function call(path, body) {
  try {
    const response = await fetch(`api/items/${encodeURIComponent(itemId)}${path}`, {
      method: body ? "POST" : "GET",
      headers: { authorization: `Bearer ${buyer.token}`, ...(body && { "content-type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
      credentials: "omit",
    });
    const answer = await response.json();
    trouble = response.status === 401 ? "Your sign-in has expired. Please sign in again on the item's page." : null;
    if (response.status === 409) return call("");
    if (!response.ok) throw new Error(answer.message);
    checkout = { ...checkout, ...answer };
    clockMs = answer.at / 1000 - Date.now();
  } catch {
    trouble ??= "The shop does not answer. If you have paid, it goes on with that; this page asks again.";
  }
}

async function pay(event) {
  event.preventDefault();
  if (isPaying) return;
  isPaying = true;
  show();
  await call("/payments", { card: at("card").value });
  isPaying = false;
  show();
}

function show() {
  const nowMs = Date.now() + clockMs;
  const shown = checkout ? view(checkout, nowMs) : { mood: "neutral", title: "One moment …", text: "" };
  put(at("state").dataset, "mood", shown.mood);
  put(at("title"), "textContent", isPaying ? "Your card is being charged" : shown.title);
  put(at("text"), "textContent", trouble ?? (isPaying ? "Please wait." : shown.text));
  put(at("number"), "textContent", shown.number ?? "");
  put(at("figure"), "hidden", !shown.number);
  put(at("pay"), "hidden", !shown.act);
  put(at("act"), "disabled", isPaying);
  put(at("act"), "textContent", isPaying ? "Paying …" : (shown.act ?? ""));
  put(at("name"), "textContent", checkout?.name ?? "…");
  put(at("price"), "textContent", checkout ? `One unit, ${price(checkout)}` : "");
  return shown;
}

/** Writes only changes, so that nothing is drawn or announced again. */
function put(target, name, value) {
  if (target[name] !== value) target[name] = value;
}

async function watch() {
  const isDue = !isPaying && !document.hidden && (!checkout || trouble || show().isPending);
  if (isDue) await call("");
  show();
  setTimeout(watch, ASK_INTERVAL_MS);
}

at("back").href = `../buyer/?${wish}`;
at("pay").addEventListener("submit", pay);
if (buyer && itemId) {
  put(at("who"), "textContent", `Signed in as ${buyer.buyer}.`);
  setInterval(show, 250);
  watch();
} else {
  at("title").textContent = "Please sign in";
  at("text").textContent = "The checkout is for a signed-in buyer. Please sign in on the item's page.";
}
