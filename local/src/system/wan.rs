//! The line between a region and main: a TCP proxy with a delay, which can be cut.
//!
//! Kernels can delay packets, but not on every machine and not without rights, so
//! that the line is made of bytes: each piece waits the one-way delay before it is
//! passed on, in either direction, and pieces overlap as they do on a real line.

use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Pieces on their way in one direction of one connection.
const MAX_PIECES: usize = 65_536;
const PIECE_BYTES: usize = 16_384;

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// It carries bytes.
    Up,
    /// Nothing passes and nobody is told, as when a cable is cut. What was sent
    /// arrives when the line is back, as TCP sees to.
    Silent,
    /// Connections are closed and none is accepted.
    Refusing,
}

/// A line to `target` with a listening end on 127.0.0.1.
#[derive(Debug)]
pub struct WanConnection {
    port: u16,
    state: watch::Sender<ConnectionState>,
    accepting: JoinHandle<()>,
}

impl WanConnection {
    /// Lays a line to `target` that takes `one_way` in each direction.
    pub async fn open(target: SocketAddr, one_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, states) = watch::channel(ConnectionState::Up);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *states.borrow() != ConnectionState::Refusing {
                    tokio::spawn(carry(near, target, one_way, states.clone()));
                }
            }
        });
        Ok(Self { port, state, accepting })
    }

    /// The near end's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts or restores the line.
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
    // The handshake travels, too.
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
    let (on_the_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_PIECES);
    let sending = async move {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(bytes @ 1..) = from.read(&mut piece).await {
            let arrives = Instant::now() + one_way;
            if on_the_way.send((arrives, piece.iter().take(bytes).copied().collect())).await.is_err() {
                break;
            }
        }
    };
    let receiving = async move {
        while let Some((arrives, piece)) = arriving.recv().await {
            sleep_until(arrives).await;
            if !wait_until_up(&mut states).await || to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(sending, receiving);
}

/// Waits out a silence; false where the line refuses.
async fn wait_until_up(states: &mut watch::Receiver<ConnectionState>) -> bool {
    let state = states.wait_for(|state| *state != ConnectionState::Silent).await;
    state.is_ok_and(|state| *state == ConnectionState::Up)
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
    async fn delays_both_ways_and_pieces_overlap() {
        let line = WanConnection::open(echo().await, Duration::from_millis(50)).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", line.port())).await.unwrap();
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
        assert!(took < Duration::from_millis(1_000), "20 pieces in a row would take 2 s: {took:?}");
    }

    #[tokio::test]
    async fn a_silent_line_keeps_and_a_refusing_line_closes() {
        let line = WanConnection::open(echo().await, Duration::ZERO).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", line.port())).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        line.set(ConnectionState::Silent);
        stream.write_all(b"y").await.unwrap();
        let mut byte = [0; 1];
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut byte)).await;
        assert!(silent.is_err());
        line.set(ConnectionState::Up);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
        line.set(ConnectionState::Refusing);
        assert!(stream.read_exact(&mut byte).await.is_err());
    }
}
