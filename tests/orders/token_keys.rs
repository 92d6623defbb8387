//! Keys that the issuer changes by itself: from its web server through token-keys, token-keys-store, main's Redis and the
//! replica to the functions of every region.

use anyhow::{Result, bail, ensure};
use local::aws::emulators::Moto;
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::identity::{AUDIENCE, IdentityProvider};
use local::aws::issuer::{Issuer, Publishes};
use local::aws::lambda::Invoked;
use local::system::System;
use local::system::clock::seconds_now;
use local::system::regions;
use serde_json::{Value, json};
use shared::token_keys::REFRESH_INTERVAL;
use std::time::{Duration, Instant};
use tests::{Client, announce, quick, sample};

/// Three regions whose tokens come from `issuer`, and the two functions that fetch its keys.
struct World {
    system: System,
    issuer: Issuer,
    /// The issuer of the tokens, also when its server is gone.
    url: String,
    clients: Vec<Client>,
    _functions: [FunctionProcess; 2],
}

impl World {
    async fn start(first: &IdentityProvider) -> Result<Self> {
        let issuer = Issuer::start(first.jwks()).await?;
        let mut options = quick(regions::first(3));
        options.of_edges = [("FAIRDROP_TOKEN_KEYS_FROM", "discovery"), ("FAIRDROP_TOKEN_JWKS", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        options.of_edges.push(("FAIRDROP_TOKEN_ISSUER".into(), issuer.url()));
        let system = System::start(&options).await?;
        announce(&system, "a", json!({ "stock_total": 100 })).await?;
        let invoke = system.main_invoke_api()?;
        let start = |function, environment: Vec<(String, String)>| {
            let region = system.regions[0].region.name.to_owned();
            let launch = Launch {
                function,
                region,
                concurrency: 1,
                processes: 1,
                environment,
                wrapper: Vec::new(),
                binaries: None,
            };
            FunctionProcess::start(launch, &invoke, system.logs())
        };
        let mut fetches = Moto::environment_at(&invoke.endpoint());
        let settings = [
            ("FAIRDROP_TOKEN_ISSUER", issuer.url()),
            ("FAIRDROP_TOKEN_KEYS_FROM", "discovery".into()),
            ("FAIRDROP_TOKEN_KEYS_STORE", "token-keys-store".into()),
            // One fetch at once and one after a second.
            ("FAIRDROP_TOKEN_KEYS_RUN_SECONDS", "1".into()),
            ("FAIRDROP_TOKEN_KEYS_INTERVAL_MS", "1000".into()),
        ];
        fetches.extend(settings.map(|(name, value)| (name.to_owned(), value)));
        let functions = [
            start("token-keys", fetches)?,
            start("token-keys-store", vec![("FAIRDROP_MAIN_REDIS_URL".into(), system.redis.url())])?,
        ];
        let url = issuer.url();
        let clients = (0..3).map(|index| Client::of(&system, index)).collect::<Result<_>>()?;
        Ok(Self { system, issuer, url, clients, _functions: functions })
    }

    /// Runs token-keys once. Returns how many fetches were stored, and how many failed.
    async fn fetch(&self) -> Result<(u64, u64)> {
        let invoke = self.system.main_invoke_api()?;
        match invoke.call("token-keys", &sample("token-keys.schedule.json")).await? {
            Invoked::Answer(summary) => {
                let count = |name: &str| summary[name].as_u64().unwrap_or(u64::MAX);
                Ok((count("stored"), count("failures")))
            }
            Invoked::FunctionError(error) => bail!("token-keys failed: {error}"),
        }
    }

    fn token(&self, provider: &IdentityProvider, subject: &str) -> Result<String> {
        let now = seconds_now();
        provider.sign(&json!({ "iss": self.url, "aud": AUDIENCE, "sub": subject, "exp": now + 3_600 }))
    }

    /// The status of an order of a new buyer in each region.
    async fn orders(&self, provider: &IdentityProvider) -> Result<Vec<u16>> {
        let mut found = Vec::new();
        for client in &self.clients {
            let token = self.token(provider, &format!("buyer-{}", rand::random::<u64>()))?;
            found.push(client.order("a", &token).await?.status);
        }
        Ok(found)
    }

    /// Waits until orders in every region have `status`, and returns how long it took.
    async fn until(&self, provider: &IdentityProvider, status: u16, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let found = self.orders(provider).await?;
            if found == [status; 3] {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < limit, "not {status} within {limit:?}: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stored(&self) -> Result<String> {
        let mut connection = self.system.redis.connect().await?;
        let mut asked = redis::cmd("HGET");
        Ok(asked.arg("token_keys").arg("document").query_async(&mut connection).await?)
    }
}

fn keys_of(providers: &[&IdentityProvider]) -> Value {
    let keys = providers.iter().flat_map(|provider| provider.jwks()["keys"].as_array().cloned().unwrap());
    json!({ "keys": keys.collect::<Vec<Value>>() })
}

fn provider(key_id: &str) -> IdentityProvider {
    IdentityProvider::with_key_id(key_id).unwrap()
}

/// A read of the copy, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(REFRESH_INTERVAL.as_secs() + 10);

#[tokio::test(flavor = "multi_thread")]
async fn every_region_follows_the_issuers_keys() {
    let (first, second, stranger) = (provider("first"), provider("second"), provider("stranger"));
    let world = World::start(&first).await.unwrap();
    // Nothing is configured and nothing is fetched yet: it is not the buyers' fault.
    assert_eq!(world.orders(&first).await.unwrap(), [503; 3]);
    assert_eq!(world.fetch().await.unwrap(), (2, 0));
    world.until(&first, 202, SOON).await.unwrap();

    // The issuer adds a key: all regions accept it, and the old one.
    world.issuer.publish(Publishes::Keys(keys_of(&[&first, &second])));
    assert_eq!(world.orders(&second).await.unwrap(), [401; 3]);
    assert_eq!(world.fetch().await.unwrap(), (2, 0));
    let took = world.until(&second, 202, SOON).await.unwrap();
    println!("a new key is accepted in all regions {took:?} after its fetch");
    assert_eq!(world.orders(&first).await.unwrap(), [202; 3]);

    // The issuer removes the old key: all regions refuse it.
    world.issuer.publish(Publishes::Keys(keys_of(&[&second])));
    assert_eq!(world.fetch().await.unwrap(), (2, 0));
    let took = world.until(&first, 401, SOON).await.unwrap();
    println!("a removed key is refused in all regions {took:?} after its fetch");
    assert_eq!(world.orders(&second).await.unwrap(), [202; 3]);

    // A flood of tokens that name unknown keys causes no request to the issuer.
    let before = world.issuer.requests();
    let flood = (0..300).map(|n| {
        let client = &world.clients[n % 3];
        let token = world.token(&stranger, "mallory").unwrap();
        async move { client.order("a", &token).await.unwrap().status }
    });
    assert!(futures::future::join_all(flood).await.iter().all(|status| *status == 401));
    assert_eq!(world.issuer.requests(), before);
    assert_eq!(world.orders(&second).await.unwrap(), [202; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_issuer_changes_nothing() {
    let (good, other) = (provider("good"), provider("other"));
    let mut world = World::start(&good).await.unwrap();
    assert_eq!(world.fetch().await.unwrap(), (2, 0));
    world.until(&good, 202, SOON).await.unwrap();
    let stored = world.stored().await.unwrap();
    let decoy = Issuer::start(other.jwks()).await.unwrap();
    let mut many = other.jwks();
    many["keys"] = vec![many["keys"][0].clone(); 17].into();
    let faults = [
        Publishes::Status(500),
        Publishes::Status(404),
        Publishes::Text(String::new()),
        Publishes::Text("<html>".into()),
        Publishes::Text(r#"{"keys":[]}"#.into()),
        Publishes::Text(
            json!({ "keys": [{ "kty": "RSA", "use": "enc", "n": "x", "e": "AQAB" }] }).to_string(),
        ),
        Publishes::Text(format!("{}{}", other.jwks(), " ".repeat(65_536))),
        Publishes::Keys(many),
        Publishes::OtherIssuer,
        Publishes::Redirect(format!("{}/keys", decoy.url())),
        Publishes::KeysAt("https://169.254.169.254/latest/meta-data".into()),
        Publishes::KeysAt("http://id.example/keys".into()),
        Publishes::KeysAt("file:///etc/passwd".into()),
        Publishes::Hangs,
    ];
    for fault in faults {
        world.issuer.publish(fault.clone());
        let (stored_sets, failures) = world.fetch().await.unwrap();
        assert!(stored_sets == 0 && failures >= 1, "{fault:?}: {stored_sets}, {failures}");
        assert_eq!(world.stored().await.unwrap(), stored, "{fault:?}");
    }
    assert_eq!(decoy.requests(), 0);
    // The issuer is gone.
    world.issuer = Issuer::start(other.jwks()).await.unwrap();
    assert_eq!(world.fetch().await.unwrap().0, 0);
    assert_eq!(world.stored().await.unwrap(), stored);
    tokio::time::sleep(REFRESH_INTERVAL).await;
    assert_eq!(world.orders(&good).await.unwrap(), [202; 3]);
    assert_eq!(world.orders(&other).await.unwrap(), [401; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_refuses_keys_that_cannot_be_used() {
    let good = provider("good");
    let world = World::start(&good).await.unwrap();
    let invoke = world.system.main_invoke_api().unwrap();
    let stored = invoke.call("token-keys-store", &sample("token-keys-store.keys.json")).await.unwrap();
    let Invoked::Answer(answer) = stored else { panic!("{stored:?}") };
    assert!(answer["age_seconds"].as_f64().unwrap() < 30.0, "{answer}");
    let before = world.stored().await.unwrap();
    for wrong in [
        json!({ "document": r#"{"keys":[]}"#, "fetched_ms_ago": 0 }),
        json!({}),
        json!({ "command": "list" }),
    ] {
        let refused = invoke.call("token-keys-store", &wrong).await.unwrap();
        assert!(matches!(refused, Invoked::FunctionError(_)), "{wrong}: {refused:?}");
    }
    assert_eq!(world.stored().await.unwrap(), before);
}
