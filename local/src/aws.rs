//! What stands for AWS on this machine.
//!
//! Some of it is other projects' work, started as a process: the [`emulators`] of AWS services. The rest is written here,
//! from AWS's documents: [`lambda`] with its [`environments`] for the built [`functions`], a [`gateway`] for HTTP,
//! [`sockets`] for WebSockets, the [`schedule`]s, the tables of [`dynamodb`], the shop's [`event_bus`] and its
//! [`api_destination`], the mapping of a table's stream to a function ([`event_source`]), the [`metrics`] that CloudWatch
//! would take from the functions' logs, a check of what goes over the [`wire`], and the provider of the buyers'
//! [`identity`], with its web server, the [`issuer`].

pub mod api_destination;
pub mod dynamodb;
pub mod emulators;
pub mod environments;
pub mod event_bus;
pub mod event_source;
pub mod functions;
pub mod gateway;
pub mod identity;
pub mod issuer;
pub mod lambda;
pub mod metrics;
pub mod schedule;
pub mod sockets;
pub mod wire;
