//! The network connection between a region and main: a TCP proxy with a delay, which can be cut.
//!
//! Kernels can delay packets, but not on every machine and not without privileges. So this proxy delays bytes: each
//! chunk waits for the one-way delay before it is passed on, in either direction, and chunks overlap as packets do
//! on a real network.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Chunks in flight in one direction of one connection.
const MAX_CHUNKS: usize = 65_536;
const CHUNK_BYTES: usize = 16_384;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Bytes pass.
    Up,
    /// No byte passes and neither end is notified, as when a cable is cut. What was sent
    /// arrives after the state is `Up` again, as TCP retransmits it.
    Silent,
    /// Open TCP connections go on, and none is accepted, as behind a security group without rules.
    Fenced,
    /// TCP connections are closed, and none is accepted.
    Refusing,
}

/// A proxy to a target, which listens on 127.0.0.1.
#[derive(Debug)]
pub struct WanConnection {
    port: u16,
    state: watch::Sender<ConnectionState>,
    target: watch::Sender<SocketAddr>,
    accepted: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl WanConnection {
    /// Opens a proxy to `target` that delays bytes by `one_way` in each direction.
    pub async fn open(target: SocketAddr, one_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, states) = watch::channel(ConnectionState::Up);
        let (target, targets) = watch::channel(target);
        let accepted = Arc::new(AtomicU64::new(0));
        let count = accepted.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                if matches!(*states.borrow(), ConnectionState::Up | ConnectionState::Silent) {
                    let target = *targets.borrow();
                    tokio::spawn(carry(near, target, one_way, states.clone()));
                }
            }
        });
        Ok(Self { port, state, target, accepted, accepting })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of connections that clients have opened, those included that were then refused.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Leads to another target from now on, as a name does when DNS changes: open connections stay with the old one.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Cuts or restores the connection.
    pub fn set(&self, state: ConnectionState) {
        self.state.send_replace(state);
    }
}

impl Drop for WanConnection {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.send_replace(ConnectionState::Refusing);
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    one_way: Duration,
    mut states: watch::Receiver<ConnectionState>,
) {
    // The TCP handshake is delayed, too.
    tokio::time::sleep(one_way * 2).await;
    if !wait_until_up(&mut states.clone()).await {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = one_direction(near_read, far_write, one_way, states.clone()) => {}
        () = one_direction(far_read, near_write, one_way, states.clone()) => {}
        _ = states.wait_for(|state| *state == ConnectionState::Refusing) => {}
    }
}

async fn one_direction(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    one_way: Duration,
    mut states: watch::Receiver<ConnectionState>,
) {
    let (in_flight, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS);
    let sending = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
            let arrives = Instant::now() + one_way;
            if in_flight.send((arrives, chunk.iter().take(bytes).copied().collect())).await.is_err() {
                break;
            }
        }
    };
    let receiving = async move {
        while let Some((arrives, chunk)) = arriving.recv().await {
            sleep_until(arrives).await;
            if !wait_until_up(&mut states).await || to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(sending, receiving);
}

/// Waits while the state is `Silent`. Returns false if it is `Refusing` then.
async fn wait_until_up(states: &mut watch::Receiver<ConnectionState>) -> bool {
    let state = states.wait_for(|state| *state != ConnectionState::Silent).await;
    state.is_ok_and(|state| *state != ConnectionState::Refusing)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn both_directions_are_delayed_and_chunks_overlap() {
        let connection = WanConnection::open(echo().await, Duration::from_millis(50)).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", connection.port())).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        let started = Instant::now();
        for _ in 0..20 {
            stream.write_all(b"x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.read_exact(&mut [0; 20]).await.unwrap();
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(100), "{took:?}");
        assert!(took < Duration::from_millis(1_000), "20 chunks in a row would take 2 s: {took:?}");
    }

    #[tokio::test]
    async fn a_silent_connection_keeps_bytes_and_a_refusing_one_closes() {
        let connection = WanConnection::open(echo().await, Duration::ZERO).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", connection.port())).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        connection.set(ConnectionState::Silent);
        stream.write_all(b"y").await.unwrap();
        let mut byte = [0; 1];
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut byte)).await;
        assert!(silent.is_err());
        connection.set(ConnectionState::Up);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
        connection.set(ConnectionState::Fenced);
        stream.write_all(b"z").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        let mut late = TcpStream::connect(("127.0.0.1", connection.port())).await.unwrap();
        assert!(late.read_exact(&mut byte).await.is_err(), "a fence admits no new connection");
        connection.set(ConnectionState::Refusing);
        assert!(stream.read_exact(&mut byte).await.is_err());
    }
}
