// A headless browser, and a record of what its pages do.

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
  if (!found) throw new Error(`found no browser (${NAMES.join(", ")}); run \`make setup-deploy\`, or set FAIRDROP_BROWSER to the path of one`);
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

/** Records what a page does: each address that it requests, each error of the browser, and each text of `#title`. */
export async function watch(page) {
  const record = { addresses: [], errors: [], loads: 0 };
  page.on("request", (request) => record.addresses.push(request.url()));
  page.on("websocket", (socket) => record.addresses.push(socket.url()));
  page.on("load", () => (record.loads += 1));
  page.on("pageerror", (error) => record.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") record.errors.push(message.text());
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
  return record;
}

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The accessibility violations that axe finds in a page, in both colour schemes. */
export async function violationsOf(page) {
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
