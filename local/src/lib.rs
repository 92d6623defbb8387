//! The whole of fairdrop on one machine.
//!
//! [`system`] starts it: real Redis [`servers`], one Lambda [`emulator`] per region,
//! the built [`functions`], a [`gateway`] per region that speaks as API Gateway
//! does, and a [`wan`] line from each region to main that is as slow as the ocean
//! is wide and can be cut, and [`sockets`] for live updates. [`schedule`] fires what EventBridge would.
//!
//! [`crowd`] and [`buyer`] send orders into it, [`watcher`]s sit at their [`socket`]s, [`audit`] checks what came out,
//! [`strategies`] runs the same arrivals through what others do, and [`report`]
//! shows it all. The commands are [`demo`] and [`up`].
//!
//! [`drill`] is the third: in [`two_regions`] with servers of their own, the standby takes over from main,
//! by AWS's [`control_plane`] on this machine.

pub mod audit;
pub mod aws;
pub mod buyer;
pub mod control_plane;
pub mod crowd;
pub mod demo;
pub mod drill;
pub mod emulator;
pub mod functions;
pub mod gateway;
pub mod payments;
pub mod postgres;
pub mod process;
pub mod regions;
pub mod report;
pub mod schedule;
pub mod servers;
pub mod socket;
pub mod sockets;
pub mod strategies;
pub mod system;
pub mod two_regions;
pub mod up;
pub mod wan;
pub mod watcher;
