use super::*;
use rand::SeedableRng;
use std::collections::BTreeSet;

fn item(number: usize) -> Item {
    json!({ "k": { "S": format!("key-{number}") } }).as_object().unwrap().clone()
}

/// All records of a shard, in the order in which they are read.
fn records(stream: &Stream, shard: &str, chance: &mut SmallRng) -> Vec<u128> {
    let request = json!({ "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let (mut next, mut found, mut empty) = (Some(stream.iterator(&request).unwrap()), Vec::new(), 0);
    while let Some(token) = next.filter(|_| empty < 5) {
        let (page, after) = stream.read(&IteratorPosition::parse(&token).unwrap(), None, chance).unwrap();
        empty = if page.is_empty() { empty + 1 } else { 0 };
        found.extend(
            page.iter()
                .map(|one| one["dynamodb"]["SequenceNumber"].as_str().unwrap().parse::<u128>().unwrap()),
        );
        next = after;
    }
    found
}

#[test]
fn every_change_is_in_one_shard_once_and_children_follow_their_parents() {
    let mut chance = SmallRng::seed_from_u64(7);
    let mut stream = Stream::new(("here", "arn".into()), "NEW_IMAGE", 4, Duration::ZERO..Duration::ZERO);
    for number in 0..40_000 {
        stream.append(number % 4, &item(number), None, Some(&item(number)), &mut chance);
    }
    let (shards, last) = stream.describe(&json!({ "Limit": 3 }));
    assert_eq!((shards.len(), last.is_some()), (3, true));
    let (shards, last) = stream.describe(&json!({}));
    assert!(shards.len() > 4 && last.is_none(), "{} shards", shards.len());
    let mut all = BTreeSet::new();
    for shard in &shards {
        let found = records(&stream, shard["ShardId"].as_str().unwrap(), &mut chance);
        assert!(found.is_sorted());
        let first: u128 =
            shard["SequenceNumberRange"]["StartingSequenceNumber"].as_str().unwrap().parse().unwrap();
        assert!(found.iter().all(|number| *number >= first));
        if let Some(parent) = shard["ParentShardId"].as_str() {
            let parents = records(&stream, parent, &mut chance);
            assert!(parents.last() < Some(&first));
        }
        all.extend(found);
    }
    assert_eq!(all.len(), 40_000);
}

#[test]
fn a_record_appears_after_the_latency_and_an_iterator_ends() {
    let mut chance = SmallRng::seed_from_u64(7);
    let hour = Duration::from_secs(3_600);
    let mut stream = Stream::new(("here", "arn".into()), "NEW_IMAGE", 1, hour..2 * hour);
    stream.append(0, &item(1), None, Some(&item(1)), &mut chance);
    assert!(records(&stream, &shard_id(0), &mut chance).is_empty());
    let old = format!("arn|0|0|{}", micros_now() - 16 * 60 * 1_000_000);
    assert!(stream.read(&IteratorPosition::parse(&old).unwrap(), None, &mut chance).is_err());
    assert!(IteratorPosition::parse("arn|0").is_err());
    assert!(stream.iterator(&json!({ "ShardId": shard_id(1), "ShardIteratorType": "LATEST" })).is_err());
}

#[test]
fn a_trimmed_record_cannot_be_read_and_an_ended_shard_leaves_the_stream() {
    let mut chance = SmallRng::seed_from_u64(7);
    let mut stream = Stream::new(("here", "arn".into()), "NEW_IMAGE", 1, Duration::ZERO..Duration::ZERO);
    while stream.shards.len() < 2 {
        stream.append(0, &item(1), None, Some(&item(1)), &mut chance);
    }
    for number in 0..3 {
        stream.append(0, &item(number), None, Some(&item(number)), &mut chance);
    }
    let all = records(&stream, &shard_id(1), &mut chance);
    let at = |kind: &str, number: u128| json!({ "ShardId": shard_id(1), "ShardIteratorType": kind, "SequenceNumber": number.to_string() });
    let before = stream.iterator(&at("AT_SEQUENCE_NUMBER", all[0])).unwrap();
    stream.trim(RETENTION);
    assert_eq!(records(&stream, &shard_id(1), &mut chance), all, "they are not a day old");
    stream.trim(Duration::ZERO);
    let code = |failure: Failure| failure.into_response().status().as_u16();
    // The iterator of before, and the place behind a record that was trimmed.
    let read = stream.read(&IteratorPosition::parse(&before).unwrap(), None, &mut chance);
    assert_eq!(read.unwrap_err(), trimmed());
    assert_eq!(stream.iterator(&at("AFTER_SEQUENCE_NUMBER", all[0])).unwrap_err(), trimmed());
    assert_eq!(stream.iterator(&at("AT_SEQUENCE_NUMBER", all[2])).unwrap_err(), trimmed());
    assert_eq!(code(trimmed()), 400);
    // What comes later can be read from the trim horizon, and the ended shard is gone.
    stream.append(0, &item(9), None, Some(&item(9)), &mut chance);
    let later = records(&stream, &shard_id(1), &mut chance);
    assert_eq!(later.len(), 1);
    assert!(stream.iterator(&at("AFTER_SEQUENCE_NUMBER", all[2])).is_err());
    assert!(stream.iterator(&at("AT_SEQUENCE_NUMBER", later[0])).is_ok());
    let request = json!({ "ShardId": shard_id(0), "ShardIteratorType": "TRIM_HORIZON" });
    assert!(stream.iterator(&request).is_err());
    let (shards, _) = stream.describe(&json!({}));
    assert_eq!(shards.len(), 1);
    assert_eq!(shards[0]["ParentShardId"], shard_id(0));
}
