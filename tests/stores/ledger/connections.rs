//! Failed connections, a server that cannot write, and the verification of TLS.

use super::*;
use local::system::folder::WorkFolder;
use local::system::postgres::Certificate;

#[tokio::test(flavor = "multi_thread")]
async fn dead_connections_are_replaced_without_failing_a_batch() {
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 100).await;
    for n in 0..5 {
        join_all((0..4).map(|_| ledger.ready())).await;
        by_hand(
            &server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fairdrop'",
        )
        .await
        .unwrap();
        // As after a freeze of the process: the pool does not know yet.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        ledger.record(&item_id, &[held(&format!("buyer-{n}"), n)], Permit::Unleased).await.unwrap();
    }
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_write_is_unavailable_until_it_can() {
    let mut server = LedgerServer::start().await.unwrap();
    let item_id = item(&server.ledger, "a", 100).await;
    let is_unavailable = |error: &LedgerError| matches!(error, LedgerError::Unavailable(_));

    // As with a full disk, or while the server is replaced.
    by_hand(&server, "ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    by_hand(&server, "SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap_err();
    assert!(is_unavailable(&error), "{error}");
    by_hand(&server, "SET default_transaction_read_only = off").await.unwrap();
    let back = "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; ALTER SYSTEM RESET default_transaction_read_only";
    let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
    for statement in back.split("; ") {
        connection.execute(statement).await.unwrap();
    }
    connection.execute("SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.ledger.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();

    // Another transaction locks the item's row for longer than the limit of a statement.
    let mut transaction = connection.begin().await.unwrap();
    transaction.execute("SELECT * FROM fairdrop.items FOR UPDATE").await.unwrap();
    let started = Instant::now();
    let error = server.ledger.record(&item_id, &[held("y", 1)], Permit::Unleased).await.unwrap_err();
    assert!(
        is_unavailable(&error) && started.elapsed() < ledger::CALL_LIMIT,
        "{error} {:?}",
        started.elapsed()
    );
    transaction.rollback().await.unwrap();
    server.ledger.record(&item_id, &[held("y", 1)], Permit::Unleased).await.unwrap();

    server.postgres.kill();
    let error = server.ledger.record(&item_id, &[held("z", 2)], Permit::Unleased).await.unwrap_err();
    assert!(is_unavailable(&error), "{error}");
    server.postgres.restart().await.unwrap();
    server.ledger.record(&item_id, &[held("z", 2)], Permit::Unleased).await.unwrap();
    assert_eq!(server.ledger.item(&item_id).await.unwrap().units_taken, 3);
}

#[tokio::test]
async fn tls_is_verified_by_name_and_authority() {
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        (certificate, rcgen::Issuer::new(parameters, key))
    };
    let ((trusted, issuer), (other, _)) = (authority(), authority());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap().pem();
    let folder = WorkFolder::new().unwrap();
    let tls = Certificate { certificate: &certificate, key: &key.serialize_pem() };
    let server = Postgres::start_with_tls(folder.path(), "postgres", tls).await.unwrap();
    let with = async |host: &str, authority: &str| {
        let file = folder.path().join("authority.pem");
        std::fs::write(&file, authority).unwrap();
        let url = format!("postgres://fairdrop@{host}:{}/postgres?sslmode=verify-full", server.port());
        let source = |name: &str| match name {
            "FAIRDROP_LEDGER_URL" => Some(url.clone()),
            "FAIRDROP_LEDGER_CA_FILE" => Some(file.to_str().unwrap().to_owned()),
            _ => None,
        };
        Ledger::from_config(&source).unwrap().ready().await
    };
    assert_eq!(with("localhost", &trusted).await, Ok(()));
    assert!(matches!(with("localhost", &other).await, Err(LedgerError::Unavailable(_))));
    assert!(matches!(with("127.0.0.1", &trusted).await, Err(LedgerError::Unavailable(_))));
}
