// Two buyers in two regions order the only unit; an operator watches. tests/live/pages.rs runs this, does what it
// requests on standard output (`@ cut 1`), and answers on standard input.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { violationsOf, open, watch } from "./browser.mjs";

const { buyers, operator, operatorToken } = JSON.parse(process.env.FAIRDROP_PAGES);
const LIMIT_MS = 40_000;
const HOUR = 3_600_000;
/** A name that a page must not interpret as HTML. */
const NAME = "One <b>only</b> & <img src=x onerror=alert(1)>";

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function request(what) {
  console.log(`@ ${what}`);
  const { value } = await answers.next();
  assert.equal(value, "done", `${what}: ${value}`);
}

const title = (page) => page.locator("#title").textContent();
const shows = async (page, words) => {
  await page.waitForFunction((wanted) => document.getElementById("title").textContent.startsWith(wanted), words, { timeout: LIMIT_MS }).catch(async () => {
    assert.fail(`the page should show ${words}, and shows: ${await page.locator("main").innerText()}`);
  });
};
const connectionIs = (page, state) => page.waitForSelector(`main[data-connection="${state}"]`, { timeout: LIMIT_MS });

/** Asserts that `titles` has the wanted ones in this order, and none after the last. */
function inOrder(titles, wanted) {
  const at = wanted.map((words) => titles.findIndex((shown) => words.test(shown)));
  assert.ok(at.every((place, index) => place >= 0 && (index === 0 || place > at[index - 1])), `${titles.join(", ")} should be ${wanted.join(", ")}`);
  const back = titles.slice(at.at(-1) + 1);
  assert.deepEqual(back, [], `nothing comes after ${wanted.at(-1)}`);
}

const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true };
const [alice, bob] = [await open(phone), await open(phone)];
const monitor = await open({ viewport: { width: 1280, height: 900 } });
try {
  const [alicePage, bobPage, operatorPage] = await Promise.all([alice, bob, monitor].map(({ context }) => context.newPage()));
  const [aliceRecord, bobRecord, operatorRecord] = await Promise.all([alicePage, bobPage, operatorPage].map(watch));
  // The clock of Bob's device is an hour fast.
  await bobPage.addInitScript((hour) => {
    const now = Date.now.bind(Date);
    Date.now = () => now() + hour;
  }, HOUR);

  await alicePage.goto(buyers[0]);
  await alicePage.fill("#buyer", "alice");
  await alicePage.click("#sign-in button");
  // Bob uses only the keyboard.
  await bobPage.goto(buyers[1]);
  await bobPage.waitForSelector("#sign-in:not([hidden])");
  await bobPage.keyboard.press("Tab");
  await bobPage.keyboard.type("bob");
  await bobPage.keyboard.press("Enter");
  await Promise.all([connectionIs(alicePage, "live"), connectionIs(bobPage, "live")]);

  // The countdown uses the server's clock, also on a device with a wrong one, and follows changes by the shop.
  const opensAtMs = Date.now() + 90_000;
  await request(`change ${JSON.stringify({ opens_at: opensAtMs * 1000, name: NAME })}`);
  for (const page of [alicePage, bobPage]) {
    await shows(page, "Opens in");
    await page.waitForFunction(() => /^1:[0-3]\d$/.test(document.getElementById("number").textContent), null, { timeout: LIMIT_MS });
    const [shown, nowMs] = [await page.locator("#number").textContent(), Date.now()];
    const [minutes, seconds] = shown.split(":").map(Number);
    const off = Math.abs(minutes * 60 + seconds - (opensAtMs - nowMs) / 1000);
    assert.ok(off <= 2, `the countdown shows ${shown}, ${off} s off`);
    assert.ok(await page.locator("#act").isDisabled());
  }
  assert.deepEqual(await violationsOf(alicePage), []);
  await request(`change {"opens_at":${(Date.now() + 2_000) * 1000}}`);
  await Promise.all([shows(alicePage, "Open"), shows(bobPage, "Open")]);
  await Promise.all([alicePage, bobPage].map((page) => page.waitForSelector("#act:enabled", { timeout: LIMIT_MS })));
  await alicePage.waitForFunction(() => document.getElementById("title").textContent === "Open", null, { timeout: LIMIT_MS });
  await request("pause");
  await Promise.all([shows(alicePage, "Paused"), shows(bobPage, "Paused")]);
  await request("resume");
  await Promise.all([shows(alicePage, "Open"), shows(bobPage, "Open")]);
  await alicePage.click("#act");
  await shows(alicePage, "You are in the queue");
  await bobPage.focus("#act");
  await bobPage.keyboard.press("Enter");
  await shows(bobPage, "You are in the queue");
  await shows(alicePage, "Reserved until");
  assert.deepEqual(await violationsOf(alicePage), []);
  await bobPage.waitForFunction(() => document.getElementById("number").textContent === "1", null, { timeout: LIMIT_MS });
  await bobPage.waitForFunction(() => document.getElementById("left").textContent === "0", null, { timeout: LIMIT_MS });
  assert.match(await bobPage.locator("#text").textContent(), /reserved for other buyers/);
  assert.deepEqual(await violationsOf(bobPage), []);

  // Carol watches from the same region as Bob.
  const carolPage = await bob.context.newPage();
  await carolPage.goto(buyers[1]);
  await carolPage.fill("#buyer", "carol");
  await carolPage.click("#sign-in button");
  await connectionIs(carolPage, "live");
  assert.match(await carolPage.locator("#text").textContent(), /reserved for other buyers/);

  // Bob's connection is cut; his page says that it shows an older state, and does not change meanwhile.
  await request("cut 1");
  await connectionIs(bobPage, "disconnected");
  assert.match(await bobPage.locator("#connection-text").textContent(), /^Disconnected since .* state of that time/);
  assert.deepEqual(await violationsOf(bobPage), []);
  // An order without an answer may or may not be in the queue.
  await connectionIs(carolPage, "disconnected");
  await carolPage.click("#act");
  // The page repeats it by itself, and says that before it gives up.
  await carolPage.waitForSelector("#notice:not([hidden])");
  assert.match(await carolPage.locator("#notice").textContent(), /^Sending again: No answer came back/);
  assert.ok(await carolPage.locator("#act").isDisabled());
  await carolPage.waitForFunction(() => /^No connection: .* may or may not be in the queue/.test(document.getElementById("notice").textContent), null, { timeout: LIMIT_MS });
  // Alice pays in the shop, where her first card is declined, and comes back.
  const aliceTitles = await alicePage.evaluate(() => window.shownTitles);
  await alicePage.click("#pay");
  await alicePage.waitForURL(/\/shop\//);
  await shows(alicePage, "Reserved until");
  assert.match(alicePage.url(), /\/shop\/\?item=drop&region=/);
  assert.equal(await alicePage.locator("#name").textContent(), NAME);
  assert.equal(await alicePage.locator("#name *").count(), 0);
  assert.deepEqual(await violationsOf(alicePage), []);
  await alicePage.selectOption("#card", "card_declined");
  await alicePage.click("#act");
  await shows(alicePage, "Your card was declined");
  assert.deepEqual(await violationsOf(alicePage), []);
  await alicePage.selectOption("#card", "card_ok");
  await alicePage.click("#act");
  await shows(alicePage, "It is yours");
  assert.ok(await alicePage.locator("#pay").isHidden());
  assert.ok(await alicePage.evaluate(() => document.scrollingElement.scrollWidth <= innerWidth), "the checkout is wider than a phone");
  await alicePage.click("#back");
  await alicePage.waitForURL(/\/buyer\//);
  await connectionIs(alicePage, "live");
  await shows(alicePage, "It is yours");
  assert.equal(await title(bobPage), "You are in the queue");
  await request("restore 1");
  await connectionIs(bobPage, "live");
  await shows(bobPage, "Sold out");
  assert.match(await bobPage.locator("#text").textContent(), /keep your place/);

  // Carol's order did not arrive, and can no longer be in transit.
  await connectionIs(carolPage, "live");
  await shows(carolPage, "Sold out");
  await carolPage.waitForFunction(() => document.getElementById("notice").textContent.startsWith("Not accepted"), null, { timeout: LIMIT_MS });
  assert.ok(await carolPage.locator("#act").isDisabled());

  inOrder(aliceTitles, [/^Opens in$/, /^Open$/, /^Paused$/, /^You are in the queue$/, /^Reserved until/]);
  inOrder(await bobPage.evaluate(() => window.shownTitles), [/^Opens in$/, /^Open$/, /^Paused$/, /^You are in the queue$/, /^Sold out$/]);

  // The operator must enter a token, and sees the drop.
  await operatorPage.goto(operator);
  await operatorPage.fill("#token", "not the token");
  await operatorPage.click("#sign-in button");
  await operatorPage.waitForFunction(() => document.getElementById("refused").textContent.includes("not the operator's token"));
  assert.ok(await operatorPage.locator("#board").isHidden());
  await operatorPage.fill("#token", operatorToken);
  await operatorPage.keyboard.press("Enter");
  await operatorPage.waitForSelector("#board:not([hidden])");
  const tile = (name) => operatorPage.locator(".tile", { hasText: name }).innerText();
  await operatorPage.waitForFunction(
    () => {
      const tiles = [...document.querySelectorAll(".tile")].map((one) => one.textContent);
      return tiles.some((one) => /^Orders queued2/.test(one)) && tiles.some((one) => /^Reserved1.*1 paid/.test(one));
    },
    null,
    { timeout: LIMIT_MS },
  ).catch(async () => assert.fail(`the operator's page shows: ${await operatorPage.locator("#tiles").innerText()}`));
  assert.match(await tile("Units left"), /0\s+of 1/);
  const rows = await operatorPage.locator("#regions tr").allInnerTexts();
  assert.equal(rows.length, 2);
  for (const row of rows) assert.match(row, /^[a-z]+-[a-z]+-\d[\s\S]*\t1\t/, row);
  assert.equal(await operatorPage.locator(".chart svg[role=img]").count(), 6);
  assert.deepEqual(await violationsOf(operatorPage), []);

  // Names are shown as text, whatever they contain.
  for (const page of [alicePage, operatorPage]) {
    assert.equal(await page.locator("#name").textContent(), NAME);
    assert.equal(await page.locator("#name *").count(), 0);
  }

  // A buyer with an expired token sees that, and can sign in again.
  await carolPage.evaluate(() => sessionStorage.setItem("fairdrop.session", JSON.stringify({ buyer: "carol", token: "run.out.token" })));
  await carolPage.reload();
  await carolPage.waitForFunction(() => document.getElementById("notice").textContent.includes("sign-in has expired"), null, { timeout: LIMIT_MS });
  assert.ok(await carolPage.locator("#sign-in").isVisible());
  assert.equal(await carolPage.evaluate(() => sessionStorage.length), 0);

  // No token in an address, nothing that outlives the tab, no reload, and no errors except those of the cut connection.
  for (const [page, saw] of [[alicePage, aliceRecord], [bobPage, bobRecord], [operatorPage, operatorRecord]]) {
    const token = await page.evaluate(() => Object.values(sessionStorage).join(" "));
    const secrets = [operatorToken, ...token.matchAll(/eyJ[\w.-]+/g)].map(String);
    const addresses = [page.url(), ...saw.addresses];
    for (const secret of secrets) assert.ok(addresses.every((address) => !address.includes(secret) && !address.includes("eyJ")), "a token is in an address");
    // Alice's tab went to the shop and back.
    assert.equal(saw.loads, page === alicePage ? 3 : 1);
    const kept = await page.evaluate(() => [localStorage.length, document.cookie]);
    assert.deepEqual(kept, [0, ""]);
  }
  for (const saw of [aliceRecord, operatorRecord]) assert.deepEqual(saw.errors.filter((words) => !words.includes("status of 401")), []);
  const ofTheCut = /ERR_|WebSocket connection to|Failed to load resource/;
  assert.deepEqual(bobRecord.errors.filter((words) => !ofTheCut.test(words)), []);

  // A narrow phone scrolls down and never sideways.
  for (const page of [alicePage, bobPage, operatorPage]) {
    await page.setViewportSize({ width: 320, height: 640 });
    assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= 320), "the page is wider than a phone");
  }
  await bobPage.emulateMedia({ reducedMotion: "reduce" });
  assert.match(await bobPage.evaluate(() => getComputedStyle(document.getElementById("bar")).transitionDuration + getComputedStyle(document.getElementById("bar")).transitionProperty), /^0s|none/);
  console.log("all checks of the pages passed");
} finally {
  await Promise.all([alice, bob, monitor].map(({ close }) => close()));
}
process.exit(0);
