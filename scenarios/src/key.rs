//! What a bucket is called.
//!
//! A bucket is named by a keyed hash of its scenario and its group value: names never meet by accident, and who does not
//! know the key cannot aim at one. The text that the field's tools show is computed only for alerts.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use sha1::{Digest as _, Sha1};
use siphasher::sip128::SipHasher24;

/// The secret behind bucket names; one a process, or one a state folder where buckets outlive the process.
#[derive(Clone)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// A key of 16 random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// What the names of all buckets of `group` derive from.
    pub(crate) fn group(&self, group: &str) -> GroupHash {
        GroupHash(self.hash(group.as_bytes()))
    }

    /// A number for a text that a bucket must recognise.
    pub(crate) fn text(&self, text: &str) -> u64 {
        self.hash(text.as_bytes()) as u64
    }

    /// The neighbourhood of an address.
    pub(crate) fn network(&self, address: Option<IpAddr>) -> Network {
        let network = match address.map(|address| address.to_canonical()) {
            None => return Network::default(),
            Some(IpAddr::V4(ip)) => 1 << 56 | u64::from(ip.to_bits() >> 8),
            Some(IpAddr::V6(ip)) => 2 << 56 | (ip.to_bits() >> 80) as u64,
        };
        Network(self.hash(&network.to_le_bytes()) as u32)
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        SipHasher24::new_with_key(&self.0).hash(bytes).as_u128()
    }

    /// Tells two keys apart without telling either.
    pub(crate) fn check(&self) -> u64 {
        self.text("which key made these names")
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// A group value as bucket names see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupHash(u128);

impl GroupHash {
    /// The name of the group's bucket under a scenario's `tag`. The hash is a secret of its own, so that mixing in what
    /// everybody knows keeps names apart.
    pub(crate) fn bucket(self, tag: u128) -> BucketKey {
        let name = self.0 ^ tag;
        BucketKey([name as u32, (name >> 32) as u32, (name >> 64) as u32])
    }

    /// Which of the 256 partitions the group belongs to, the same for all scenarios.
    pub(crate) fn partition(self) -> u8 {
        (self.0 >> 120) as u8
    }
}

/// The name of one bucket: 96 bits, of which a million buckets meet by accident once in 10^17 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey(pub(crate) [u32; 3]);

impl BucketKey {
    /// What tables place it by.
    pub(crate) fn hash(self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1]) << 32
    }
}

/// What distinguishes the buckets of a scenario from those of others: documents with the same filter and name share theirs.
pub(crate) fn tag(filter: &str, name: &str) -> u128 {
    let mut digest = sha2::Sha256::new();
    digest.update(filter.as_bytes());
    digest.update([0]);
    digest.update(name.as_bytes());
    let bytes: [u8; 32] = digest.finalize().into();
    bytes.iter().take(16).fold(0, |tag, byte| tag << 8 | u128::from(*byte))
}

/// The key of a bucket as the field's tools show it (spec: scenarios 4).
pub(crate) fn mapkey(filter: &str, group: &str, name: &str) -> String {
    let mut digest = Sha1::new();
    for (index, part) in [filter, group, name].into_iter().enumerate() {
        if index > 0 {
            digest.update([0]);
        }
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // writing to a text cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The neighbourhood that shares a quota, a /24 or a /48, as a keyed number; 0 for all that have no address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Network(pub(crate) u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_scenario_group_and_key() {
        let (a, b) = (HashKey::new([1; 16]), HashKey::new([2; 16]));
        let (ssh, web) = (tag("x", "acme/ssh"), tag("x", "acme/web"));
        let name = |key: &HashKey, tag, group| key.group(group).bucket(tag);
        assert_eq!(name(&a, ssh, "192.0.2.1"), name(&a, ssh, "192.0.2.1"));
        assert_ne!(name(&a, ssh, "192.0.2.1"), name(&a, ssh, "192.0.2.2"));
        assert_ne!(name(&a, ssh, "192.0.2.1"), name(&a, web, "192.0.2.1"));
        assert_ne!(name(&a, ssh, "192.0.2.1"), name(&b, ssh, "192.0.2.1"));
        assert_ne!(a.check(), b.check());
    }

    #[test]
    fn neighbours_share_a_network() {
        // (one, other, together)
        let cases = [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", true),
            ("2001:db8:0::1", "2001:db8:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.9", true),
            ("0.0.0.0", "::", false),
        ];
        for (one, other, together) in cases {
            let key = HashKey::new([1; 16]);
            let network = |text: &str| key.network(Some(text.parse().expect("a valid test address")));
            assert_eq!(network(one) == network(other), together, "{one} {other}");
        }
    }

    #[test]
    fn the_shown_key_is_the_fields() {
        // SHA-1 of "a\0b\0c", computed elsewhere.
        assert_eq!(mapkey("a", "b", "c"), "52aa71588488269464589bd81be624861498ca7b");
    }
}
