//! Live updates: the messages on a WebSocket ([`message`]), and a region's registry of connections and watchers
//! ([`registry`]).
//!
//! `live-updates` answers browsers and writes the registry. `live-publish` reads it and sends changes to watchers.
//! `docs/LIVE.md` specifies the messages.

pub mod connection_id;
pub mod message;
pub mod registry;
