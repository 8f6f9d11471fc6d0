//! `cordon bench geo`: how long a real database takes to become policies, and policies to get into the kernel.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use bouncers::engine::plan::Placement;
use bouncers::engine::{Bouncer, Extent, Never, Wanted};
use bouncers::geo::part::part;
use bouncers::geo::policy::{Kind, Unknown};
use bouncers::geo::{Code, Config as Geo, Loaded, Policy, Region};
use bouncers::nftables::{Nftables, Options};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{Format, Global};
use crate::{output, sandbox};

/// Neighbours, so that what is left of the world falls into many pieces.
const CHOSEN: [&str; 3] = ["AT", "CH", "DE"];
/// What either step may take, in seconds.
const LIMIT: f64 = 1.0;
/// How often each is tried; the best counts.
const RUNS: usize = 3;

/// What one policy took.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// The policy in words.
    what: &'static str,
    /// Ranges that it drops.
    ranges: usize,
    /// From the file to the ranges, in seconds.
    compiled: f64,
    /// From the ranges to rules in the kernel that look at them, in seconds.
    loaded: f64,
    /// What either may take.
    limit: f64,
}

pub(crate) fn run(global: &Global, database: &Path) -> anyhow::Result<()> {
    if !sandbox::is_inside() {
        return sandbox::enter();
    }
    let figures = figures(database)?;
    match global.output {
        Format::Json | Format::Raw => output::json(&figures)?,
        Format::Human => {
            for Figure { what, ranges, compiled, loaded, limit } in &figures {
                let text = format!("{what}: {ranges} ranges, compiled in {compiled:.3} s, loaded in {loaded:.3} s");
                output::line(&format!("{text} (at most {limit} s each)"))?;
            }
        }
    }
    ensure!(figures.iter().all(|figure| figure.compiled <= LIMIT && figure.loaded <= LIMIT), "too slow");
    Ok(())
}

/// The figures of `database`. Changes the kernel's table `cordon_bench_geo` in the network namespace of this process.
pub(crate) fn figures(database: &Path) -> anyhow::Result<Vec<Figure>> {
    let chosen = CHOSEN.into_iter().filter_map(Code::parse).map(Region::Country);
    let others = (b'A'..=b'Z').flat_map(|a| (b'A'..=b'Z').map(move |b| [char::from(a), char::from(b)]));
    let others = others.filter_map(|letters| Code::parse(&String::from_iter(letters)));
    let others = others.filter(|code| code.name().is_some()).map(Region::Country);
    let others = others.filter(|region| !CHOSEN.contains(&region.to_string().as_str()));
    let policy = |kind, regions, unknown| Policy {
        name: "bench".to_owned(),
        kind,
        regions,
        except: Vec::new(),
        unknown,
        interfaces: Vec::new(),
        ports: Vec::new(),
        observe: false,
    };
    let policies = [
        ("only three countries may come in", policy(Kind::Allow, chosen.collect(), Unknown::Drop)),
        ("all but three countries are denied", policy(Kind::Deny, others.collect(), Unknown::Pass)),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start")?;
    policies.into_iter().map(|(what, policy)| runtime.block_on(measure(database, what, policy))).collect()
}

async fn measure(database: &Path, what: &'static str, policy: Policy) -> anyhow::Result<Figure> {
    // not every country has networks in every database
    let geo =
        Geo { country_db: Some(database.into()), policies: vec![policy.clone()], min_networks: 0, ..Geo::default() };
    let mut figure = Figure { what, ranges: 0, compiled: f64::MAX, loaded: f64::MAX, limit: LIMIT };
    let mut nftables = Nftables::open(Options { table: "cordon_bench_geo".to_owned(), ..Options::default() })?;
    let parts = nftables.parts();
    nftables.rebuild(Wanted::of(&Placement::new(), &Never::default()), Extent::Exactly, Timestamp::now()).await?;
    for run in 0..RUNS {
        let began = Instant::now();
        let read = Loaded::read(&geo, None, Timestamp::now())?;
        let dropped = policy.dropped(&read.atlas);
        figure.ranges = dropped.len();
        figure.compiled = figure.compiled.min(began.elapsed().as_secs_f64());
        let began = Instant::now();
        let (part, _) = part(&[(policy.clone(), dropped)], &Default::default(), true, run % 2 == 1);
        parts.put(Some(part));
        let check = nftables.check(Vec::new()).await?;
        figure.loaded = figure.loaded.min(began.elapsed().as_secs_f64());
        ensure!(parts.refusal().borrow().is_none() && check.is_good(), "the kernel does not hold what it was given");
    }
    nftables.teardown().await?;
    Ok(figure)
}
