//! Live updates: what is said on a socket ([`message`]), and who watches what in a region ([`registry`]).
//!
//! `live-updates` answers what browsers say and writes the registry; `live-publish` reads it and tells
//! those who watch. `docs/LIVE.md` fixes what goes over the line.

pub mod connection_id;
pub mod message;
pub mod registry;
