//! The whole of fairdrop on one machine; `local/README.md` is the tour.
//!
//! * [`aws`]: what stands for AWS, from the Lambda emulator to the gateways.
//! * [`system`]: a running system of servers, regions and the connections between them.
//! * [`crowd`]: buyers, the cards with which they pay in the shop, and the audit of the answers that they got.
//! * [`command`]: `demo` and `up`, and the report.
//!
//! Two crates build on it: `drill`, a failover between two regions, and `bench`, the figures about speed. A third one,
//! `shop`, is the web service of a shop, which the system starts as a process.

pub mod aws;
pub mod command;
pub mod crowd;
pub mod system;
