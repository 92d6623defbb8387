// What the checkout shows: a pure function of what the shop knows. It never claims that money was taken or returned
// before the shop knows it.

import { left, timeOf } from "./words.js";

/** The price as its reader writes it. */
export function price({ price_cents, currency }) {
  return new Intl.NumberFormat([], { style: "currency", currency }).format(price_cents / 100);
}

/**
 * Decides what the page shows of a `checkout` at the server's time `nowMs`: `mood`, `title`, `text`, `number` (the time
 * left, or null), `act` (the button's label, or null) and `isPending` (it will change by itself).
 */
export function view(checkout, nowMs) {
  const shown = { mood: "neutral", number: null, act: null, isPending: false };
  const payment = checkout.payment;
  switch (payment?.status) {
    case "charging":
      return { ...shown, mood: "wait", title: "Your card is being charged", text: "Please wait. Your card is charged once, also if you reload this page.", isPending: true };
    case "processing":
      return { ...shown, mood: "wait", title: "Your bank is working on it", text: "The unit is held for you meanwhile. You can close this page.", isPending: true };
    case "paid":
      return { ...shown, mood: "wait", title: "Paid. The sale is being recorded", text: "If the unit cannot be sold to you any more, your money comes back.", isPending: true };
    case "sold":
      return { ...shown, mood: "good", title: "It is yours", text: "Your payment has arrived, and the sale is recorded." };
    case "refund_due":
      return { ...shown, mood: "warn", title: "Your money is on its way back", text: refused(payment), isPending: true };
    case "refunded":
      return { ...shown, mood: "warn", title: "Your money is back", text: refused(payment) };
  }
  if (checkout.status === "sold") return { ...shown, mood: "good", title: "It is yours", text: "The sale is recorded." };
  const leftMs = (checkout.reserved_until ?? 0) / 1000 - nowMs;
  if (checkout.status === "reserved" && leftMs <= 0) return { ...shown, mood: "warn", title: "The time to pay is over", text: "No money was taken." };
  if (checkout.status !== "reserved") {
    const text = checkout.status === "none" ? "The shop can take your payment when the buyer's page says: reserved." : "Your reservation has ended. No money was taken.";
    return { ...shown, title: "No unit is reserved for you", text, isPending: checkout.status === "none" };
  }
  const open = { ...shown, number: left(leftMs), act: `Pay ${price(checkout)}` };
  if (payment?.status === "declined") return { ...open, mood: "bad", title: "Your card was declined", text: `No money was taken. The unit stays reserved until ${timeOf(checkout.reserved_until, nowMs)}. Please try another card.` };
  return { ...open, mood: "wait", title: `Reserved until ${timeOf(checkout.reserved_until, nowMs)}`, text: "The unit is yours when it is paid." };
}

function refused({ refused: why }) {
  return why?.endsWith("voided") ? "The shop has taken the unit back." : "Your payment came after your reservation had ended, so the unit is not yours.";
}
