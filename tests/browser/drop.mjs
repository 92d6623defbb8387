// Two buyers in two regions want the one unit that there is; an operator looks on. Run by tests/pages.rs, which does
// what is asked for on standard output (`@ cut 1`) and answers on standard input.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { barriers, open, watch } from "./browser.mjs";

const { buyers, operator, operatorToken } = JSON.parse(process.env.FAIRDROP_PAGES);
const PATIENCE = 40_000;
const HOUR = 3_600_000;
/** What a page must not take for HTML. */
const NAME = "One <b>only</b> & <img src=x onerror=alert(1)>";

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function please(what) {
  console.log(`@ ${what}`);
  const { value } = await answers.next();
  assert.equal(value, "done", `${what}: ${value}`);
}

const title = (page) => page.locator("#title").textContent();
const shows = async (page, words) => {
  await page.waitForFunction((wanted) => document.getElementById("title").textContent.startsWith(wanted), words, { timeout: PATIENCE }).catch(async () => {
    assert.fail(`the page should show ${words}, and shows: ${await page.locator("main").innerText()}`);
  });
};
const lineIs = (page, state) => page.waitForSelector(`main[data-line="${state}"]`, { timeout: PATIENCE });

/** In `sequence`, in this order, with nothing that contradicts it after it. */
function inOrder(titles, wanted) {
  const at = wanted.map((words) => titles.findIndex((shown) => words.test(shown)));
  assert.ok(at.every((place, index) => place >= 0 && (index === 0 || place > at[index - 1])), `${titles.join(", ")} should be ${wanted.join(", ")}`);
  const back = titles.slice(at.at(-1) + 1);
  assert.deepEqual(back, [], `nothing comes after ${wanted.at(-1)}`);
}

const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true };
const [alice, bob] = [await open(phone), await open(phone)];
const desk = await open({ viewport: { width: 1280, height: 900 } });
try {
  const [alicePage, bobPage, deskPage] = await Promise.all([alice, bob, desk].map(({ context }) => context.newPage()));
  const [aliceSaw, bobSaw, deskSaw] = await Promise.all([alicePage, bobPage, deskPage].map(watch));
  // Bob's own clock is an hour fast.
  await bobPage.addInitScript((hour) => {
    const now = Date.now.bind(Date);
    Date.now = () => now() + hour;
  }, HOUR);

  await alicePage.goto(buyers[0]);
  await alicePage.fill("#buyer", "alice");
  await alicePage.click("#sign-in button");
  // Bob has a keyboard alone.
  await bobPage.goto(buyers[1]);
  await bobPage.waitForSelector("#sign-in:not([hidden])");
  await bobPage.keyboard.press("Tab");
  await bobPage.keyboard.type("bob");
  await bobPage.keyboard.press("Enter");
  await Promise.all([lineIs(alicePage, "live"), lineIs(bobPage, "live")]);

  // A countdown by the server's clock, also on a device whose own is wrong; and it follows what the shop says.
  const opensAtMs = Date.now() + 90_000;
  await please(`change ${JSON.stringify({ opens_at: opensAtMs * 1000, name: NAME })}`);
  for (const page of [alicePage, bobPage]) {
    await shows(page, "Opens in");
    await page.waitForFunction(() => /^1:[0-3]\d$/.test(document.getElementById("number").textContent), null, { timeout: PATIENCE });
    const [shown, nowMs] = [await page.locator("#number").textContent(), Date.now()];
    const [minutes, seconds] = shown.split(":").map(Number);
    const off = Math.abs(minutes * 60 + seconds - (opensAtMs - nowMs) / 1000);
    assert.ok(off <= 2, `the countdown shows ${shown}, ${off} s off`);
    assert.ok(await page.locator("#act").isDisabled());
  }
  assert.deepEqual(await barriers(alicePage), []);
  await please(`change {"opens_at":${(Date.now() + 2_000) * 1000}}`);
  await Promise.all([shows(alicePage, "Open"), shows(bobPage, "Open")]);
  await Promise.all([alicePage, bobPage].map((page) => page.waitForSelector("#act:enabled", { timeout: PATIENCE })));
  await alicePage.waitForFunction(() => document.getElementById("title").textContent === "Open", null, { timeout: PATIENCE });
  await please("pause");
  await Promise.all([shows(alicePage, "Paused"), shows(bobPage, "Paused")]);
  await please("resume");
  await Promise.all([shows(alicePage, "Open"), shows(bobPage, "Open")]);
  await alicePage.click("#act");
  await shows(alicePage, "You are in line");
  await bobPage.focus("#act");
  await bobPage.keyboard.press("Enter");
  await shows(bobPage, "You are in line");
  await shows(alicePage, "Reserved until");
  assert.deepEqual(await barriers(alicePage), []);
  await bobPage.waitForFunction(() => document.getElementById("number").textContent === "1", null, { timeout: PATIENCE });
  await bobPage.waitForFunction(() => document.getElementById("left").textContent === "0", null, { timeout: PATIENCE });
  assert.match(await bobPage.locator("#text").textContent(), /on hold for somebody/);
  assert.deepEqual(await barriers(bobPage), []);

  // Carol looks on from the same city as Bob.
  const carolPage = await bob.context.newPage();
  await carolPage.goto(buyers[1]);
  await carolPage.fill("#buyer", "carol");
  await carolPage.click("#sign-in button");
  await lineIs(carolPage, "live");
  assert.match(await carolPage.locator("#text").textContent(), /on hold for somebody/);

  // Bob's line is cut; what he sees is called old, and is not what happens meanwhile.
  await please("cut 1");
  await lineIs(bobPage, "cut");
  assert.match(await bobPage.locator("#line-text").textContent(), /^Cut off since .* as it was then/);
  assert.deepEqual(await barriers(bobPage), []);
  // An order without an answer may be in line, or not.
  await lineIs(carolPage, "cut");
  await carolPage.click("#act");
  await carolPage.waitForSelector("#notice:not([hidden])");
  assert.match(await carolPage.locator("#notice").textContent(), /^Cut off: .* may be in line, or not/);
  await please("pay alice");
  await shows(alicePage, "It is yours");
  assert.equal(await title(bobPage), "You are in line");
  await please("restore 1");
  await lineIs(bobPage, "live");
  await shows(bobPage, "Sold out");
  assert.match(await bobPage.locator("#text").textContent(), /keep your place/);

  // Carol's did not arrive, and there is nothing to wait for any more.
  await lineIs(carolPage, "live");
  await shows(carolPage, "Sold out");
  await carolPage.waitForFunction(() => document.getElementById("notice").textContent.startsWith("Not taken"), null, { timeout: PATIENCE });
  assert.ok(await carolPage.locator("#act").isDisabled());

  inOrder(await alicePage.evaluate(() => window.shownTitles), [/^Opens in$/, /^Open$/, /^Paused$/, /^You are in line$/, /^Reserved until/, /^It is yours$/]);
  inOrder(await bobPage.evaluate(() => window.shownTitles), [/^Opens in$/, /^Open$/, /^Paused$/, /^You are in line$/, /^Sold out$/]);

  // The operator is asked for a token, and sees the drop.
  await deskPage.goto(operator);
  await deskPage.fill("#token", "not the token");
  await deskPage.click("#sign-in button");
  await deskPage.waitForFunction(() => document.getElementById("refused").textContent.includes("not the operator's token"));
  assert.ok(await deskPage.locator("#board").isHidden());
  await deskPage.fill("#token", operatorToken);
  await deskPage.keyboard.press("Enter");
  await deskPage.waitForSelector("#board:not([hidden])");
  const tile = (name) => deskPage.locator(".tile", { hasText: name }).innerText();
  await deskPage.waitForFunction(
    () => {
      const tiles = [...document.querySelectorAll(".tile")].map((one) => one.textContent);
      return tiles.some((one) => /^Orders queued2/.test(one)) && tiles.some((one) => /^Reserved1.*1 paid/.test(one));
    },
    null,
    { timeout: PATIENCE },
  ).catch(async () => assert.fail(`the operator is shown: ${await deskPage.locator("#tiles").innerText()}`));
  assert.match(await tile("Units left"), /0\s+of 1/);
  const rows = await deskPage.locator("#regions tr").allInnerTexts();
  assert.equal(rows.length, 2);
  for (const row of rows) assert.match(row, /^[a-z]+-[a-z]+-\d[\s\S]*\t1\t/, row);
  assert.equal(await deskPage.locator(".chart svg[role=img]").count(), 6);
  assert.deepEqual(await barriers(deskPage), []);

  // Names are text, whatever is in them.
  for (const page of [alicePage, deskPage]) {
    assert.equal(await page.locator("#name").textContent(), NAME);
    assert.equal(await page.locator("#name *").count(), 0);
  }

  // Who comes with a token that is not good any more is told so, and asked to sign in.
  await carolPage.evaluate(() => sessionStorage.setItem("fairdrop.session", JSON.stringify({ buyer: "carol", token: "run.out.token" })));
  await carolPage.reload();
  await carolPage.waitForFunction(() => document.getElementById("notice").textContent.includes("sign-in has run out"), null, { timeout: PATIENCE });
  assert.ok(await carolPage.locator("#sign-in").isVisible());
  assert.equal(await carolPage.evaluate(() => sessionStorage.length), 0);

  // No token in an address, nothing that outlives the tab, no reload, no complaint but of the cut line.
  for (const [page, saw] of [[alicePage, aliceSaw], [bobPage, bobSaw], [deskPage, deskSaw]]) {
    const token = await page.evaluate(() => Object.values(sessionStorage).join(" "));
    const secrets = [operatorToken, ...token.matchAll(/eyJ[\w.-]+/g)].map(String);
    const addresses = [page.url(), ...saw.addresses];
    for (const secret of secrets) assert.ok(addresses.every((address) => !address.includes(secret) && !address.includes("eyJ")), "a token is in an address");
    assert.equal(saw.loads, 1);
    const kept = await page.evaluate(() => [localStorage.length, document.cookie]);
    assert.deepEqual(kept, [0, ""]);
  }
  for (const saw of [aliceSaw, deskSaw]) assert.deepEqual(saw.complaints.filter((words) => !words.includes("status of 401")), []);
  const ofTheCut = /ERR_|WebSocket connection to|Failed to load resource/;
  assert.deepEqual(bobSaw.complaints.filter((words) => !ofTheCut.test(words)), []);

  // A narrow phone scrolls down and never sideways.
  for (const page of [alicePage, bobPage, deskPage]) {
    await page.setViewportSize({ width: 320, height: 640 });
    assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth <= 320), "the page is wider than a phone");
  }
  await bobPage.emulateMedia({ reducedMotion: "reduce" });
  assert.match(await bobPage.evaluate(() => getComputedStyle(document.getElementById("bar")).transitionDuration + getComputedStyle(document.getElementById("bar")).transitionProperty), /^0s|none/);
  console.log("all of it was seen");
} finally {
  await Promise.all([alice, bob, desk].map(({ close }) => close()));
}
process.exit(0);
