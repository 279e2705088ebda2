//! What a run is told on its command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use super::{chaos::Setting, control::Plant};

/// What the datacenters meet on; servers are started for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Plane {
    /// NATS JetStream.
    Nats,
    /// etcd.
    Etcd,
    /// One file.
    Sqlite,
}

/// Three datacenters under load and chaos, followed message by message.
///
/// Exits with 1 if any guarantee was seen broken or anything grew, with 2 if the run could not be carried out.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// How long load and chaos last, in minutes; starting, measuring the peak and checking come on top.
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// What the datacenters meet on.
    #[arg(long, value_enum, default_value = "nats")]
    pub control_plane: Plane,
    /// Servers of the store, 1 or 3.
    #[arg(long, default_value_t = 3)]
    pub store_servers: usize,
    /// Seed of schedule and load; drawn and printed if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Share of the measured peak that is sent.
    #[arg(long, default_value_t = 0.8)]
    pub load: f64,
    /// Messages a second of all nodes together, instead of a share of the peak, which is then not measured.
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long the peak is measured, in seconds.
    #[arg(long, default_value_t = 12)]
    pub peak_secs: u64,
    /// Mean time from one fault to the next, in seconds.
    #[arg(long, default_value_t = 20.0)]
    pub every_secs: f64,
    /// No faults at all.
    #[arg(long)]
    pub calm: bool,
    /// Datacenters.
    #[arg(long, default_value_t = 3)]
    pub dcs: usize,
    /// Nodes of each.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Tasks of each node that send.
    #[arg(long, default_value_t = 12)]
    pub workers: usize,
    /// Named targets on each node.
    #[arg(long, default_value_t = 2)]
    pub targets: usize,
    /// Identities of each of the three kinds of grains.
    #[arg(long, default_value_t = 40)]
    pub grains: u32,
    /// Links over mutual TLS.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub tls: bool,
    /// Page to write, with its curves in an SVG file beside it.
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Figures for programs, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Plants a fault in a node, `FAULT@PLACE`, to see that the run finds it; may be given several times.
    #[arg(long, value_parser = plant)]
    pub plant: Vec<(Plant, usize)>,
    /// Keep the nodes' logs in this directory.
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

fn plant(text: &str) -> Result<(Plant, usize), String> {
    let (fault, place) = text.split_once('@').ok_or("must be FAULT@PLACE, such as twice@3")?;
    let fault = Plant::from_str(fault, true)?;
    Ok((fault, place.parse().map_err(|_| format!("{place:?} is no place: a number from 0"))?))
}

impl Options {
    /// Checks what no single option can.
    ///
    /// # Errors
    ///
    /// Names the option, its value and the rule.
    pub fn check(&self) -> anyhow::Result<()> {
        let places = self.dcs * self.nodes;
        let rules: [(&str, String, bool, &str); 7] = [
            (
                "--minutes",
                self.minutes.to_string(),
                self.minutes > 0.0 && self.minutes <= 1440.0,
                "above 0, up to 1440",
            ),
            ("--load", self.load.to_string(), self.load > 0.0 && self.load <= 1.0, "above 0, up to 1"),
            ("--rate", format!("{:?}", self.rate), self.rate.is_none_or(|rate| rate >= 1.0), "at least 1"),
            ("--dcs and --nodes", places.to_string(), (1..=64).contains(&places), "1 to 64 in all"),
            ("--every-secs", self.every_secs.to_string(), self.every_secs >= 1.0, "at least 1"),
            ("--workers", self.workers.to_string(), self.workers > 0 && self.targets > 0, "at least 1, as --targets"),
            (
                "--plant",
                format!("{:?}", self.plant),
                self.plant.iter().all(|(_, place)| *place < places),
                "a place from 0, below --dcs times --nodes",
            ),
        ];
        for (option, value, holds, rule) in rules {
            anyhow::ensure!(holds, "{option} {value}: must be {rule}");
        }
        Ok(())
    }

    /// How long load and chaos last.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// What the schedule is drawn for.
    pub fn setting(&self) -> Setting {
        let every = Duration::from_secs_f64(self.every_secs);
        Setting {
            length: if self.calm { Duration::ZERO } else { self.length().saturating_sub(every / 2) },
            every,
            dcs: self.dcs,
            per_dc: self.nodes,
            servers: self.control_plane != Plane::Sqlite,
            tls: self.tls,
        }
    }
}
