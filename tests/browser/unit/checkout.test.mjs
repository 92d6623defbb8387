import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

// The shop serves words.js of the buyer's page beside its own files.
const folder = mkdtempSync(join(tmpdir(), "fairdrop-checkout-"));
writeFileSync(join(folder, "package.json"), '{"type":"module"}');
for (const file of ["shop/view.js", "buyer/words.js"]) {
  writeFileSync(join(folder, file.split("/")[1]), readFileSync(new URL(`../../../pages/${file}`, import.meta.url)));
}
const { view } = await import(pathToFileURL(join(folder, "view.js")));
rmSync(folder, { recursive: true });

const NOW = 1_795_500_000_000;
const shown = (status, payment, leftMs = 30_000) =>
  view({ status, reserved_until: (NOW + leftMs) * 1000, price_cents: 12_000, currency: "EUR", payment: payment && { status: payment } }, NOW);

test("only a reserved unit without a payment under way can be paid", () => {
  const table = [
    ["reserved", null, /^Reserved until/, true, false],
    ["reserved", "declined", /declined/, true, false],
    ["reserved", "charging", /being charged/, false, true],
    ["reserved", "processing", /bank is working/, false, true],
    ["reserved", "paid", /^Paid/, false, true],
    ["reserved", "sold", /^It is yours/, false, false],
    ["sold", null, /^It is yours/, false, false],
    ["released", "refund_due", /on its way back/, false, true],
    ["released", "refunded", /money is back/, false, false],
    ["released", "declined", /^No unit/, false, false],
    ["none", null, /^No unit/, false, true],
  ];
  for (const [status, payment, title, canPay, isPending] of table) {
    const one = shown(status, payment);
    assert.match(one.title, title);
    assert.deepEqual([Boolean(one.act), one.isPending], [canPay, isPending], `${status}, ${payment}`);
  }
  assert.match(shown("reserved", null).act, /120/);
  assert.deepEqual([shown("reserved", null, -1).title, shown("reserved", null, -1).act], ["The time to pay is over", null]);
  assert.equal(shown("reserved", null).number, "0:30");
});
