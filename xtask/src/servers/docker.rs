//! Servers in Docker: which image, pulled or built, and the binary inside it.
//!
//! Wanted are the official images, pinned. Where no registry answers, an image is built from a
//! binary of this machine: `FROM scratch` plus the files that `ldd` names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Kind, Server};
use crate::process;

/// What a pull may take; 20 MB and 60 MB.
const PULL: Duration = Duration::from_secs(180);
/// What an answer of the engine may take.
const ANSWER: Duration = Duration::from_secs(20);

/// The official image, pinned; the same pins stand in `tests/docker/compose.yaml`.
pub(crate) fn pinned(kind: Kind) -> &'static str {
    match kind {
        Kind::Nats => "nats:2.12.1",
        Kind::Etcd => "quay.io/coreos/etcd:v3.5.25",
    }
}

/// The variable that names another image, for us and for the compose file.
pub(crate) fn variable(kind: Kind) -> &'static str {
    match kind {
        Kind::Nats => "NATS_IMAGE",
        Kind::Etcd => "ETCD_IMAGE",
    }
}

/// Where the official image, and ours, have the binary.
fn inside(kind: Kind) -> &'static str {
    match kind {
        Kind::Nats => "/nats-server",
        Kind::Etcd => "/usr/local/bin/etcd",
    }
}

/// An image that this engine has.
pub(crate) struct Image {
    pub(crate) name: String,
    /// Where it came from, for people.
    pub(crate) origin: String,
}

/// The engine's version, if one answers.
pub(crate) fn engine() -> Result<String> {
    let asked = ["version", "--format", "{{.Server.Version}}"];
    let version =
        process::output(process::command("docker").args(asked), ANSWER).context("no Docker engine answers")?;
    Ok(version.trim().to_owned())
}

/// The image to run: the user's, the pinned one (pulled if need be), or one built here.
pub(crate) fn image(kind: Kind, dir: &Path) -> Result<Image> {
    match official(kind) {
        Ok(image) => Ok(image),
        Err(error) if std::env::var_os(variable(kind)).is_some() || process::interrupted() => Err(error),
        Err(error) => {
            eprintln!("docker: {error:#}; building an image from a binary instead");
            build(kind, dir)
        }
    }
}

/// The user's image or the pinned one, pulled if it is not there.
fn official(kind: Kind) -> Result<Image> {
    let (name, whose) = match std::env::var(variable(kind)) {
        Ok(name) => (name, format!("named by {}", variable(kind))),
        Err(_) => (pinned(kind).to_owned(), "official, pinned".to_owned()),
    };
    if !is_here(&name) {
        process::output(process::command("docker").args(["pull", "--quiet", &name]), PULL)?;
    }
    Ok(Image { name, origin: whose })
}

fn is_here(image: &str) -> bool {
    let asked = ["image", "inspect", "--format", "{{.Id}}", image];
    process::output(process::command("docker").args(asked), ANSWER).is_ok()
}

/// Builds `multidc-local/<program>:<version>` from a binary; once per version.
fn build(kind: Kind, dir: &Path) -> Result<Image> {
    let server = super::acquire_without_docker(kind, dir)?;
    let name = format!("multidc-local/{}:{}", kind.program(), server.version);
    let origin = format!("built from {} ({})", server.path.display(), server.origin);
    if is_here(&name) {
        return Ok(Image { name, origin });
    }
    std::fs::create_dir_all(dir)?;
    let context = tempfile::tempdir_in(dir)?;
    let root = context.path().join("root");
    place(&server.path, &root, Path::new(inside(kind)))?;
    for library in libraries(&server.path)? {
        place(&library, &root, &library)?;
    }
    let dockerfile =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/docker").join(format!("{}.Dockerfile", kind.program()));
    let mut build = process::command("docker");
    build.args(["build", "--quiet", "--tag", &name, "--file"]).arg(dockerfile).arg(context.path());
    process::output(&mut build, PULL)?;
    Ok(Image { name, origin })
}

/// Copies `from`, links followed, to `to` under `root`.
fn place(from: &Path, root: &Path, to: &Path) -> Result<()> {
    let to = root.join(to.strip_prefix("/").unwrap_or(to));
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::copy(from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The shared libraries and the loader that a binary needs; none if it is static.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    match process::output(process::command("ldd").arg(binary), ANSWER) {
        Ok(told) => libraries_in(&told),
        Err(error) if error.to_string().contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads `name => /path (0x..)` and `/path (0x..)`; the kernel's own page has no path.
fn libraries_in(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in ldd.lines().map(str::trim).filter(|line| !line.contains("statically linked")) {
        let place = line.split_once("=>").map_or(line, |(_, place)| place.trim());
        if place.starts_with("not found") {
            bail!("a library is missing on this machine: {line}");
        }
        if place.starts_with('/') {
            paths.extend(place.split_whitespace().next().map(PathBuf::from));
        }
    }
    Ok(paths)
}

/// The binary out of the user's or the pinned image.
pub(super) fn extract_server(kind: Kind, dir: &Path) -> Result<Server> {
    engine()?;
    let image = official(kind)?;
    extract(kind, &image, dir)
}

/// The binary out of `image`, so that tests that kill and freeze servers use the same one.
pub(crate) fn extract(kind: Kind, image: &Image, dir: &Path) -> Result<Server> {
    std::fs::create_dir_all(dir)?;
    let scratch = tempfile::tempdir_in(dir)?;
    let copy = scratch.path().join(kind.program());
    let container = process::output(process::command("docker").args(["create", &image.name]), ANSWER)?;
    let container = container.trim();
    let copied = process::output(
        process::command("docker").args(["cp", &format!("{container}:{}", inside(kind))]).arg(&copy),
        ANSWER,
    );
    let removed = process::output(process::command("docker").args(["rm", container]), ANSWER);
    copied.with_context(|| format!("{} has no {}", image.name, inside(kind)))?;
    removed?;
    super::keep(kind, &copy, dir, &format!("from image {}", image.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_names_is_what_an_image_needs() {
        let told = "\tlinux-vdso.so.1 (0x00007fc4)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fc)\n";
        assert_eq!(
            libraries_in(told).expect("readable"),
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(libraries_in("\tlibzz.so => not found\n").is_err(), "an image without it would not start");
        assert!(libraries_in("\tstatically linked\n").expect("readable").is_empty());
    }

    #[test]
    fn the_compose_file_has_the_same_pins() {
        let compose = include_str!("../../../tests/docker/compose.yaml");
        for kind in [Kind::Nats, Kind::Etcd] {
            let wanted = format!("image: ${{{}:-{}}}", variable(kind), pinned(kind));
            assert!(compose.contains(&wanted), "{wanted} is not in compose.yaml");
        }
    }
}
