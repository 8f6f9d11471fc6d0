//! A real database of all countries, in the public domain: what policies make of it agrees with asking it address by address.
//!
//! `.ci/setup geo` fetches it; without it these tests say so and do nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use bouncers::geo::policy::{Kind, Unknown};
use bouncers::geo::{Config, Loaded, Policy, Region};
use jiff::Timestamp;

fn database() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("geo/country.mmdb");
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED, NOT PASSED: there is no `{}`: `.ci/setup geo` fetches it", path.display());
    None
}

fn policy(name: &str, kind: Kind, regions: &[&str], unknown: Unknown) -> Policy {
    Policy {
        name: name.into(),
        kind,
        regions: regions.iter().map(|text| Region::parse(text).expect("a country")).collect(),
        except: Vec::new(),
        unknown,
        interfaces: Vec::new(),
        ports: Vec::new(),
        observe: false,
    }
}

/// Numbers that look random and are always the same.
fn numbers() -> impl Iterator<Item = u64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

#[test]
fn policies_over_all_countries_agree_with_look_ups() {
    let Some(path) = database() else { return };
    let policies = vec![
        policy("home", Kind::Allow, &["AT", "CH", "DE"], Unknown::Drop),
        policy("polite", Kind::Allow, &["AT", "CH", "DE"], Unknown::Pass),
        policy("few", Kind::Deny, &["KP", "RU", "US"], Unknown::Pass),
        policy("strict", Kind::Deny, &["CN"], Unknown::Drop),
    ];
    let config = Config { country_db: Some(path), policies, ..Config::default() };
    let loaded = Loaded::read(&config, None, Timestamp::UNIX_EPOCH).expect("a sound database");
    for (region, charted) in loaded.atlas.regions() {
        assert!(!charted.ranges.v4.is_empty() && !charted.ranges.v6.is_empty(), "{region} has both families");
        for spans in [&charted.ranges.v4, &charted.ranges.v6] {
            assert!(spans.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "{region} is merged and in order");
        }
        assert!(charted.ranges.len() <= charted.networks, "{region} has no more ranges than networks");
    }
    let v4 = numbers().take(20_000).map(|number| IpAddr::from(Ipv4Addr::from_bits(number as u32)));
    let given_out = |number: u64| 0x2000_0000_0000_0000 | (number & 0x1fff_ffff_ffff_ffff);
    // most of IPv6 is empty: half of the addresses are near networks that exist
    let near = |number: u64| (number & 0x0fff_ffff) << 32 | 0x2a00_0000_0000_0000;
    let v6 = numbers().take(20_000).map(|number| if number % 2 == 0 { given_out(number) } else { near(number) });
    let v6 = v6.map(|network| IpAddr::from(Ipv6Addr::from_bits(u128::from(network) << 64 | 1)));
    let addresses: Vec<IpAddr> = v4.chain(v6).collect();
    for policy in &config.policies {
        let dropped = policy.dropped(&loaded.atlas);
        let mut count = 0;
        for &address in &addresses {
            let at = loaded.databases.locate(address).expect("a sound database");
            let judgement = policy.judge(address, &at);
            assert_eq!(dropped.contains(address), judgement.is_drop(), "{address} under {}: {judgement}", policy.name);
            count += usize::from(judgement.is_drop());
        }
        assert!((100..addresses.len() - 100).contains(&count), "{} decides something: {count}", policy.name);
    }
}
