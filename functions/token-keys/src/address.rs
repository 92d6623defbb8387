//! Which addresses may be called: public ones. An issuer's document must not lead to a host inside a network.

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;
use tower::Service;

/// Resolves host names to public addresses alone. The connection is made to the addresses that were checked.
#[derive(Clone, Debug)]
pub(crate) struct PublicAddresses {
    /// For an issuer on this machine, in tests.
    pub(crate) allow_local: bool,
}

impl Service<Name> for PublicAddresses {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allow_local = self.allow_local;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let usable: Vec<SocketAddr> =
                found.filter(|address| may_be_called(address.ip(), allow_local)).collect();
            if usable.is_empty() {
                return Err(io::Error::other("the host has no public address"));
            }
            Ok(usable.into_iter())
        })
    }
}

/// Whether the host of `url` may be called as far as the URL itself shows: an address in it is never resolved.
pub(crate) fn names_public_host(url: &Uri, allow_local: bool) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    !host.is_empty() && host.parse::<IpAddr>().map_or(true, |ip| may_be_called(ip, allow_local))
}

fn may_be_called(ip: IpAddr, allow_local: bool) -> bool {
    let is_public = match ip {
        IpAddr::V4(ip) => is_public(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(ip) => is_public(ip),
            // The global unicast addresses (RFC 4291 §2.4), without those for documentation.
            None => ip.segments()[0] & 0xe000 == 0x2000 && ip.segments()[..2] != [0x2001, 0xdb8],
        },
    };
    is_public || allow_local && ip.is_loopback()
}

/// The IPv4 address that a mapped address, NAT64 (RFC 6052) or 6to4 (RFC 3056) leads to.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b) {
        (0, 0) if (c, d, e) == (0, 0, 0) => Some(of(g, h)).filter(|_| f == 0xffff),
        (0x64, 0xff9b) => Some(of(g, h)),
        (0x2002, _) => Some(of(b, c)),
        _ => None,
    }
}

/// Without the blocks of IANA's special-purpose registry (RFC 6890).
fn is_public(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_for_protocols = (a, b, c) == (192, 0, 0);
    let is_for_benchmarks = a == 198 && b & 0xfe == 18;
    let is_reserved = a == 0 || a >= 240;
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast()
        || is_shared
        || is_for_protocols
        || is_for_benchmarks
        || is_reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_may_be_called() {
        for public in
            ["8.8.8.8", "172.15.0.1", "100.128.0.1", "2606:4700::1111", "2002:808:808::1", "64:ff9b::8.8.8.8"]
        {
            assert!(may_be_called(public.parse().unwrap(), false), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "::",
            "fc00::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "2002:a00:1::1",
            "64:ff9b::10.0.0.1",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!may_be_called(private.parse().unwrap(), false), "{private}");
        }
        assert!(may_be_called("127.0.0.1".parse().unwrap(), true));
        assert!(!may_be_called("169.254.169.254".parse().unwrap(), true));
    }

    #[test]
    fn an_address_in_a_url_is_checked_too() {
        let check = |url: &str| names_public_host(&url.parse().unwrap(), false);
        assert!(check("https://id.example/keys") && check("https://8.8.8.8/keys"));
        for private in [
            "https://169.254.169.254/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://[fd00:ec2::254]/x",
            "/x",
        ] {
            assert!(!check(private), "{private}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        let error = PublicAddresses { allow_local: false }.call(name()).await.unwrap_err();
        assert!(error.to_string().contains("public"), "{error}");
        assert!(PublicAddresses { allow_local: true }.call(name()).await.is_ok());
    }
}
