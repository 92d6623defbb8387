//! What two or more of fairdrop's functions use, and nothing else.
//!
//! Read it in the order in which an order travels:
//!
//! 1. [`http`] takes the API Gateway event apart: item, bearer token, body, arrival.
//! 2. [`clock`] turns the arrival into a [`Stamp`](stamp::Stamp), and [`clock_check`]
//!    says whether this region's clock may stamp at all.
//! 3. [`token`] verifies who the buyer is and yields their [`UserToken`](user_token::UserToken).
//! 4. [`item`] is what is on sale, and when; [`item_cache`] keeps a copy at the edge.
//! 5. [`queue`] is the checkout queue on the main region's Redis: place, drain, leave,
//!    and what a buyer's order has become; and the async task queue behind it.
//! 6. [`problem`] is every refusal a client can meet.
//!
//! [`permit`] is the right to sell, which ends by itself where a standby could take over.
//!
//! [`edge`] is what a function that serves buyers keeps between requests, [`schedule`]
//! what one that runs on a schedule is sent, and [`item_runs`] how it works on all items.
//! [`region`] tells from a stamp where it was taken. [`config`] reads the environment
//! once, [`telemetry`] writes logs and metrics.
//! There is no AWS SDK in here: `order-intake` must be ready within milliseconds.

pub mod clock;
pub mod clock_check;
pub mod config;
pub mod edge;
pub mod http;
pub mod item;
pub mod item_cache;
pub mod item_runs;
pub mod permit;
pub mod problem;
pub mod queue;
pub mod region;
pub mod schedule;
pub mod stamp;
pub mod startup;
pub mod telemetry;
pub mod token;
pub mod user_token;
