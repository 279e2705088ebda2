//! The chapter of one owner in the world: a global counter that survives its datacenter, and moves when told to.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use dc_core::{Clock, SystemClock};
use multidc_tests::{
    eventually,
    ledger::Acknowledged,
    node::NodeProcess,
    protocol::{Answer, Command, CountReport, Outcome, Where},
};

use crate::{Demo, SOON};

/// Another one in each run: a global name outlives the processes.
fn counter_name() -> String {
    format!("ledger-{}", std::process::id())
}

/// What a take-over may take besides the lease.
const BESIDES: Duration = Duration::from_secs(2);

impl Demo {
    pub(crate) async fn one_owner_in_the_world(&mut self) -> anyhow::Result<()> {
        self.dcctl(&["dc", "intent", "set", "eu-west-1/dc-2", "serve"]).await?;
        self.dc2_comes_back().await?;
        self.say("dc-2 is back: three new processes");
        let (mut told, name) = (Vec::new(), counter_name());

        let at = Where::name("dc-2");
        self.dc1[1].must(Command::SpawnCounter { name: name.clone(), at: Some(at) }).await?;
        for node in self.all() {
            told.push(self.count(node, told.len(), SOON).await?);
        }
        let first = told[0].clone();
        ensure!(told.iter().all(|one| (&one.dc, one.epoch) == (&first.dc, first.epoch)), "several owners: {told:?}");
        ensure!(first.dc == "dc-2", "it runs in {}", first.dc);
        self.say(format!(
            "{name}, a global counter, runs in dc-2 under epoch {}; six nodes have counted to {}",
            first.epoch,
            told.len()
        ));

        let taken = self.is_taken_over(&mut told).await?;
        self.does_not_go_back(&mut told, &taken).await?;
        self.dc1_is_drained(&mut told).await?;

        let identity = format!("counter/{name}");
        let acknowledged: Vec<_> = told
            .iter()
            .enumerate()
            .map(|(n, one)| Acknowledged {
                op: format!("{n}"),
                identity: identity.clone(),
                count: one.count,
                epoch: one.epoch,
            })
            .collect();
        let found = self.log.check(&acknowledged)?;
        self.say(format!("its log, which refuses lower epochs, is in order: {found}"));
        Ok(())
    }

    async fn dc2_comes_back(&mut self) -> anyhow::Result<()> {
        self.dc2 = self.data_center("dc-2", "eu-west-1").await?;
        for node in self.all() {
            self.ready(node).await?;
        }
        Ok(())
    }

    /// One increment, tried for as long as it certainly did not run.
    async fn count(&self, node: &NodeProcess, number: usize, bound: Duration) -> anyhow::Result<CountReport> {
        let ask = Command::Count { name: counter_name(), op: format!("{number}"), timeout_ms: 1000 };
        let until = SystemClock.now() + bound;
        loop {
            let failure = match node.ask(ask.clone()).await? {
                Ok(Answer::Counted(report)) if report.outcome == Outcome::Counted => return Ok(report),
                Ok(other) => bail!("not counted: {other:?}"),
                Err(failure) => failure,
            };
            ensure!(failure.certainly_not_run, "it may have counted: {failure:?}");
            ensure!(SystemClock.now() < until, "nobody counts within {bound:?}: {failure:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn is_taken_over(&mut self, told: &mut Vec<CountReport>) -> anyhow::Result<CountReport> {
        let last = told.last().cloned().context("it has counted")?;
        for node in self.dc2.drain(..) {
            node.kill().await?;
        }
        let (killed, name) = (SystemClock.now(), counter_name());
        let bound = self.ttl + BESIDES;
        self.say(format!("killed dc-2 whole; {name} is to go on in dc-1 within {bound:?} (its lease and {BESIDES:?})"));
        let taken = self.count(&self.dc1[0], told.len(), bound + SOON).await?;
        let took = SystemClock.now() - killed;
        ensure!(taken.dc == "dc-1" && taken.epoch > last.epoch, "not taken over: {taken:?} after {last:?}");
        ensure!(taken.count == last.count + 1, "an increment was lost or doubled: {taken:?} after {last:?}");
        ensure!(took <= bound, "it took {took:?}");
        self.say(format!(
            "it goes on in dc-1 under epoch {}, counts to {}: {:.2} s after the kill",
            taken.epoch,
            taken.count,
            took.as_secs_f64()
        ));
        told.push(taken.clone());
        Ok(taken)
    }

    /// For longer than a lease after all know it again.
    async fn does_not_go_back(&mut self, told: &mut Vec<CountReport>, owner: &CountReport) -> anyhow::Result<()> {
        self.dc2_comes_back().await?;
        let back = SystemClock.now();
        while SystemClock.now() - back < self.ttl + BESIDES {
            for node in [&self.dc1[0], &self.dc2[0]] {
                let now = self.count(node, told.len(), SOON).await?;
                ensure!((now.pid, now.epoch) == (owner.pid, owner.epoch), "it went back by itself: {now:?}");
                told.push(now);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.say(format!(
            "dc-2 came back and took nothing by itself: {} is still in dc-1, epoch {}, at {}",
            counter_name(),
            owner.epoch,
            told.len()
        ));
        Ok(())
    }

    async fn dc1_is_drained(&self, told: &mut Vec<CountReport>) -> anyhow::Result<()> {
        let drainer = &self.dc1[2];
        let mut lines = drainer.lines();
        self.say("dc-1 is drained: system.drain()");
        let drained = drainer.must(Command::Drain { why: "the demo goes on".into() });
        tokio::pin!(drained);
        let mut left = None;
        let answer = loop {
            tokio::select! {
                answer = &mut drained => break answer?,
                Ok(line) = lines.recv() => {
                    if let Some(progress) = line.strip_prefix("drain: ") {
                        self.say(format!("  {progress}"));
                        left = Some(progress.to_owned());
                    }
                }
            }
        };
        // Lines come before the answer, by another way.
        while let Ok(line) = lines.try_recv() {
            if let Some(progress) = line.strip_prefix("drain: ") {
                self.say(format!("  {progress}"));
                left = Some(progress.to_owned());
            }
        }
        ensure!(answer == Answer::Drained(true), "the drain ended with {answer:?}");
        ensure!(left.as_ref().is_some_and(|left| left.ends_with(" 0 left")), "not counted down to none: {left:?}");
        let before = told.last().cloned().context("it has counted")?;
        let after = self.count(&self.dc1[0], told.len(), SOON).await?;
        ensure!(after.dc == "dc-2" && after.epoch > before.epoch, "not moved: {after:?} after {before:?}");
        ensure!(after.count == before.count + 1, "its count did not come along: {after:?} after {before:?}");
        self.say(format!(
            "{} moved to dc-2 under epoch {} with its count, and counts to {}",
            counter_name(),
            after.epoch,
            after.count
        ));
        told.push(after);
        self.dc1_stays_drained().await
    }

    async fn dc1_stays_drained(&self) -> anyhow::Result<()> {
        let draining = eventually("dc-1 DRAINING in everybody's eyes", SOON, || async {
            let status = self.dc2[0].status().await.map_err(|err| err.to_string())?;
            let dc1 = status.data_centers.iter().find(|dc| dc.id.ends_with("dc-1"));
            if dc1.is_some_and(|dc| dc.state == "DRAINING") { Ok(()) } else { Err(format!("{dc1:?}")) }
        });
        draining.await?;
        println!("{}", self.dcctl(&["dc", "list"]).await?.trim_end());
        Ok(())
    }
}
