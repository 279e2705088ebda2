//! Each example runs and says what its text claims.

use std::process::Command;

#[test]
fn two_datacenters_spawns_tells_asks_and_finds() {
    let output = Command::new(env!("CARGO_BIN_EXE_two-datacenters")).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("of dc-2) has analysed [7, 8]"), "{text}");
    assert!(text.contains("found in dc-2: [7, 8]"), "{text}");
}
