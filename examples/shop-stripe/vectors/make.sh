#!/usr/bin/env bash
# Makes signatures.json with OpenSSL, so that the vectors do not come from the code that they test.
set -euo pipefail
cd "$(dirname "$0")"
body='{"id":"evt_1","type":"payment_intent.succeeded"}'
t=1795500000
sign() { printf '%s.%s' "$2" "$3" | openssl dgst -sha256 -hmac "$1" -r | cut -d' ' -f1; }
new=$(sign whsec_new $t "$body")
old=$(sign whsec_old $t "$body")
vector() { # what, judged, secrets, now, header, [body]
  jq -nc --arg what "$1" --arg judged "$2" --arg secrets "$3" --argjson now "$4" --arg header "$5" \
    --arg body "${6-$body}" '$ARGS.named'
}
{
  vector "one signature" accepted whsec_new $t "t=$t,v1=$new"
  vector "another scheme beside it" accepted whsec_new $t "t=$t,v1=$new,v0=6ffbb59b"
  vector "signed with the old and the new secret, this endpoint has the new one" accepted whsec_new $t "t=$t,v1=$old,v1=$new"
  vector "signed with the old secret, this endpoint has both" accepted "whsec_new whsec_old" $t "t=$t,v1=$old"
  vector "upper case and spaces" accepted whsec_new $t "t=$t, v1=${new^^}"
  vector "300 s old" accepted whsec_new $((t + 300)) "t=$t,v1=$new"
  vector "301 s old" "too old" whsec_new $((t + 301)) "t=$t,v1=$new"
  vector "301 s in the future" "too old" whsec_new $((t - 301)) "t=$t,v1=$new"
  vector "a body in UTF-8" accepted whsec_new $t "t=$t,v1=$(sign whsec_new $t '{"name":"日本 ✓"}')" '{"name":"日本 ✓"}'
  vector "an empty body" accepted whsec_new $t "t=$t,v1=$(sign whsec_new $t '')" ''
  vector "another body" wrong whsec_new $t "t=$t,v1=$new" "$body "
  vector "another secret" wrong whsec_other $t "t=$t,v1=$new"
  vector "another time than the signed one" wrong whsec_new $((t + 1)) "t=$((t + 1)),v1=$new"
  vector "no secret" wrong "" $t "t=$t,v1=$(sign '' $t "$body")"
  vector "no v1" wrong whsec_new $t "t=$t,v0=$new"
  vector "an old one without the secret says nothing about its age" wrong whsec_other $((t + 9000)) "t=$t,v1=$new"
  vector "no time" malformed whsec_new $t "v1=$new"
  vector "two times" malformed whsec_new $t "t=$t,t=$t,v1=$new"
  vector "a negative time" malformed whsec_new $t "t=-$t,v1=$new"
  vector "a short signature" malformed whsec_new $t "t=$t,v1=${new:2}"
  vector "no hexadecimal" malformed whsec_new $t "t=$t,v1=zz${new:2}"
  vector "no header" malformed whsec_new $t ""
} | jq -s . > signatures.json
