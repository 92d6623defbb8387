use super::*;
use proptest::prelude::*;
use serde_json::json;

fn record(item: &str, buyer: &str, micros: u64, kind: RecordKind) -> LogRecord {
    let stamp = Stamp::from_micros(micros).unwrap();
    LogRecord::new(kind, item.parse().unwrap(), UserToken::parse(buyer).unwrap(), stamp)
}

/// The attributes as the table stores them.
fn stored(record: &LogRecord) -> HashMap<String, AttributeValue> {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let mut item: HashMap<String, AttributeValue> =
        record.key().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    item.insert(name::KIND.into(), text(record.kind.text()));
    item.insert(name::EXPIRES_AT.into(), record.expires_at());
    if let Some(Refusal { reason, decided_at }) = record.refusal {
        item.insert(name::OUTCOME.into(), text(REFUSED));
        item.insert(name::REASON.into(), text(reason.slug()));
        item.insert(name::DECIDED_AT.into(), AttributeValue::N(decided_at.to_string()));
    }
    item
}

/// The same, as the stream has them.
fn image(item: &HashMap<String, AttributeValue>) -> Map<String, Value> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(digits) => json!({ "N": digits }),
        _ => json!({ "NULL": true }),
    };
    item.iter().map(|(name, one)| (name.clone(), value(one))).collect()
}

fn refusals() -> impl Strategy<Value = Option<Refusal>> {
    let refusal = (0..3_usize, 0..Stamp::LIMIT).prop_map(|(reason, at)| Refusal {
        reason: RefusalReason::ALL[reason],
        decided_at: Stamp::from_micros(at).unwrap(),
    });
    proptest::option::of(refusal)
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(
        // No id is a segment of a path.
        item in "[A-Za-z0-9._-]{1,64}".prop_filter("a path", |id| id != "." && id != ".."),
        buyer in "[!-~]{1,255}",
        micros in 0..Stamp::LIMIT,
        leaves: bool,
        refusal in refusals(),
    ) {
        let kind = if leaves { RecordKind::Leave } else { RecordKind::Order };
        let written = LogRecord { refusal, ..record(&item, &buyer, micros, kind) };
        let item = stored(&written);
        prop_assert_eq!(LogRecord::from_item(&item), Ok(written.clone()));
        prop_assert_eq!(LogRecord::from_image(&image(&item)), Ok(written));
    }

    #[test]
    fn any_text_in_an_attribute_is_refused_or_read_back_as_it_is(text in "\\PC{0,300}", at in 0..3_usize) {
        let mut item = stored(&record("shoe", "alice", 7, RecordKind::Order));
        let attribute = [name::PARTITION, name::SORT, name::KIND][at];
        item.insert(attribute.into(), AttributeValue::S(text.clone()));
        if let Ok(read) = LogRecord::from_item(&item) {
            prop_assert_eq!(&stored(&read)[attribute], &AttributeValue::S(text));
        }
    }
}

#[test]
fn keys_have_the_documented_form() {
    // SHA-256("alice") begins with 2b.
    let [(_, partition), (_, sort)] = record("shoe", "alice", 1_795_000_000_123_456, RecordKind::Order).key();
    assert_eq!(partition, AttributeValue::S("shoe#2b".into()));
    assert_eq!(sort, AttributeValue::S("alice#1795000000123456".into()));
    let [_, (_, sort)] = record("shoe", "a#b", 7, RecordKind::Leave).key();
    assert_eq!(sort, AttributeValue::S("a#b#0000000000000007".into()));
}

#[test]
fn a_malformed_record_names_the_attribute() {
    let refusal = Some(Refusal { reason: RefusalReason::TooLate, decided_at: Stamp::EPOCH });
    let item = stored(&LogRecord { refusal, ..record("shoe", "alice", 7, RecordKind::Order) });
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (attribute, wrong) in [
        (name::PARTITION, vec![text("shoe"), text("shoe#2c"), text("shoe#2B"), text("sh oe#2b"), text("")]),
        (
            name::SORT,
            vec![
                text("alice"),
                text("#0000000000000007"),
                text("alice#7"),
                text("alice#+000000000000007"),
                text("alice#9999999999999999"),
            ],
        ),
        (name::KIND, vec![text("Order"), text("")]),
        (name::OUTCOME, vec![text("queued")]),
        (name::REASON, vec![text("other")]),
        (name::DECIDED_AT, vec![text("7"), AttributeValue::N("-1".into()), AttributeValue::N("1.5".into())]),
    ] {
        for wrong in wrong.into_iter().chain([AttributeValue::Bool(true)]) {
            let mut item = item.clone();
            item.insert(attribute.into(), wrong.clone());
            let read = LogRecord::from_item(&item);
            // An outcome of another type counts as absent, as DynamoDB never converts types.
            if attribute == name::OUTCOME && wrong == AttributeValue::Bool(true) {
                assert!(read.is_ok_and(|record| record.refusal.is_none()));
            } else {
                assert_eq!(read, Err(Malformed(attribute)), "{wrong:?}");
            }
        }
        if attribute != name::OUTCOME {
            let mut without = image(&item);
            without.remove(attribute);
            assert_eq!(LogRecord::from_image(&without), Err(Malformed(attribute)));
        }
    }
}
