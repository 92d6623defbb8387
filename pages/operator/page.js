// The operator's page: requests the figures every two seconds and shows them.
//
// The figures are the functions' metrics; the item comes from the public API. `figures.js` computes, `charts.js`
// draws. All texts are inserted as text; no code here writes HTML.

import { draw, range, short, spark } from "./charts.js";
import { by, find, held, largest, newest, perSecond, runningTotal, sum, total } from "./figures.js";

const KEY = "fairdrop.operator";
const ASK_INTERVAL_MS = 2_000;
const ANSWER_LIMIT_MS = 10_000;
/** Figures older than this are shown as out of date. */
const OLD_MS = 8_000;
/** Metrics of the same fact: without an order log, and with one. */
const QUEUED = ["orders_queued", "orders_placed"];
const REFUSED = ["orders_refused", "log_orders_refused"];
const TRANSIT = ["transit_ms", "placement_age_ms"];

const at = (id) => document.getElementById(id);
const whole = (number) => new Intl.NumberFormat().format(Math.round(number));
const phases = { upcoming: "Not open yet", open: "Open", paused: "Paused", sold_out: "Sold out", closed: "Closed" };

let settings, itemId;
/** The units left by the public API, each with its time (ms). */
const stock = [];
let item = null;
let gotMs = 0;

async function start() {
  settings = await (await fetch("settings.json")).json();
  itemId = new URLSearchParams(location.search).get("item") ?? settings.item_id;
  at("sign-in").addEventListener("submit", signIn);
  at("sign-out").addEventListener("click", () => leave(""));
  for (;;) {
    await round().catch(() => {});
    showFreshness();
    await new Promise((resume) => setTimeout(resume, ASK_INTERVAL_MS));
  }
}

function signIn(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("token").value.trim());
  at("token").value = "";
  round().catch(() => {
    at("refused").textContent = "The figures could not be loaded. Try again in a moment.";
  });
}

function leave(why) {
  sessionStorage.removeItem(KEY);
  at("refused").textContent = why;
  gotMs = 0;
  showWho(false);
}

function showWho(isIn) {
  at("sign-in").hidden = isIn;
  at("board").hidden = !isIn;
  at("sign-out").hidden = !isIn;
  if (!isIn) at("fresh").textContent = at("phase").textContent = "";
}

async function round() {
  const token = sessionStorage.getItem(KEY);
  if (!token) return showWho(false);
  const limit = () => ({ signal: AbortSignal.timeout(ANSWER_LIMIT_MS), credentials: "omit" });
  const [answer, page] = await Promise.all([
    fetch("figures.json", { ...limit(), headers: { authorization: `Bearer ${token}` } }),
    fetch(`${settings.regions[0].api}/items/${encodeURIComponent(itemId)}`, limit()).catch(() => null),
  ]);
  if (answer.status === 401) return leave("This is not the operator's token.");
  if (!answer.ok) throw new Error(`the server answered the request for figures with status ${answer.status}`);
  const figures = await answer.json();
  if (page?.ok) {
    item = await page.json();
    stock.push([figures.at / 1000, item.stock_left]);
    while (stock.length > 1 && stock[1][0] < figures.from / 1000) stock.shift();
  }
  gotMs = Date.now();
  at("refused").textContent = "";
  showWho(true);
  show(figures);
}

function showFreshness() {
  if (!gotMs) return;
  const age = Date.now() - gotMs;
  at("fresh").dataset.old = String(age > OLD_MS);
  const words = age > OLD_MS ? "No connection: these figures are out of date" : "Live";
  if (at("fresh").textContent !== words) at("fresh").textContent = words;
}

function show({ from, step_seconds: stepSeconds, results }) {
  const steps = results[0]?.values.length ?? 90;
  const of = (metrics, statistic = "Sum") => {
    const found = find(results, metrics, statistic);
    return found.filter(({ dimensions }) => !dimensions.Item || dimensions.Item === itemId);
  };
  const rate = (found) => perSecond(sum(found, steps), stepSeconds);
  const end = (values) => short(values.findLast((value) => value !== null) ?? null);
  at("name").textContent = document.title = item?.name ?? itemId;
  at("phase").textContent = item ? phases[item.phase] ?? item.phase : "";

  const sold = total(find(results, "payments", "Sum", { Status: "sold" }));
  const [waiting, drainLag, recordLag, settleDelay] = ["orders_waiting", "drain_lag_ms", "record_lag_ms", "settle_delay_ms"].map((metric) => held(largest(of(metric, "Maximum"), steps)));
  const accepted = total(of("orders_accepted"));
  const queuedRate = `${end(rate(of(QUEUED)))} a second`;
  const failures = ["drain_failures", "worker_failures", "dead_letters", "lease_renewals_failed"].map((metric) => total(of(metric))).reduce((a, b) => a + b);
  tiles([
    ["Units left", item ? whole(item.stock_left) : "–", item ? `of ${whole(item.stock_total)}` : ""],
    ["Orders queued", whole(total(of(QUEUED))), accepted ? `${queuedRate}; ${whole(accepted)} in order logs` : queuedRate],
    ["Orders refused", whole(total(of(REFUSED))), by(of(REFUSED), "Reason")[0]?.[0] ?? "none"],
    ["In the queue", end(waiting), "orders wait for a unit"],
    ["Reserved", whole(total(of("reservations"))), `${whole(sold)} paid, ${whole(total(of("reservations_released")))} released`],
    ["Faults", whole(failures), failures ? "drain, worker, lease" : "none", failures > 0],
  ]);

  const regionNames = settings.regions.map(({ name }) => name);
  const perRegion = (metrics) => regionNames.map((name, index) => {
    const values = rate(of(metrics).filter(({ dimensions }) => dimensions.Region === name));
    return { name, series: (index % 8) + 1, values, now: end(values) };
  });
  const reasons = by(of(REFUSED), "Reason").slice(0, 8).map(([name, found], index) => {
    const values = rate(found);
    return { name, series: (index % 8) + 1, values, now: whole(total(found)) };
  });
  const running = (name, series, found, all) => ({ name, series, values: runningTotal(sum(found, steps), all), now: whole(all) });
  const single = (name, series, values, more = {}) => ({ name, series, values, now: end(values), ...more });
  charts(stepSeconds, steps, [
    ["Orders queued", "a second", perRegion(QUEUED)],
    ["Orders refused, by reason", "a second", reasons],
    ["Units", "", [
      single("left", 3, stockValues(from, stepSeconds, steps), { isFilled: true }),
      running("reserved", 1, of("reservations"), total(of("reservations"))),
      running("paid", 4, find(results, "payments", "Sum", { Status: "sold" }), sold),
      running("released", 2, of("reservations_released"), total(of("reservations_released"))),
    ]],
    ["In the queue", "orders", [single("waiting", 3, waiting, { isFilled: true })]],
    ["Settle delay and drain lag", "ms", [
      single("delay of the watermark", 2, settleDelay),
      single("behind the watermark, at most", 1, drainLag),
    ]],
    ["In transit", "ms", [
      single("to main, p50", 1, largest(of(TRANSIT, "p50"), steps)),
      single("p99", 1, largest(of(TRANSIT, "p99"), steps), { isDashed: true }),
      single("to the ledger, at most", 2, recordLag),
    ]],
  ]);
  regions(results, stepSeconds, steps);
}

/** The units left at the end of each step, by the last answer before it. */
function stockValues(from, stepSeconds, steps) {
  return Array.from({ length: steps }, (_, step) => {
    const end = from / 1000 + (step + 1) * stepSeconds * 1000;
    return stock.findLast(([ms]) => ms <= end)?.[1] ?? null;
  });
}

function tiles(all) {
  const made = all.map(([name, figure, more, isBad]) => {
    const tile = element("div", "", "tile");
    tile.dataset.bad = String(Boolean(isBad));
    const value = element("dd", figure);
    value.append(element("small", more));
    tile.append(element("dt", name), value);
    return tile;
  });
  at("tiles").replaceChildren(...made);
}

function charts(stepSeconds, steps, all) {
  const board = at("charts");
  while (board.children.length < all.length) board.append(element("figure", "", "chart"));
  all.forEach(([title, unit, lines], index) => draw(board.children[index], { title, unit, steps, stepSeconds, lines }));
}

function regions(results, stepSeconds, steps) {
  const offsets = find(results, "clock_offset_low_ms", "Average").concat(find(results, "clock_offset_high_ms", "Average"));
  const widest = Math.max(1, ...offsets.map((one) => Math.abs(newest(one) ?? 0)));
  const rows = settings.regions.map((region, index) => {
    const mine = (metrics, statistic = "Sum") => find(results, metrics, statistic, { Region: region.name });
    const rate = perSecond(sum(mine(QUEUED), steps), stepSeconds);
    const reasons = by(mine(REFUSED), "Reason").map(([reason, found]) => `${reason} ${whole(total(found))}`);
    const [p50, p99] = ["p50", "p99"].map((statistic) => mine(TRANSIT, statistic)[0]);
    const [low, high] = ["clock_offset_low_ms", "clock_offset_high_ms"].map((metric) => newest(mine(metric, "Average")[0]));
    const head = element("th", region.name);
    head.scope = "row";
    head.append(element("small", index === 0 ? "main region" : `${short(region.round_trip_ms)} ms round trip`));
    const row = document.createElement("tr");
    row.append(
      head,
      element("td", whole(total(mine(QUEUED)))),
      cell(spark(rate, `orders a second: now ${short(rate.at(-1))}, at most ${short(Math.max(...rate))}`)),
      element("td", reasons.join(", ") || "none", "reasons"),
      element("td", milliseconds(newest(p50))),
      element("td", milliseconds(newest(p99))),
      cell(spark(p50 ? p50.values : [], `median time in transit: ${milliseconds(newest(p50))}`)),
      low === null || high === null ? element("td", "–") : clock(low, high, widest),
    );
    return row;
  });
  at("regions").replaceChildren(...rows);
}

function clock(low, high, widest) {
  const words = `${signed(low)} to ${signed(high)}`;
  const made = cell(range(low, high, widest, `clock offset, ms: ${words}`));
  const figure = element("span", words);
  figure.ariaHidden = "true";
  made.append(figure);
  return made;
}

function milliseconds(value) {
  return value === null ? "–" : `${short(value)} ms`;
}

function signed(value) {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${short(Math.abs(value))}`;
}

function cell(content) {
  const made = document.createElement("td");
  made.append(content);
  return made;
}

function element(name, words, className) {
  const made = document.createElement(name);
  made.textContent = words;
  if (className) made.className = className;
  return made;
}

start().catch(() => {
  at("name").textContent = "The page could not start: its settings could not be loaded";
});
