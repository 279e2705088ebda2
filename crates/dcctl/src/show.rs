//! Tables for people, JSON for programs.

use multidc::{DataCenterRecord, HeldIntent, Listing, Removal, WatchEvent};
use serde_json::{Value, json};

pub(crate) fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn record_json(record: &DataCenterRecord, intent: Option<&HeldIntent>) -> Value {
    json!({
        "id": record.id().as_str(),
        "name": record.data_center.name(),
        "region": record.data_center.region(),
        "zone": record.data_center.zone(),
        "labels": record.data_center.labels(),
        "state": record.state.as_str(),
        "intent": intent.map(intent_json),
        "endpoints": record.endpoints.iter().map(|e| json!({"node": e.node.to_string(), "endpoint": e.endpoint.to_string(), "weight": e.weight})).collect::<Vec<_>>(),
        "ttl_ms": u64::try_from(record.ttl.as_millis()).unwrap_or(u64::MAX),
        "owner": {"node": record.owner.node.to_string(), "endpoint": record.owner.endpoint.to_string()},
        "epoch": record.epoch.0,
        "handed_over": record.handed_over,
        "version": record.version.revision,
        "written_at_ms": record.written_at_ms,
    })
}

fn intent_json(held: &HeldIntent) -> Value {
    let intent = &held.intent;
    json!({"id": held.id.as_str(), "want": intent.want.as_str(), "by": intent.by, "why": intent.why, "at_ms": intent.at_ms})
}

/// Columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

pub(crate) fn list(listing: &Listing, as_json: bool) -> anyhow::Result<()> {
    let intent = |record: &DataCenterRecord| listing.intents.iter().find(|held| held.id == *record.id());
    let mut records: Vec<_> = listing.records.iter().collect();
    records.sort_by_key(|record| record.id().clone());
    let without: Vec<_> =
        listing.intents.iter().filter(|held| !records.iter().any(|record| *record.id() == held.id)).collect();
    if as_json {
        let records: Vec<Value> = records.iter().map(|record| record_json(record, intent(record))).collect();
        let without: Vec<Value> = without.iter().map(|held| intent_json(held)).collect();
        let document =
            json!({"as_of": listing.as_of.revision, "data_centers": records, "intents_without_record": without});
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    let head = ["ID", "STATE", "INTENT", "NODES", "EPOCH", "LEASE", "OWNER", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for record in records {
        let held = intent(record);
        rows.push(vec![
            record.id().to_string(),
            record.state.to_string(),
            held.map_or("serve".to_owned(), |held| held.intent.want.to_string()),
            record.endpoints.len().to_string(),
            record.epoch.to_string(),
            format!("{:?}", record.ttl),
            record.owner.endpoint.to_string(),
            held.map_or(String::new(), why),
        ]);
    }
    table(&rows);
    for held in without {
        println!("{}: no record; intent {} {}", held.id, held.intent.want, why(held));
    }
    Ok(())
}

fn why(held: &HeldIntent) -> String {
    match (held.intent.by.as_str(), held.intent.why.as_str()) {
        ("", why) => why.to_owned(),
        (by, "") => format!("(by {by})"),
        (by, why) => format!("{why} (by {by})"),
    }
}

pub(crate) fn record(record: &DataCenterRecord, intent: Option<&HeldIntent>, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(&record_json(record, intent))?);
        return Ok(());
    }
    let dc = &record.data_center;
    let labels: Vec<String> = dc.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut rows = vec![
        vec!["id".to_owned(), record.id().to_string()],
        vec!["name".to_owned(), dc.name().to_owned()],
        vec!["region".to_owned(), dc.region().unwrap_or("-").to_owned()],
        vec!["zone".to_owned(), dc.zone().unwrap_or("-").to_owned()],
        vec!["labels".to_owned(), or_none(&labels.join(" ")).to_owned()],
        vec!["state".to_owned(), record.state.to_string()],
        vec!["intent".to_owned(), intent.map_or("serve".to_owned(), |h| format!("{} {}", h.intent.want, why(h)))],
        vec!["lease".to_owned(), format!("{:?}", record.ttl)],
        vec!["owner".to_owned(), format!("{} at {}", record.owner.node, record.owner.endpoint)],
        vec!["epoch".to_owned(), record.epoch.to_string()],
        vec!["version".to_owned(), record.version.to_string()],
    ];
    rows.extend(record.endpoints.iter().map(|e| vec!["node".to_owned(), format!("{} at {}", e.node, e.endpoint)]));
    table(&rows);
    Ok(())
}

pub(crate) fn intent(held: &HeldIntent, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(&intent_json(held))?);
    } else {
        println!("{}: intent is {} now {}", held.id, held.intent.want, why(held));
    }
    Ok(())
}

pub(crate) fn event(event: &WatchEvent, as_json: bool) -> anyhow::Result<()> {
    let (document, line) = match event {
        WatchEvent::Put(record) => (
            json!({"event": "put", "record": record_json(record, None)}),
            format!("{}: {} epoch {}, {} nodes", record.id(), record.state, record.epoch, record.endpoints.len()),
        ),
        WatchEvent::Removed { id, why, .. } => {
            let why = match why {
                Removal::Expired => "expired",
                Removal::Deregistered => "deregistered",
                Removal::Unknown => "removed",
            };
            (json!({"event": "removed", "id": id.as_str(), "why": why}), format!("{id}: {why}"))
        }
        WatchEvent::Intent(held) => (
            json!({"event": "intent", "intent": intent_json(held)}),
            format!("{}: intent {} {}", held.id, held.intent.want, why(held)),
        ),
        WatchEvent::ReplayDone { as_of } => (
            json!({"event": "replay_done", "as_of": as_of.revision}),
            format!("-- that is all as of {as_of}; watching"),
        ),
        WatchEvent::Skipped(corrupt) => {
            (json!({"event": "skipped", "key": corrupt.key, "why": corrupt.why}), format!("skipped {corrupt}"))
        }
        // A proof of contact is of no interest here.
        _ => return Ok(()),
    };
    if as_json {
        println!("{}", serde_json::to_string(&document)?);
    } else {
        println!("{line}");
    }
    Ok(())
}

/// What changed between two lists; against nothing, everything is new.
pub(crate) fn differences(before: Option<&Listing>, now: &Listing) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    let old = before.map(|listing| &listing.records[..]).unwrap_or_default();
    for record in &now.records {
        let known = old.iter().find(|old| old.id() == record.id());
        if known.is_none_or(|known| !known.same_content(record)) {
            events.push(WatchEvent::Put(record.clone()));
        }
    }
    for gone in old.iter().filter(|old| !now.records.iter().any(|record| record.id() == old.id())) {
        events.push(WatchEvent::Removed { id: gone.id().clone(), version: now.as_of, why: Removal::Unknown });
    }
    let old = before.map(|listing| &listing.intents[..]).unwrap_or_default();
    let new = now.intents.iter().filter(|held| !old.contains(held));
    events.extend(new.cloned().map(WatchEvent::Intent));
    let skipped = now.skipped.iter().filter(|c| before.is_none_or(|listing| !listing.skipped.contains(c)));
    events.extend(skipped.cloned().map(WatchEvent::Skipped));
    events
}
