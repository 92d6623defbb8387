"""Facts about permissions: what IAM sees of a request. Nothing here costs anything."""

import base64
import json
import secrets

import botocore.exceptions

from account import TAG, Account, Answer, NotAnswered

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


def code_of(call: object) -> str:
    """The error code of a call; "" if it succeeds."""
    try:
        call()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def copy_request_tags(account: Account) -> Answer:
    """A copy of a snapshot that does not exist, with three roles: AWS checks permissions before it looks.

    Without SourceRegion, so that boto3 signs no URL for the source's region: fairdrop's SDK does not either.
    """
    # The copy is requested in the other region; the source is here.
    source = account.arn("rds", f"snapshot:{account.name('source')}")
    target = account.arn("rds", f"snapshot:{account.name('copy')}", account.other_region)
    tagged = {"StringEquals": {f"aws:RequestTag/{TAG}": account.tags[TAG]}}
    on_target = {"Effect": "Allow", "Action": ["rds:CopyDBSnapshot", "rds:AddTagsToResource"], "Resource": target}
    on_source = {"Effect": "Allow", "Action": "rds:CopyDBSnapshot", "Resource": source}
    roles = {
        "none": [on_target],
        "tagged": [on_target, on_source | {"Condition": tagged}],
        "free": [on_target, on_source],
    }
    codes = {}
    for what, statements in roles.items():
        credentials = account.assume(account.role(f"copy-{what}", "", statements))
        rds = account.client("rds", account.other_region, credentials)
        codes[what] = code_of(
            lambda rds=rds: rds.copy_db_snapshot(
                SourceDBSnapshotIdentifier=source,
                TargetDBSnapshotIdentifier=account.name("copy"),
                Tags=account.key_values(),
            )
        )
    measured = "no right on the source: {none}; with a request tag: {tagged}; without: {free}".format(**codes)
    if codes["none"] not in DENIED or codes["free"] in DENIED:
        raise NotAnswered(f"the source's permissions do not decide here ({measured})")
    return Answer(codes["tagged"] in DENIED, measured)


def connect_resource_tag(account: Account) -> Answer:
    """What IAM Access Analyzer says of a policy that allows rds-db:connect by a tag."""
    statement = {
        "Effect": "Allow",
        "Action": "rds-db:connect",
        "Resource": account.arn("rds-db", "dbuser:*/fairdrop"),
        "Condition": {"StringEquals": {"aws:ResourceTag/fairdrop": "try"}},
    }
    analyzer = account.client("accessanalyzer")
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    found = analyzer.validate_policy(policyDocument=document, policyType="IDENTITY_POLICY")["findings"]
    codes = sorted({f"{one['findingType']} {one['issueCode']}" for one in found})
    return Answer(any("CONDITION" in code for code in codes), ", ".join(codes) or "no finding")


def events_source(account: Account) -> Answer:
    """A role that may send events of one source, with entries of this source, of another, and of both."""
    condition = {"ForAllValues:StringEquals": {"events:source": "fairdrop.try"}, "Null": {"events:source": "false"}}
    statement = {
        "Effect": "Allow",
        "Action": "events:PutEvents",
        "Resource": account.arn("events", "event-bus/default"),
        "Condition": condition,
    }
    events = account.client("events", credentials=account.assume(account.role("events", "", [statement])))
    entry = {"DetailType": "try", "Detail": "{}"}
    own, other = entry | {"Source": "fairdrop.try"}, entry | {"Source": "fairdrop.other"}
    codes = [
        code_of(lambda entries=entries: events.put_events(Entries=entries)) or "allowed"
        for entries in ([own], [other], [own, other])
    ]
    measured = "own source: {}; another: {}; both: {}".format(*codes)
    if codes[1] == "allowed":
        raise NotAnswered(f"no permission is enforced here ({measured})")
    return Answer(codes[0] == "allowed" and codes[2] in DENIED, measured)


def cognito_token(account: Account) -> Answer:
    """An access token of a user pool, as Cognito issues it."""
    cognito, password = account.client("cognito-idp"), f"Try-{secrets.token_urlsafe(16)}-1a"
    pool = cognito.create_user_pool(PoolName=account.name("pool"), UserPoolTags=account.tags)["UserPool"]["Id"]
    flows = ["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    made = cognito.create_user_pool_client(UserPoolId=pool, ClientName="try", ExplicitAuthFlows=flows)
    client = made["UserPoolClient"]["ClientId"]
    cognito.admin_create_user(UserPoolId=pool, Username="buyer", MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool, Username="buyer", Password=password, Permanent=True)
    answer = cognito.admin_initiate_auth(
        UserPoolId=pool,
        ClientId=client,
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "buyer", "PASSWORD": password},
    )
    token = answer["AuthenticationResult"]["AccessToken"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    is_expected = claims.get("client_id") == client and claims.get("token_use") == "access" and "aud" not in claims
    return Answer(is_expected, f"claims: {', '.join(sorted(claims))}; token_use: {claims.get('token_use')}")
