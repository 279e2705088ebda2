//! What a system costs its store while nothing happens: requests per second, counted at the servers.

use std::time::{Duration, Instant};

use multidc_tests::distance::Distance;

use crate::{machine, requests::client_requests, steady::Options, table};

/// Windows that are counted one by one, so that a disturbed one shows.
const WINDOWS: u32 = 6;

pub(crate) async fn run(options: &Options, store: &str, seed: u64) -> anyhow::Result<()> {
    let site = options.begin(store, Distance::NEAR, seed).await?;
    let mut rates = Vec::new();
    let before = site.counts().await?;
    let begun = Instant::now();
    let mut counted = client_requests(&site.fleet.store).await?;
    for n in 0..WINDOWS {
        let start = Instant::now();
        tokio::time::sleep(options.length() / WINDOWS).await;
        let now = client_requests(&site.fleet.store).await?;
        let rate = (now - counted) / start.elapsed().as_secs_f64();
        println!("window {n}: {rate:.1} requests/s; {}", machine::load());
        counted = now;
        rates.push(rate);
    }
    let length = begun.elapsed();
    let after = site.counts().await?;
    let own = |name: &str| per_second(after[name] - before[name], length);
    rates.sort_by(f64::total_cmp);
    let (least, most) = (rates[0], rates[rates.len() - 1]);
    let median = rates[rates.len() / 2];
    let nodes = site.nodes.len();
    let row = vec![
        format!("{median:.1}"),
        format!("{least:.1} - {most:.1}"),
        format!("{:.2}", median / nodes as f64),
        format!("{:.1}", own("requests")),
        format!("{:.1}", own("renewals")),
    ];
    let title = format!("Requests to {store} per second of an idle system, {} x {} nodes", options.dcs, options.nodes);
    let head = ["all, median", "least - most", "per node", "of ownership", "renewals"];
    table::print(&title, &head, &[row]);
    println!("{WINDOWS} windows in {:.0} s; {}", length.as_secs_f64(), machine::load());
    Ok(())
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
