//! Code that two or more of fairdrop's functions use, and nothing else.
//!
//! Read it in the order in which an order travels:
//!
//! 1. [`http`] reads the API Gateway event: item, bearer token, body, arrival.
//! 2. [`clock`] turns the arrival into a [`Stamp`](stamp::Stamp). [`clock_check`] decides whether this region's
//!    clock may stamp orders.
//! 3. [`token`] verifies the buyer's access token and returns their [`UserToken`](user_token::UserToken).
//!    [`token::key_set`] reads the identity provider's public keys, and [`token_keys`] keeps a copy of them.
//! 4. [`item`] describes an item and when it sells; [`item_cache`] keeps a copy at the edge.
//! 5. [`queue`] is the checkout queue on main's Redis (place, drain, leave, status), and the async task queue
//!    behind it.
//! 6. [`problem`] has every refusal that a client can get.
//!
//! [`permit`] is the right to sell, which expires by itself if a standby could take over.
//!
//! [`keep_warm`] answers the event that keeps an idle function active.
//!
//! [`startup`] ends a start that fails. [`edge`] is the state that a function for buyers keeps between requests.
//! [`schedule`] reads the event of a scheduled function, and [`item_runs`] runs such a function over all items.
//! [`region`] reads from a stamp in which region it was taken. [`config`] reads the environment once;
//! [`telemetry`] writes logs and metrics.
//!
//! There is no AWS SDK in this crate: the functions for buyers must be ready within milliseconds.

pub mod clock;
pub mod clock_check;
pub mod config;
pub mod edge;
pub mod http;
pub mod item;
pub mod item_cache;
pub mod item_runs;
pub mod keep_warm;
pub mod main_use;
pub mod permit;
pub mod problem;
pub mod queue;
pub mod region;
pub mod schedule;
pub mod stamp;
pub mod startup;
pub mod telemetry;
pub mod token;
pub mod token_keys;
pub mod user_token;
