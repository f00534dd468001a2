//! The correlation id of a request: that of the caller's trace (W3C Trace Context), or one made here.
//!
//! A request runs within [`scope`], and what records it asks [`current`], so that the id need not pass through each
//! function between the socket and the audit log.

use std::fmt;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The header with a caller's trace, and that of the reply (W3C Trace Context, sections 3.2 and 3.4).
pub const TRACEPARENT: &str = "traceparent";
/// The header of a reply with the ids of its request.
pub const TRACERESPONSE: &str = "traceresponse";
/// Length of version 00 of both headers.
const HEADER_LEN: usize = 55;

/// What identifies a request in records and for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correlation {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_from_caller: bool,
}

impl Correlation {
    /// The caller's trace where it sent exactly one valid `traceparent`, else a new one. The id of the request within
    /// the trace is always new.
    pub fn of_request<'a>(traceparents: impl IntoIterator<Item = &'a [u8]>) -> Correlation {
        let mut traceparents = traceparents.into_iter();
        let given = match (traceparents.next(), traceparents.next()) {
            (Some(only), None) => trace_id(only),
            _ => None,
        };
        let made = new_id();
        // Of a trace that is made here, the request has the end.
        let [_, _, _, _, _, _, _, _, span_id @ ..] = made;
        Correlation { trace_id: given.unwrap_or(made), span_id, is_from_caller: given.is_some() }
    }

    /// The id that records have: 32 lower-case hexadecimal digits.
    pub fn trace_id(&self) -> HexId<'_> {
        HexId(&self.trace_id)
    }

    /// The id of this request within a trace of its caller: 16 digits. `None` where the trace was made here and has
    /// no other request.
    pub fn span_id(&self) -> Option<HexId<'_>> {
        self.is_from_caller.then_some(HexId(&self.span_id))
    }

    /// The value of the reply's header `traceresponse`: version 00, both ids, not sampled.
    pub fn traceresponse(&self) -> String {
        format!("00-{}-{}-00", self.trace_id(), HexId(&self.span_id))
    }
}

/// An id in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct HexId<'a>(&'a [u8]);

impl HexId<'_> {
    /// Appends the digits, without an allocation.
    pub fn append_to(self, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.resize(start + 2 * self.0.len(), 0);
        HEXLOWER.encode_mut(self.0, &mut buffer[start..]);
    }
}

impl fmt::Display for HexId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(self.0).fmt(f)
    }
}

/// A request: what was called, and its correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// The method of HTTP, or `gRPC`.
    pub verb: &'static str,
    /// The path of the route, which has no part that a caller determines; for gRPC the name of the method.
    pub path: &'static str,
    /// Its ids.
    pub correlation: Correlation,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// Runs `work` as the request `context`.
pub fn scope<F: Future>(context: RequestContext, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, work)
}

/// Runs a step of a request that is continued by several calls, such as a stream.
pub fn within<T>(context: Option<RequestContext>, step: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, step),
        None => step(),
    }
}

/// The request that this task serves; `None` for work of the daemon itself.
pub fn current() -> Option<RequestContext> {
    CURRENT.try_with(|context| *context).ok()
}

/// The trace id of a `traceparent`. `None` where any part of it is not as the standard says.
fn trace_id(header: &[u8]) -> Option<[u8; 16]> {
    let (fields, rest) = header.split_at_checked(HEADER_LEN)?;
    let &[a, b, b'-', ref ids @ .., b'-', c, d] = fields else { return None };
    let (trace, parent) = ids.split_at_checked(32)?;
    let parent = parent.strip_prefix(b"-")?;
    let is_hex = |text: &[u8]| text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let is_id = |text: &[u8]| is_hex(text) && text.iter().any(|b| *b != b'0');
    let is_version = match &[a, b] {
        b"00" => rest.is_empty(),
        b"ff" => false,
        // A later version may have further fields.
        version => is_hex(version) && (rest.is_empty() || rest.starts_with(b"-")),
    };
    if !is_version || !is_id(trace) || !is_id(parent) || !is_hex(&[c, d]) {
        return None;
    }
    let mut id = [0; 16];
    HEXLOWER_PERMISSIVE.decode_mut(trace, &mut id).ok()?;
    Some(id)
}

/// An id that this process gives once. Without the process's key it says neither how many there are nor which were
/// given before, so that no caller learns from its own ids how many requests others make.
fn new_id() -> [u8; 16] {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = KEY.get_or_init(|| {
        let mut random = [0; 32];
        // Without random numbers nothing is issued; ids are then those of a known key.
        let _ = SystemRandom::new().fill(&mut random);
        hmac::Key::new(hmac::HMAC_SHA256, &random)
    });
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let tag = hmac::sign(key, &count.to_be_bytes());
    let mut id = [0; 16];
    id.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    // Neither id may be zero.
    if id[8..] == [0; 8] {
        id[15] = 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn of(headers: &[&str]) -> Correlation {
        Correlation::of_request(headers.iter().map(|header| header.as_bytes()))
    }

    #[test]
    fn a_valid_traceparent_gives_its_trace() {
        let later = format!("cc-{TRACE}-b7ad6b7169203331-01-what-the-future-will-be-like");
        for header in [
            format!("00-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-ff"),
            format!("cc-{TRACE}-b7ad6b7169203331-01"),
            later,
        ] {
            let correlation = of(&[&header]);
            assert_eq!(correlation.trace_id().to_string(), TRACE, "{header}");
            let span = correlation.span_id().unwrap().to_string();
            assert_eq!(span.len(), 16);
            assert_eq!(correlation.traceresponse(), format!("00-{TRACE}-{span}-00"));
        }
    }

    #[test]
    fn everything_else_gives_a_new_id() {
        let valid = format!("00-{TRACE}-b7ad6b7169203331-01");
        let zeros = "0".repeat(32);
        let hostile = [
            String::new(),
            valid.to_uppercase(),
            format!("{valid} "),
            format!("{valid}-00"),
            format!("{valid}\n"),
            valid[..54].to_owned(),
            valid.replace("00-0af", "ff-0af"),
            valid.replace("00-0af", "0g-0af"),
            valid.replace(TRACE, &zeros),
            valid.replace("b7ad6b7169203331", "0000000000000000"),
            valid.replace('-', "_"),
            valid.replace("-01", "-0x"),
            valid.replace("af", "\u{e4}"),
            format!("cc-{TRACE}-b7ad6b7169203331-01.x"),
            "0".repeat(55),
            "-".repeat(55),
            "x".repeat(8000),
            format!("00-{}-b7ad6b7169203331-01", "\u{1b}[2J".repeat(8)),
        ];
        for header in &hostile {
            let correlation = of(&[header]);
            assert_eq!(correlation.span_id().map(|span| span.to_string()), None, "{header:?}");
            assert_eq!(correlation.trace_id().to_string().len(), 32);
        }
        assert_eq!(of(&[&valid, &valid]).span_id().map(|span| span.to_string()), None, "two headers");
        assert_eq!(of(&[]).span_id().map(|span| span.to_string()), None);
    }

    #[test]
    fn made_ids_differ_and_are_answered() {
        let (one, other) = (of(&[]), of(&[]));
        assert_ne!(one, other);
        let response = one.traceresponse();
        assert_eq!(response.len(), HEADER_LEN);
        assert!(response.starts_with(&format!("00-{}-", one.trace_id())));
        assert!(response.ends_with(&format!("{}-00", &one.trace_id().to_string()[16..])));
        let mut text = Vec::new();
        one.trace_id().append_to(&mut text);
        assert_eq!(text, one.trace_id().to_string().as_bytes());
    }

    /// The numbers that the halves of ids are do not tell how many ids were made between two of them.
    #[test]
    fn made_ids_do_not_count_requests() {
        let ids: Vec<[u64; 2]> = (0..64)
            .map(|_| {
                let id = u128::from_be_bytes(of(&[]).trace_id);
                [(id >> 64) as u64, id as u64]
            })
            .collect();
        for half in [0, 1] {
            let steps: std::collections::HashSet<u64> =
                ids.windows(2).map(|pair| pair[1][half].wrapping_sub(pair[0][half])).collect();
            assert_eq!(steps.len(), 63, "half {half} is a counter");
        }
        let header = format!("00-{TRACE}-b7ad6b7169203331-01");
        let spans: Vec<u64> = (0..3).map(|_| u64::from_be_bytes(of(&[&header]).span_id)).collect();
        assert_ne!(spans[1].wrapping_sub(spans[0]), spans[2].wrapping_sub(spans[1]));
    }

    #[tokio::test]
    async fn a_request_has_its_context_and_nothing_else_has_one() {
        assert_eq!(current(), None);
        let context = RequestContext { verb: "POST", path: "/v1/token", correlation: of(&[]) };
        assert_eq!(scope(context, async { current() }).await, Some(context));
        assert_eq!(within(Some(context), current), Some(context));
        assert_eq!(within(None, current), None);
        assert_eq!(current(), None);
    }
}
