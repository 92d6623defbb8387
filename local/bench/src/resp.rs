//! A load client that does as little as possible other than sending commands, so that
//! the server is measured. It is the same for the script and for the commands that the script is
//! compared with.

use anyhow::{Result, bail};
use futures::future::try_join_all;
use local::system::clock::micros_now;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Writes one command, given the order's number and stamp.
pub(crate) type Encode<'a> = &'a (dyn Fn(&mut Vec<u8>, u64, u64) + Sync);

/// Adds a command in RESP to `buffer`.
pub(crate) fn command(buffer: &mut Vec<u8>, words: &[&[u8]]) {
    buffer.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        buffer.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        buffer.extend_from_slice(word);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// Sends `orders` commands over `connections` connections, `pipeline` at a time on
/// each, and returns commands a second. Every answer must be one integer.
pub(crate) async fn rate(
    port: u16,
    connections: u64,
    pipeline: u64,
    first: u64,
    orders: u64,
    encode: Encode<'_>,
) -> Result<f64> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let each = orders / connections;
    let started = Instant::now();
    try_join_all(
        streams.into_iter().zip(0..).map(|(stream, n)| one(stream, first + n * each, each, pipeline, encode)),
    )
    .await?;
    Ok((each * connections) as f64 / started.elapsed().as_secs_f64())
}

async fn one(
    mut stream: TcpStream,
    first: u64,
    orders: u64,
    pipeline: u64,
    encode: Encode<'_>,
) -> Result<()> {
    let mut request = Vec::new();
    let mut answer = vec![0; 65_536];
    let mut number = first;
    while number < first + orders {
        let batch = pipeline.min(first + orders - number);
        request.clear();
        let stamp = micros_now();
        for n in number..number + batch {
            encode(&mut request, n, stamp - journey_micros(n));
        }
        stream.write_all(&request).await?;
        let mut missing = batch;
        while missing > 0 {
            let bytes = stream.read(&mut answer).await?;
            let read = answer.get(..bytes).unwrap_or_default();
            if bytes == 0 || read.iter().any(|byte| matches!(byte, b'-' | b'*' | b'$')) {
                bail!(
                    "Redis answered a command with something other than an integer: {}",
                    String::from_utf8_lossy(read)
                );
            }
            let answers = read.iter().filter(|byte| **byte == b'\n').count() as u64;
            missing = missing.saturating_sub(answers);
        }
        number += batch;
    }
    Ok(())
}

/// How long an order was in transit: up to 130 ms, as from five regions. Orders do not
/// reach main in the order of their stamps, and their place in the set determines the cost of
/// an insertion.
pub(crate) fn journey_micros(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & 0x1_FFFF
}
