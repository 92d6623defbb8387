//! Values that the template must refuse, by parameter.

/// A parameter and invalid values.
pub type Wrong = (&'static str, &'static [&'static str]);

/// Every parameter that has a pattern or limits.
pub const WRONG: &[Wrong] = &[
    ("MainRegion", &["", "us-east", "Virginia", "us-east-1 "]),
    ("StandbyRegion", &["eu-west", "eu-west-1,eu-west-2"]),
    ("MainRedisEndpoint", &["", "rediss://host", "host:6379", "user:secret@host", "REPLACE_WITH_HOST"]),
    ("MainRedisPort", &["0", "65536", "redis"]),
    ("ReplicaRedisEndpoint", &["host:6379", "rediss://host"]),
    ("ReplicaRedisPort", &["0", "65536"]),
    ("LiveRedisEndpoint", &["host:6379", "rediss://host"]),
    ("LiveRedisPort", &["0", "65536"]),
    ("LiveSendsPerSecond", &["0", "100001"]),
    ("LivePublishMemory", &["255", "3009"]),
    ("RedisConnectTimeoutMs", &["9", "10001", "1s"]),
    ("RedisResponseTimeoutMs", &["9", "10001", "1s"]),
    ("WaitReplicas", &["-1", "6"]),
    ("LedgerEndpoint", &["host:5432", "postgres://host"]),
    ("LedgerPort", &["0", "65536"]),
    ("LedgerDatabase", &["", "1st", "a-b"]),
    ("LedgerUser", &["", "1st", "a:secret"]),
    ("LedgerResourceId", &["ledger", "REPLACE WITH db-...", "prx-0a1b2c3d"]),
    (
        "LedgerCaLayer",
        &["rds-ca", "REPLACE_WITH_ARN_OF_LAYER", "arn:aws:lambda:us-east-1:123456789012:layer:rds-ca"],
    ),
    ("SnapshotPrefix", &["", "Fairdrop", "a--b", "a-"]),
    ("SnapshotKeyArns", &["alias/key", "arn:aws:kms:us-east-1:123456789012:key/a,key"]),
    ("SnapshotMaxAgeSeconds", &["1799", "604801"]),
    ("DrillDatabase", &["Ledger", "a--b"]),
    ("DrillInstanceClass", &["", "t4g.medium", "db.t4g"]),
    ("DrillSubnetGroup", &["group/a"]),
    ("DrillSecurityGroups", &["default", "sg-1, sg-2"]),
    ("LeaseTable", &["ab", "a b"]),
    ("LeaseSeconds", &["3", "121"]),
    ("LeaseToleranceMs", &["49", "1501"]),
    ("MainInstance", &["Ledger"]),
    ("ReplicaInstance", &["Ledger"]),
    ("ReplicaEndpoint", &["host:5432"]),
    ("ReplicaResourceId", &["prx-1"]),
    ("WatchUser", &["", "a-b"]),
    ("RedisGroup", &["Group", "a--b"]),
    ("RedisDatastore", &["Datastore", "a--b"]),
    ("StandbyRedisEndpoint", &["host:6379", "rediss://host"]),
    ("Regions", &["us-east-1, eu-west-1", "everywhere"]),
    ("FailoverClass", &["t4g.medium"]),
    ("FenceSecurityGroup", &["default"]),
    ("LagLimitSeconds", &["3", "601"]),
    ("LagAlarmSeconds", &["3", "3601"]),
    ("NoticeRepeatMinutes", &["0", "1441"]),
    ("SlotAlarmBytes", &["1"]),
    ("WalAlarmBytes", &["1"]),
    ("RunbookUrl", &["", "a b", "https://runbook.example/"]),
    ("EncryptionKeyArn", &["alias/key"]),
    ("AlarmTopicArn", &["topic"]),
    ("OperatorRoleArn", &["operators", "arn:aws:iam::123456789012:user/a", "*"]),
    ("ShopRoleArn", &["shop", "arn:aws:iam::123456789012:user/a", "*"]),
    ("JwtAuthorizer", &["yes", ""]),
    ("IntakeProvisionedConcurrency", &["-1", "10001"]),
    ("Revision", &["", "a b"]),
    ("ManagedIntakeEnvironments", &["-1", "15001"]),
    ("ManagedIntakeMaxVCpus", &["5", "15001"]),
    ("TokenJwks", &["{}", r#"{"keys":[{"kty":"OKP","d":"x"}]}"#, r#"{"keys":[{"kty":"oct","k":"x"}]}"#]),
    ("TokenIssuer", &["", "issuer.example", "http://issuer.example"]),
    ("TokenKeysFrom", &["http://issuer.example/keys", "issuer.example", "Discovery", "https://"]),
    ("TokenAudience", &["", "REPLACE WITH AUDIENCE", "a,", "a, b"]),
    ("CorsOrigins", &["*", "http://shop.example", "https://shop.example/", "https://a.example,"]),
    ("ThrottleRate", &["0"]),
    ("ThrottleBurst", &["0"]),
    ("Architecture", &["arm", ""]),
    ("LogLevel", &["debug", "FATAL", ""]),
    ("LogRetentionDays", &["2", "0"]),
];

/// Parameters without a pattern or limits, and what refuses an invalid value.
pub const CHECKED_ELSEWHERE: &[(&str, &str)] = &[
    ("SnapshotPolicy", "snapshot-copy when it starts; the template limits the length"),
    ("SubnetIds", "CloudFormation, by their type: they must exist in the region"),
    ("SecurityGroupIds", "CloudFormation, by their type: they must exist in the region"),
];

/// Parameters and their values.
pub type Given = &'static [(&'static str, &'static str)];

/// Invalid combinations: the region, the values, and a part of the error.
pub const WRONG_TOGETHER: &[(&str, Given, &str)] = &[
    ("us-east-1", &[("StandbyRegion", "us-east-1")], "StandbyRegion must be another region"),
    ("us-east-1", &[("LedgerEndpoint", "")], "LedgerEndpoint is required in the main region"),
    ("us-east-1", &[("LedgerResourceId", "")], "LedgerResourceId is required in the main region"),
    ("eu-west-1", &[("ReplicaEndpoint", "")], "ReplicaEndpoint is required in the standby region"),
    ("eu-west-1", &[("ReplicaResourceId", "")], "ReplicaResourceId is required in the standby region"),
    ("eu-west-1", &[("MainInstance", "")], "MainInstance is required if"),
    ("eu-west-1", &[("LedgerEndpoint", "")], "LedgerEndpoint is required if"),
    ("eu-west-1", &[("LedgerResourceId", "")], "LedgerResourceId is required if"),
    ("eu-west-1", &[("ReplicaInstance", "")], "ReplicaInstance is required if"),
    ("eu-west-1", &[("LeaseTable", "")], "LeaseTable is required if"),
    ("eu-west-1", &[("RedisGroup", "")], "RedisGroup is required if"),
    ("eu-west-1", &[("StandbyRedisEndpoint", "")], "StandbyRedisEndpoint is required if"),
    ("eu-west-1", &[("Regions", "")], "Regions is required if"),
    ("us-east-1", &[("TokenJwks", ""), ("TokenKeysFrom", "")], "TokenJwks is required if"),
    (
        "us-east-1",
        &[("ManagedIntakeEnvironments", "3"), ("IntakeProvisionedConcurrency", "3")],
        "IntakeProvisionedConcurrency must be 0",
    ),
];
