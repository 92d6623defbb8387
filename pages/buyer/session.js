// Who the buyer is. This is the file that a shop replaces: its own login gives the access token.
//
// Here, on one machine, whoever names a buyer is that buyer. The token lives in this tab alone: not in the address,
// where logs and histories would keep it, and not in a cookie, which would go with every request.

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

/** Signs a buyer in; throws where it cannot be done. */
export async function signIn(buyer) {
  const response = await fetch("/local/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ buyer }),
  });
  if (!response.ok) throw new Error(`the login answers ${response.status}`);
  const { token } = await response.json();
  sessionStorage.setItem(KEY, JSON.stringify({ buyer, token }));
}

/** Forgets the token. */
export function signOut() {
  sessionStorage.removeItem(KEY);
}
