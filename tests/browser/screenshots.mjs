// Takes the pictures of README.md: the system as `make up` runs it, a crowd that orders, and two browsers.
// usage: FAIRDROP_LOCAL=path/to/fairdrop-local node screenshots.mjs FOLDER [--dark]

import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { open } from "./browser.mjs";

const folder = process.argv[2];
if (!folder || !process.env.FAIRDROP_LOCAL) throw new Error("run `make screenshots`");
const args = "up --regions 5 --stock 300 --hold-seconds 30 --unpaid 0.1 --opens-in-seconds 25 --crowd 4000".split(" ");
const system = spawn(process.env.FAIRDROP_LOCAL, args, { stdio: ["ignore", "pipe", "inherit"] });
const later = (ms) => new Promise((resume) => setTimeout(resume, ms));

/** The addresses that `up` prints. */
async function addresses() {
  const found = { buyers: [] };
  let isNext = false;
  for await (const line of createInterface({ input: system.stdout })) {
    if (isNext) return { ...found, token: line.trim() };
    const address = line.match(/http:\S+\/(buyer|operator)\/\S*/);
    if (address?.[1] === "buyer") found.buyers.push(address[0]);
    if (address?.[1] === "operator") [found.operator, isNext] = [address[0], true];
  }
  throw new Error("the system did not start");
}

try {
  const { buyers, operator, token } = await addresses();
  system.stdout.resume();
  const phone = await open({ viewport: { width: 390, height: 660 }, deviceScaleFactor: 1.5, hasTouch: true, colorScheme: "light", locale: "en-GB", timezoneId: "Europe/Dublin" });
  const monitor = await open({ viewport: { width: 1240, height: 1180 }, deviceScaleFactor: 1, colorScheme: "light", locale: "en-GB", timezoneId: "Europe/Dublin" });
  const [buyer, board] = [await phone.context.newPage(), await monitor.context.newPage()];
  const take = (page, name, more = {}) => page.screenshot({ path: join(folder, `${name}.png`), ...more });
  await board.goto(operator);
  await board.fill("#token", token);
  await board.click("#sign-in button");
  await buyer.goto(buyers[1]);
  await buyer.fill("#buyer", "maeve");
  await buyer.click("#sign-in button");
  await buyer.waitForSelector('main[data-connection="live"]');
  await later(1_500);
  await take(buyer, "buyer-opens");
  await buyer.waitForSelector("#act:enabled", { timeout: 60_000 });
  // Orders after part of the crowd, so that the buyer waits in the queue.
  await later(700);
  await buyer.click("#act");
  await buyer.waitForFunction(() => /\d/.test(document.getElementById("number").textContent) && document.getElementById("title").textContent === "You are in the queue");
  await take(buyer, "buyer-in-line");
  const shows = (words) => buyer.waitForFunction((words) => document.getElementById("title").textContent.startsWith(words), words, { timeout: 60_000 });
  await shows("Reserved until");
  await later(500);
  await take(buyer, "buyer-reserved");
  await buyer.click("#pay");
  await buyer.waitForURL(/\/shop\//);
  await shows("Reserved until");
  await take(buyer, "shop-checkout");
  await buyer.click("#act");
  await shows("It is yours");
  await buyer.click("#back");
  await buyer.waitForURL(/\/buyer\//);
  await buyer.waitForSelector('main[data-connection="live"]');
  await shows("It is yours");
  await later(1_000);
  await take(buyer, "buyer-sold");
  await later(40_000);
  await take(board, "operator", { fullPage: true });
  if (process.argv[3] === "--dark") {
    for (const page of [board, buyer]) await page.emulateMedia({ colorScheme: "dark" });
    await later(2_500);
    await take(board, "operator-dark", { fullPage: true });
    await take(buyer, "buyer-dark");
  }
  await phone.close();
  await monitor.close();
} finally {
  system.kill("SIGINT");
}
process.exit(0);
