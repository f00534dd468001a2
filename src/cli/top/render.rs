//! The lines of the view, none wider than the terminal.

use super::quantile::format_duration;
use super::view::View;
use crate::config::escape_unprintable;
use crate::plural::counted;
use std::time::Duration;

/// Alerts that are shown where the height is limited.
const MAX_ALERTS: usize = 5;
/// Lines of an alert.
const MAX_ALERT_LINES: usize = 2;
/// Kinds of requests that are shown where the height is limited.
const MAX_REQUESTS: usize = 6;
/// Width of the names of requests, and of agents.
const REQUEST_WIDTH: usize = 20;
const AGENT_WIDTH: usize = 36;

/// The lines, at most `height`, each at most `width` columns wide. The agents have what the others leave.
pub(super) fn render(view: &View, width: usize, height: Option<usize>) -> Vec<String> {
    let mut lines = head(view);
    lines.push(String::new());
    lines.extend(requests(view, height));
    let alerts = alerts(view, width, height);
    // An empty line and the heading.
    let room = height.map_or(usize::MAX, |height| height.saturating_sub(lines.len() + alerts.len() + 2));
    lines.push(String::new());
    lines.extend(agents(view, room));
    lines.extend(alerts);
    lines.truncate(height.unwrap_or(usize::MAX));
    lines.iter().map(|line| fit(line, width)).collect()
}

/// The lines in place of a view.
pub(super) fn render_problem(problem: &str, width: usize) -> Vec<String> {
    let mut lines = vec!["hostbadge top: no answer; trying again, q quits".to_owned(), String::new()];
    lines.extend(wrap(&narrow(problem), width, usize::MAX));
    lines.iter().map(|line| fit(line, width)).collect()
}

fn head(view: &View) -> Vec<String> {
    let (tpm, audit, process) = (&view.tpm, &view.audit, &view.process);
    let up = view.time.since(view.started);
    let host = view.host.as_deref().map_or("unknown", |host| host);
    let frozen = if view.frozen { "  FROZEN" } else { "" };
    let writable = if audit.writable { "" } else { "NOT WRITABLE  " };
    vec![
        format!("hostbadge {}  host {host}  up {}", view.version, format_age(up)),
        format!(
            "{}  over {}  health {}{frozen}",
            view.time.to_rfc3339_seconds(),
            format_age(Duration::from_secs_f64(view.interval_seconds.max(0.0)).max(Duration::from_secs(1))),
            view.health
        ),
        format!(
            "posture {}  clock {}  agents {}  live tokens {}",
            view.posture,
            view.clock,
            format_count(view.registered_agents),
            format_count(view.live_tokens)
        ),
        format!(
            "requests  granted {}/s  refused {}/s  failed {}/s",
            format_rate(view.granted_per_second),
            format_rate(view.refused_per_second),
            format_rate(view.failed_per_second)
        ),
        format!(
            "TPM       {}  {}/s  p50 {}  p99 {}  queue {} {}  faults {}",
            tpm.state,
            format_rate(tpm.requests_per_second),
            format_bound(tpm.p50_seconds),
            format_bound(tpm.p99_seconds),
            format_count(tpm.queue_length + tpm.waiting_signatures),
            format_bound(tpm.wait_p99_seconds),
            format_count(tpm.faults)
        ),
        format!(
            "audit     {writable}{}/s  lag {}  write {}  sync {}  drops {}",
            format_rate(audit.records_per_second),
            format_count(audit.unsynced_records),
            format_bound(audit.write_p99_seconds),
            format_bound(audit.sync_p99_seconds),
            format_count(audit.dropped_journal_entries)
        ),
        format!(
            "process   {:.1} MiB  CPU {:.1} %  {}  {}",
            process.resident_bytes as f64 / f64::from(1 << 20),
            process.cpu * 100.0,
            counted(process.open_fds, "descriptor"),
            counted(process.connections, "connection")
        ),
    ]
}

fn requests(view: &View, height: Option<usize>) -> Vec<String> {
    let mut lines = vec![format!(
        "{:REQUEST_WIDTH$} {:>9} {:>9} {:>6} {:>6}  {}",
        "REQUEST", "GRANTED/s", "REFUSED/s", "P50", "P99", "MOST REFUSED"
    )];
    let shown = view.requests.iter().take(height.map_or(usize::MAX, |_| MAX_REQUESTS));
    lines.extend(shown.map(|row| {
        format!(
            "{:REQUEST_WIDTH$} {:>9} {:>9} {:>6} {:>6}  {}",
            narrow(&row.request),
            format_rate(row.granted_per_second),
            format_rate(row.refused_per_second),
            format_bound(row.p50_seconds),
            format_bound(row.p99_seconds),
            narrow(row.most_refused.as_deref().unwrap_or_default())
        )
    }));
    if view.requests.is_empty() {
        lines.push("none since the start of the daemon".to_owned());
    }
    lines
}

/// The agents, in at most `room` lines.
fn agents(view: &View, room: usize) -> Vec<String> {
    let mut lines = vec![format!(
        "{:AGENT_WIDTH$} {:>9} {:>9} {:>7}  {}",
        "AGENT", "GRANTED/s", "REFUSED/s", "TOKENS", "LAST SEEN"
    )];
    let shown = match view.agents.len() {
        all if all <= room => all,
        _ => room.saturating_sub(1),
    };
    lines.extend(view.agents.iter().take(shown).map(|row| {
        let age = (view.time.as_secs_f64() - row.last_seen).max(0.0);
        let age = Duration::try_from_secs_f64(age).unwrap_or_default();
        format!(
            "{:AGENT_WIDTH$} {:>9} {:>9} {:>7}  {} ago",
            shorten(&narrow(&row.agent), AGENT_WIDTH),
            format_rate(row.granted_per_second),
            format_rate(row.refused_per_second),
            format_count(row.live_tokens),
            format_age(age)
        )
    }));
    let more = view.agents.len() - shown;
    if more > 0 {
        lines.push(format!("{more} more"));
    }
    if view.agents.is_empty() {
        lines.push("none was seen".to_owned());
    }
    lines
}

fn alerts(view: &View, width: usize, height: Option<usize>) -> Vec<String> {
    if view.alerts.is_empty() {
        return Vec::new();
    }
    let (max_alerts, max_lines) = match height {
        Some(_) => (MAX_ALERTS, MAX_ALERT_LINES),
        None => (usize::MAX, usize::MAX),
    };
    let mut lines = vec![String::new(), format!("ALERTS: {}", view.alerts.len())];
    for alert in view.alerts.iter().take(max_alerts) {
        lines.extend(wrap(&format!("! {}", narrow(alert)), width, max_lines));
    }
    lines
}

/// The text with each character that may not be one column wide replaced: control characters, those that combine or
/// change the order, and those of scripts with wide characters.
fn narrow(text: &str) -> String {
    let mut narrow = String::with_capacity(text.len());
    for character in escape_unprintable(text).chars() {
        match character {
            ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{2ff}' | '…' => narrow.push(character),
            other => narrow.extend(other.escape_unicode()),
        }
    }
    narrow
}

/// The text in lines of at most `width` columns, at most `max_lines`; the last one ends in `…` if there are more.
fn wrap(text: &str, width: usize, max_lines: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let length = line.chars().count();
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            line.push_str(if length > 0 { " " } else { "" });
            line.push_str(word);
        }
    }
    if lines.len() > max_lines {
        lines.truncate(max_lines);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    lines
}

/// The text cut to so many columns, with `…` in place of what is cut away.
fn shorten(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A line that is no wider than the terminal. Each character of it is one column wide.
fn fit(line: &str, width: usize) -> String {
    shorten(line, width).trim_end().to_owned()
}

fn format_rate(rate: f64) -> String {
    match rate {
        rate if rate >= 100.0 => format!("{rate:.0}"),
        rate if rate >= 1.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}"),
    }
}

/// A number in at most six characters, up to a billion.
fn format_count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

fn format_bound(bound: Option<Duration>) -> String {
    bound.map_or_else(|| "-".to_owned(), format_duration)
}

/// A time span with at most two units.
fn format_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests;
