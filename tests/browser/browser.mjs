// A browser without a window, and what is written down about a page in it.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const ELSEWHERE = ["/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

function program() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const named = NAMES.flatMap((name) => folders.map((folder) => join(folder, name)));
  const found = [process.env.FAIRDROP_BROWSER, ...named, ...ELSEWHERE].find((path) => path && existsSync(path));
  if (!found) throw new Error(`no browser is installed (${NAMES.join(", ")}); run \`make setup-deploy\`, or name one in FAIRDROP_BROWSER`);
  return found;
}

/** Opens a browser with an empty profile of its own; `options` are those of a context of Playwright. */
export async function open(options = {}) {
  const profile = mkdtempSync(join(tmpdir(), "fairdrop-browser-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: program(), headless: true, args: FLAGS, ...options });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { context, close };
}

/** What a page does: each address that it asks for, each complaint of the browser, and each title that `#title` had. */
export async function watch(page) {
  const seen = { addresses: [], complaints: [], loads: 0 };
  page.on("request", (request) => seen.addresses.push(request.url()));
  page.on("websocket", (socket) => seen.addresses.push(socket.url()));
  page.on("load", () => (seen.loads += 1));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") seen.complaints.push(message.text());
  });
  await page.addInitScript(() => {
    window.shownTitles = [];
    document.addEventListener("DOMContentLoaded", () => {
      const title = document.getElementById("title");
      if (!title) return;
      const note = () => {
        if (window.shownTitles.at(-1) !== title.textContent) window.shownTitles.push(title.textContent);
      };
      new MutationObserver(note).observe(title, { childList: true, characterData: true, subtree: true });
      note();
    });
  });
  return seen;
}

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What stands in the way of people who do not see, or not well, in either colour scheme. */
export async function barriers(page) {
  const found = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const { id, nodes } of violations) {
      found.push(...nodes.map((node) => `${colorScheme}: ${id} at ${node.target.join(" ")}: ${node.failureSummary}`));
    }
  }
  await page.emulateMedia({ colorScheme: null });
  return found;
}
