//! The heartbeat: what main writes about itself, for readers elsewhere.
//!
//! It says how old a replica's data is, and until when main may sell. Every process in main that renews the lease
//! writes it, so that a gap in draining stops no edge.

use super::{HEARTBEAT, LEASED_UNTIL, LinkError, Queue};
use crate::permit::Permit;
use crate::stamp::Stamp;
use redis::{Pipeline, Script};
use std::sync::LazyLock;
use std::time::Duration;

pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("heartbeat.lua")));

/// How often the drain writes the heartbeat. The moment of a status read from a replica is at most this much too early.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
/// How often the worker writes it, in case no drain runs.
pub const SPARE_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What a server has of main's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Main's clock when it wrote the heartbeat; `None` if it never has.
    pub at: Option<Stamp>,
    /// Until when main may sell; `None` without a lease.
    pub leased_until: Option<Stamp>,
}

/// The reply to [`request`].
pub(super) type HeartbeatReply = (Option<u64>, Option<u64>);

/// Adds the read of the heartbeat to `pipe`.
pub(super) fn request(pipe: &mut Pipeline) {
    pipe.mget(&[HEARTBEAT, LEASED_UNTIL]);
}

impl From<HeartbeatReply> for Heartbeat {
    fn from((at, leased_until): HeartbeatReply) -> Self {
        let stamp = |micros: Option<u64>| micros.map(Stamp::saturating_from_micros);
        Self { at: stamp(at), leased_until: stamp(leased_until) }
    }
}

impl Heartbeat {
    /// Whether main may sell at `now`. A region that has lost the lease is no longer main: an order in its queue would
    /// never be served.
    pub fn may_sell(self, now: Stamp) -> bool {
        self.leased_until.is_none_or(|until| now < until)
    }
}

impl Queue {
    /// What this server has of main's heartbeat, whatever its role.
    pub async fn heartbeat(&self) -> Result<Heartbeat, LinkError> {
        let mut pipe = redis::pipe();
        request(&mut pipe);
        let read = async |mut connection| pipe.query_async::<(HeartbeatReply,)>(&mut connection).await;
        let (reply,) = self.link.run(self.link.call_limit(), read).await?;
        Ok(reply.into())
    }

    /// Writes main's clock and the end of `permit`. Nothing is written if the permit has expired by main's clock.
    pub async fn write_heartbeat(&self, permit: Permit) -> Result<(), LinkError> {
        let until = permit.until().map(|until| until.to_string()).unwrap_or_default();
        self.link
            .call(async |mut connection| {
                let mut script = SCRIPT.key(HEARTBEAT);
                script.key(LEASED_UNTIL).arg(&until);
                script.invoke_async::<u64>(&mut connection).await.map(drop)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_lease_main_may_not_sell() {
        let at = Stamp::saturating_from_micros;
        let leased = Heartbeat { at: None, leased_until: Some(at(150)) };
        assert!(Heartbeat::default().may_sell(at(9_999)) && leased.may_sell(at(149)));
        assert!(!leased.may_sell(at(150)));
    }
}
