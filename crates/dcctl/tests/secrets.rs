//! What the program prints shows no secret of the control plane's URL, wherever the URL was given.

use std::process::{Command, Output};

fn dcctl(args: &[&str], url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dcctl")).args(args).env("MULTIDC_CONTROL_PLANE", url).output().expect("it runs")
}

fn all(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn p13_help_and_mistakes_show_nothing_of_the_urls_secret() {
    let urls = ["nats://ann:s3cret@127.0.0.1:1", "tls://s3cret@127.0.0.1:1", "etcds://ann:s3cret@127.0.0.1:1"];
    let commands: [&[&str]; 12] = [
        &["--help"],
        &["-h"],
        &["help"],
        &[],
        &["dc", "--help"],
        &["dc", "list", "--help"],
        &["help", "dc", "get"],
        &["dc", "intent", "set", "--help"],
        &["certs", "--help"],
        &["--version"],
        &["dc", "nonsense"],
        &["dc", "list", "--timeout", "many"],
    ];
    for url in urls {
        for args in commands {
            let shown = all(&dcctl(args, url));
            assert!(!shown.is_empty() && !shown.contains("s3cret"), "{args:?}: {shown}");
        }
    }
    let help = all(&dcctl(&["--help"], urls[0]));
    assert!(help.contains("MULTIDC_CONTROL_PLANE"), "that it is read is told: {help}");
}

#[test]
fn p13_a_url_that_is_refused_or_not_reached_is_shown_without_its_secret() {
    let urls = [
        "nats://ann:s3cret@127.0.0.1:1/x",
        "nats://ann:s3cret,more@127.0.0.1:1",
        "nats://ann:1234,s3cret@127.0.0.1:1",
        "nats://ann:pass?s3cret=1@127.0.0.1:1",
        "nats://127.0.0.1:1?token=s3cret",
        "etcds://s3cret@127.0.0.1:1",
        "etcd://ann:s3cret%zz@127.0.0.1:1",
        "redis://ann:s3cret@127.0.0.1",
        "nats://ann:s3cret@127.0.0.1:1?request_timeout=200ms&require_at_start=true",
        "etcd://ann:s3cret@127.0.0.1:1?request_timeout=200ms&require_at_start=true",
    ];
    for url in urls {
        let output = dcctl(&["dc", "list", "--timeout", "5"], url);
        let shown = all(&output);
        assert!(!output.status.success() && shown.contains("control plane"), "{url}: {shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("ann"), "{url}: {shown}");
    }
}
