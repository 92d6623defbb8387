use super::*;
use crate::queue::{MAX_LIFE, ORDER_SCRIPTS, REPLACE_AFTER, REPLACE_JITTER};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// The number of a connection, and the name of a command that came on it.
type Received = Arc<Mutex<Vec<(usize, String)>>>;

/// A server of Redis's protocol. After `MUTE` a connection gets no answer any more, and after
/// `CLOSE` it ends. It answers `WHICH` with the number of its connection, `SLOW` likewise after 300 ms,
/// `EVALSHA` and `EXEC` with `error`, and all else with `OK`.
struct FakeRedis {
    address: SocketAddr,
    received: Received,
}

impl FakeRedis {
    fn start(error: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), received: Received::default() };
        let received = fake.received.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (stream, received) = (stream.unwrap(), received.clone());
                std::thread::spawn(move || serve(number, &stream, &received, error));
            }
        });
        fake
    }

    fn link(&self, scripts: Scripts) -> Link {
        let url = format!("redis://{}", self.address);
        let source = |name: &str| (name == "FAIRDROP_MAIN_REDIS_URL").then(|| url.clone());
        Link::with_scripts(RedisConfig::main(&source).unwrap(), scripts)
    }

    /// The names of the commands on connection `number`, without the client's own greeting.
    fn commands_of(&self, number: usize) -> Vec<String> {
        let received = self.received.lock().unwrap();
        let of_number = received.iter().filter(|(on, name)| *on == number && name != "CLIENT");
        of_number.map(|(_, name)| name.clone()).collect()
    }
}

fn serve(number: usize, stream: &TcpStream, received: &Received, error: &str) {
    let mut requests = BufReader::new(stream);
    let mut is_mute = false;
    while let Some(name) = next_command(&mut requests) {
        received.lock().unwrap().push((number, name.clone()));
        if is_mute {
            continue;
        }
        is_mute = name == "MUTE";
        let answer = match name.as_str() {
            "WHICH" => format!(":{number}"),
            "SLOW" => {
                std::thread::sleep(Duration::from_millis(300));
                format!(":{number}")
            }
            "EVALSHA" | "EXEC" => format!("-{error}"),
            _ => "+OK".to_owned(),
        };
        let mut stream = stream;
        if stream.write_all(format!("{answer}\r\n").as_bytes()).is_err() || name == "CLOSE" {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// The first word of the next command; `None` at the end of the stream.
fn next_command(requests: &mut impl BufRead) -> Option<String> {
    let mut words = (0..number_after(b'*', requests)?).map(|_| {
        let mut word = vec![0; number_after(b'$', requests)? + 2];
        requests.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        String::from_utf8(word).ok()
    });
    let name = words.next()??;
    words.all(|word| word.is_some()).then_some(name)
}

fn number_after(mark: u8, requests: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    requests.read_line(&mut line).ok()?;
    line.strip_prefix(char::from(mark))?.trim_end().parse().ok()
}

async fn send(link: &Link, name: &str) {
    link.call(async |mut connection| redis::cmd(name).query_async::<redis::Value>(&mut connection).await)
        .await
        .unwrap();
}

async fn number_of(link: &Link, name: &str) -> usize {
    link.call(async |mut connection| redis::cmd(name).query_async(&mut connection).await).await.unwrap()
}

#[tokio::test]
async fn a_failed_connection_attempt_is_replaced() {
    // Nothing listens there any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = |name: &str| (name == "FAIRDROP_MAIN_REDIS_URL").then(|| format!("redis://{address}"));
    let link = Link::new(RedisConfig::main(&source).unwrap());
    let (first, opening) = link.opening().unwrap();
    // While the attempt is in progress, all callers share it.
    assert_eq!(link.opening().unwrap().0, first);
    assert!(opening.await.is_err());
    assert_eq!(link.opening().unwrap().0, first + 1);
}

/// How Redis 6.2 and Redis 7 answer a script that writes on a replica, and how a replica without its primary answers.
#[tokio::test]
async fn an_error_that_only_a_replica_returns_ends_the_connection() {
    let cases = [
        (
            "ERR Error running script (call to f_9): @user_script:14: @user_script: 14: -READONLY You can't write \
             against a read only replica. ",
            Some("READONLY"),
        ),
        (
            "READONLY You can't write against a read only replica. script: 9, on @user_script:14.",
            Some("READONLY"),
        ),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Some("MASTERDOWN"),
        ),
        ("ERR Error running script (call to f_9): @user_script:3: user_script:3: attempt to index nil", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value: READONLY", None),
    ];
    for (error, code) in cases {
        let server = FakeRedis::start(error);
        let link = server.link(&[]);
        let command =
            async |mut connection| redis::cmd("EVALSHA").query_async::<redis::Value>(&mut connection).await;
        let refused = link.call(command).await;
        let Err(LinkError::Refused(text)) = refused else { panic!("{error}: {refused:?}") };
        assert_eq!(code.is_some_and(|code| text == code), code.is_some(), "{error}: {text}");
        assert_eq!(number_of(&link, "WHICH").await, usize::from(code.is_some()), "{error}");
    }
}

#[tokio::test]
async fn scripts_are_loaded_ahead_of_the_first_command_and_cost_it_no_round_trip() {
    let server = FakeRedis::start("ERR unexpected");
    let link = server.link(ORDER_SCRIPTS);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    assert_eq!(server.commands_of(0), ["SCRIPT", "SCRIPT", "WHICH"]);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    assert_eq!(server.commands_of(0), ["SCRIPT", "SCRIPT", "WHICH", "WHICH"]);
}

#[tokio::test]
async fn an_old_connection_is_replaced_beside_its_commands_in_flight() {
    let server = FakeRedis::start("ERR unexpected");
    let link = server.link(&[]);
    assert_eq!(number_of(&link, "WHICH").await, 0);

    // Due, but not over: calls keep the old connection until the new one is open.
    let slow = tokio::spawn({
        let link = link.clone();
        async move { number_of(&link, "SLOW").await }
    });
    tokio::task::yield_now().await;
    link.slot().make_older(REPLACE_AFTER + REPLACE_JITTER);
    let (mut current, began) = (0, Instant::now());
    while current == 0 && began.elapsed() < Duration::from_secs(5) {
        let (_, opening) = link.opening().unwrap();
        assert!(opening.peek().is_some(), "a caller would have to wait");
        current = number_of(&link, "WHICH").await;
    }
    assert_eq!(current, 1);
    assert_eq!(slow.await.unwrap(), 0);

    // Over: the next call waits for a new connection, and the command in flight gets its answer.
    let slow = tokio::spawn({
        let link = link.clone();
        async move { number_of(&link, "SLOW").await }
    });
    tokio::task::yield_now().await;
    link.slot().make_older(MAX_LIFE);
    assert_eq!(number_of(&link, "WHICH").await, 2);
    assert_eq!(slow.await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_used_if_it_answers() {
    let server = FakeRedis::start("ERR unexpected");
    let link = server.link(&[]);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    // As after an hour for which Lambda had the process frozen.
    link.slot().make_idle(Duration::from_secs(3_600));
    assert_eq!(number_of(&link, "WHICH").await, 0);
    assert_eq!(server.commands_of(0), ["WHICH", "PING", "WHICH"]);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    assert_eq!(server.commands_of(0).len(), 4, "one PING is enough");
    assert!(server.commands_of(1).is_empty());
    // It is replaced soon, beside its commands.
    link.slot().make_older(REPLACE_JITTER);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    let began = Instant::now();
    while number_of(&link, "WHICH").await == 0 {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_new_connection_opens_beside_an_idle_one_that_is_silent() {
    let server = FakeRedis::start("ERR unexpected");
    let link = server.link(&[]);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    send(&link, "MUTE").await;
    link.slot().make_idle(Duration::from_secs(3_600));
    let began = Instant::now();
    assert_eq!(number_of(&link, "WHICH").await, 1);
    let took = began.elapsed();
    assert!(took >= HEDGE_AFTER && took < link.0.config.response_timeout, "{took:?}");
}

#[tokio::test]
async fn an_idle_connection_that_the_server_has_closed_is_replaced_at_once() {
    let server = FakeRedis::start("ERR unexpected");
    let link = server.link(&[]);
    assert_eq!(number_of(&link, "WHICH").await, 0);
    send(&link, "CLOSE").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    link.slot().make_idle(Duration::from_secs(3_600));
    let began = Instant::now();
    assert_eq!(number_of(&link, "WHICH").await, 1);
    assert!(began.elapsed() < HEDGE_AFTER, "{:?}", began.elapsed());
}
