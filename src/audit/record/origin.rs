//! The members of a record that say when and where it was made, and for which request.

use std::io::Write;
use std::sync::OnceLock;

use crate::clock::{ClockQuality, ClockSync};
use crate::correlation::RequestContext;
use crate::peer::boot_id;

/// Appends the boot, the time since then, and how much the time of day can be believed: `clock` unless it is
/// synchronized, and the bound of its error where that is known.
pub(super) fn append_clock(text: &mut Vec<u8>, clock: ClockQuality) {
    text.extend_from_slice(boot_member());
    // Writing to a Vec cannot fail.
    let _ = write!(text, "\"monotonic_us\":{},", clock.boot_time.as_micros());
    if clock.sync != ClockSync::Synchronized {
        let _ = write!(text, "\"clock\":\"{}\",", clock.sync);
    }
    if let Some(error) = clock.max_error {
        let _ = write!(text, "\"clock_error_us\":{},", error.as_micros());
    }
}

/// Appends the correlation id and what was called, neither of which has a character to escape.
pub(super) fn append_request(text: &mut Vec<u8>, request: &RequestContext) {
    text.extend_from_slice(b"\"correlation_id\":\"");
    request.correlation.trace_id().append_to(text);
    if let Some(span_id) = request.correlation.span_id() {
        text.extend_from_slice(b"\",\"span_id\":\"");
        span_id.append_to(text);
    }
    for part in ["\",\"request\":\"", request.verb, " ", request.path, "\","] {
        text.extend_from_slice(part.as_bytes());
    }
}

/// The member with the boot, which is the same for all records of a process.
fn boot_member() -> &'static [u8] {
    static MEMBER: OnceLock<Vec<u8>> = OnceLock::new();
    MEMBER.get_or_init(|| {
        let id = boot_id();
        // A file that has something else is not what the kernel wrote.
        let is_id = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_id { format!("\"boot_id\":\"{id}\",").into_bytes() } else { Vec::new() }
    })
}
