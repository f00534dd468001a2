//! The syntax of SPIFFE IDs and trust domain names (SPIFFE ID, section 2).

/// The longest SPIFFE ID, in bytes (SPIFFE ID, section 2.4).
const MAX_SPIFFE_ID_LEN: usize = 2048;
/// The longest name of a trust domain, in bytes (SPIFFE ID, section 2.4).
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// The trust domain of a workload's SPIFFE ID, such as "example.org" of "spiffe://example.org/agent"; `None`
/// if `id` is not a SPIFFE ID with a path.
pub fn workload_trust_domain(id: &str) -> Option<&str> {
    if id.len() > MAX_SPIFFE_ID_LEN {
        return None;
    }
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let is_valid_segment = |text: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !matches!(text, "" | "." | "..") && text.bytes().all(is_allowed)
    };
    (is_trust_domain(domain) && path.split('/').all(is_valid_segment)).then_some(domain)
}

/// The name of the agent in the SPIFFE ID of an agent of a hostbadge host
/// (`spiffe://DOMAIN/host/HOST[/tenant/TENANT]/agent/NAME`), which has slashes where it is a sub-agent's; `None` for
/// other IDs.
pub fn agent_of_id(id: &str) -> Option<&str> {
    let (_, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let (_host, rest) = path.strip_prefix("host/")?.split_once('/')?;
    let rest = match rest.strip_prefix("tenant/") {
        Some(rest) => rest.split_once('/')?.1,
        None => rest,
    };
    rest.strip_prefix("agent/").filter(|name| !name.is_empty())
}

/// Whether `text` is the name of a trust domain: 1 to 255 lower-case letters, digits, dots, hyphens and
/// underscores.
pub fn is_trust_domain(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_TRUST_DOMAIN_LEN).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_what_follows_host_and_tenant() {
        for (path, expected) in [
            ("host/h/agent/a", Some("a")),
            ("host/h/tenant/t/agent/a", Some("a")),
            ("host/h/tenant/agent/agent/a/sub/agent/sub/b", Some("a/sub/agent/sub/b")),
            ("host/agent/agent/a", Some("a")),
            ("host/h/agent/", None),
            ("host/h/tenant/t", None),
            ("agent/a", None),
            ("x/h/agent/a", None),
        ] {
            assert_eq!(agent_of_id(&format!("spiffe://example.org/{path}")), expected, "{path}");
        }
        assert_eq!(agent_of_id("https://example.org/host/h/agent/a"), None);
    }

    #[test]
    fn spiffe_id_syntax_is_checked() {
        for good in ["spiffe://example.org/a/b", "spiffe://a/B", "spiffe://a_b-c.d/e..f/-/_"] {
            assert!(workload_trust_domain(good).is_some(), "{good}");
        }
        for bad in [
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///a",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%41",
            "https://a/b",
            "",
        ] {
            assert!(workload_trust_domain(bad).is_none(), "{bad}");
        }
        assert!(workload_trust_domain(&format!("spiffe://a/{}", "b".repeat(2037))).is_some());
        assert!(workload_trust_domain(&format!("spiffe://a/{}", "b".repeat(2038))).is_none());
    }
}
