//! A network of a test's own, with real addresses and real cuts: each place (a datacenter, the store) is a network
//! namespace, all are on one bridge, and a cut drops the packets between two of them, without a word to either.
//!
//! Nothing has a name that could stay behind. A namespace lives as long as the process that holds it, and that one ends
//! when its standard input does: with [`Network`], or with the test's process, however that ends (a failed check, Ctrl-C,
//! SIGKILL). Before it goes it kills what still runs in the namespace; interfaces and rules go with it.
//!
//! Needs root, `ip`, `nft`, `unshare` and `nsenter`. What is missing is a failure, never a skipped test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use crate::launch::Launch;

/// Says that it is there, waits for the end of its standard input, kills what runs beside it.
const HOLD: &str = r#"
    echo held
    cat > /dev/null
    mine=$(readlink /proc/self/ns/net)
    for process in /proc/[0-9]*; do
        [ "$process" = "/proc/$$" ] && continue
        [ "$(readlink "$process/ns/net" 2> /dev/null)" = "$mine" ] && kill -9 "${process#/proc/}"
    done
    exit 0
"#;

/// What comes from these addresses is dropped.
const RULES: &str = "
    table inet cut {
        set from { type ipv4_addr; }
        chain arriving { type filter hook input priority 0; policy accept; ip saddr @from drop; }
    }
";

const INSTRUCTION: &str = "cuts between real addresses need root and the programs `ip`, `nft`, `unshare` and `nsenter`: \
    `apt-get install iproute2 nftables util-linux`, and run the tests as root (in a container: with --privileged)";

/// A namespace, for as long as this lives.
#[derive(Debug)]
struct Held(Child);

impl Held {
    fn new() -> anyhow::Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", HOLD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is not meant for it: it has to clean up.
            .process_group(0)
            .spawn()
            .context(INSTRUCTION)?;
        let mut said = String::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut said)?;
        if said.trim() != "held" {
            let mut why = String::new();
            child.stderr.take().context("stderr is piped")?.read_to_string(&mut why)?;
            child.wait()?;
            bail!("{INSTRUCTION}; unshare says: {}", why.trim());
        }
        Ok(Self(child))
    }

    fn launch(&self) -> Launch {
        Launch::behind(["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id()), "--".to_owned()])
    }

    /// Runs `program` within, with this input.
    fn run(&self, program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
        run(&self.launch(), program, args, input)
    }
}

impl Drop for Held {
    /// As at the end of the test's process: its standard input ends.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // There is nothing to be done about one that cannot be waited for.
        let _ = self.0.wait();
    }
}

fn run(launch: &Launch, program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = launch
        .command(program.as_ref())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(INSTRUCTION)?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {args:?} < {input:?}: {}; {INSTRUCTION}", said.trim());
    Ok(())
}

/// One place of a network.
#[derive(Debug)]
pub struct Place {
    name: &'static str,
    address: Ipv4Addr,
    held: Held,
}

impl Place {
    /// What it is reached at, from all places and from the test itself.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// How a program is started there.
    pub fn launch(&self) -> Launch {
        self.held.launch()
    }
}

/// Places that reach each other, until they are cut. Dropped, everything in them is killed and they are gone.
#[derive(Debug)]
pub struct Network {
    places: Vec<Place>,
    gateway: Ipv4Addr,
    link: String,
    _hub: Held,
}

impl Network {
    /// Makes these places.
    ///
    /// # Errors
    ///
    /// The machine does not allow it, or lacks a program; says what is needed.
    pub fn new(names: &[&'static str]) -> anyhow::Result<Self> {
        let hub = Held::new()?;
        let (link, net) = Self::reserve(&hub)?;
        let address = |last: u8| Ipv4Addr::new(198, 18, net, last);
        let gateway = address(1);
        let up = format!("addr add {gateway}/24 dev {link}\nlink set {link} up\n");
        run(&Launch::default(), "ip", &["-batch", "-"], &up)?;
        let bridge = "link add bridge0 type bridge\nlink set test master bridge0 up\nlink set bridge0 up\n";
        hub.run("ip", &["-batch", "-"], bridge)?;
        let mut places = Vec::new();
        for (number, name) in (10_u8..).zip(names) {
            let (held, address) = (Held::new()?, address(number));
            let pid = held.0.id();
            let plug = format!(
                "link add p{number} type veth peer name eth0 netns {pid}\nlink set p{number} master bridge0 up\n"
            );
            hub.run("ip", &["-batch", "-"], &plug)?;
            let up = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
            held.run("ip", &["-batch", "-"], &up)?;
            held.run("nft", &["-f", "-"], RULES)?;
            places.push(Place { name, address, held });
        }
        Ok(Self { places, gateway, link, _hub: hub })
    }

    /// The test's own way into the network: an interface whose name, and so whose addresses, no other network has. From
    /// 198.18.0.0/15, which is set apart for tests of networks (RFC 2544).
    fn reserve(hub: &Held) -> anyhow::Result<(String, u8)> {
        let mut last = None;
        for net in 0..=u8::MAX {
            let link = format!("multidc{net}");
            let add = format!("link add {link} type veth peer name test netns {}\n", hub.0.id());
            match run(&Launch::default(), "ip", &["-batch", "-"], &add) {
                Ok(()) => return Ok((link, net)),
                Err(error) if format!("{error:#}").contains("File exists") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("there are 256")?)
    }

    /// A place.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn place(&self, name: &str) -> anyhow::Result<&Place> {
        self.places.iter().find(|place| place.name == name).with_context(|| format!("no place {name}"))
    }

    /// Where programs in the places reach the test's process, which no cut keeps them from.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The interface that leads from the test's process into the network.
    pub fn interface(&self) -> &str {
        &self.link
    }

    /// From now on no packet passes between two places.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place), or `nft` failed.
    pub fn cut(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.change("add", one, other)
    }

    /// Packets pass again between two places that are cut from each other.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn heal(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.change("delete", one, other)
    }

    /// Cuts a place from all others.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn cut_off(&self, name: &str) -> anyhow::Result<()> {
        self.others(name).try_for_each(|other| self.cut(name, other))
    }

    /// Ends [`cut_off`](Self::cut_off).
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn let_in(&self, name: &str) -> anyhow::Result<()> {
        self.others(name).try_for_each(|other| self.heal(name, other))
    }

    fn others<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'static str> + 'a {
        self.places.iter().map(|place| place.name).filter(move |other| *other != name)
    }

    fn change(&self, verb: &str, one: &str, other: &str) -> anyhow::Result<()> {
        let (one, other) = (self.place(one)?, self.place(other)?);
        for (at, from) in [(one, other), (other, one)] {
            at.held.run("nft", &["-f", "-"], &format!("{verb} element inet cut from {{ {} }}\n", from.address))?;
        }
        Ok(())
    }
}
