// The buyer's sign-in. A shop replaces this file: its own login returns the access token.
//
// On one machine, any buyer name can sign in. The token is kept in this tab only: not in the address, which logs and
// histories would keep, and not in a cookie, which the browser would send with every request.

const KEY = "fairdrop.session";

/** The signed-in buyer as `{ buyer, token }`, or null. */
export function current() {
  try {
    const session = JSON.parse(sessionStorage.getItem(KEY));
    return session?.token ? session : null;
  } catch {
    return null;
  }
}

/** Signs a buyer in; throws if the login refuses. */
export async function signIn(buyer) {
  const response = await fetch("/local/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ buyer }),
  });
  if (!response.ok) throw new Error(`the login answered with status ${response.status}`);
  const { token } = await response.json();
  sessionStorage.setItem(KEY, JSON.stringify({ buyer, token }));
}

/** Forgets the token. */
export function signOut() {
  sessionStorage.removeItem(KEY);
}
