//! The keys of the configuration file.

use super::anomaly::AnomalySection;
use super::approvals::ApprovalsSection;
use super::schema::{Key, Kind};

const SECONDS: Kind = Kind::Duration("\"5s\"");
const DAYS: Kind = Kind::Duration("\"30d\"");
const RATE: Kind = Kind::Integer(u32::MAX);

/// The keys of the file; a test compares them with the types that it is read into.
pub(super) const KEYS: &[Key] = &[
    Key::optional("trust_domain", Kind::Text("\"example.org\"")),
    Key::optional("issuer", Kind::Text("\"https://id.example.org\"")),
    Key::optional(
        "signals",
        Kind::Tables(&[
            Key::required("issuer", Kind::Text("\"https://idp.example.com\"")),
            Key::required("jwks", Kind::Text("\"/etc/hostbadge/idp-jwks.json\"")),
            Key::required("audience", Kind::Text("\"https://host.example.org\"")),
            Key::required("agents", Kind::TextList("[\"researcher\"]")),
        ]),
    ),
    Key::optional(
        "paths",
        Kind::Table(&[
            Key::optional("agents", Kind::Text("\"/etc/hostbadge/agents.d\"")),
            Key::optional("roles", Kind::Text("\"/etc/hostbadge/roles.d\"")),
            Key::optional("policies", Kind::Text("\"/etc/hostbadge/policies\"")),
            Key::optional("federation", Kind::Text("\"/etc/hostbadge/federation\"")),
            Key::optional("state", Kind::Text("\"/var/lib/hostbadge\"")),
            Key::optional("audit", Kind::Text("\"/var/log/hostbadge/audit\"")),
            Key::optional("run", Kind::Text("\"/run/hostbadge\"")),
        ]),
    ),
    Key::optional("agents", Kind::Table(&[Key::optional("require_owner", Kind::Boolean)])),
    Key::optional("change", Kind::Table(&[Key::optional("require", Kind::Choice(&["one", "two"]))])),
    Key::optional(
        "tpm",
        Kind::Table(&[
            Key::optional("tcti", Kind::Text("\"device:/dev/tpmrm0\"")),
            Key::optional("allow_emulator", Kind::Boolean),
            Key::optional("deadline", SECONDS),
            Key::optional("probe_every", SECONDS),
        ]),
    ),
    Key::optional(
        "keys",
        Kind::Table(&[
            Key::optional("risk", Kind::Choice(&["moderate", "high", "low"])),
            Key::optional("rotate_every", DAYS),
            Key::optional("publish_before", DAYS),
            Key::optional("rotate_encryption_every", DAYS),
            Key::optional("rotate_rsa_every", DAYS),
        ]),
    ),
    Key::optional(
        "tokens",
        Kind::Table(&[
            Key::optional("status_list", Kind::Boolean),
            Key::optional("status_list_ttl", Kind::Duration("\"5m\"")),
        ]),
    ),
    Key::optional("certificates", Kind::Table(&[Key::optional("ttl", Kind::Duration("\"1h\""))])),
    Key::optional("seal", Kind::Table(&[Key::optional("pcrs", Kind::ByteList("[0, 2, 4, 7]"))])),
    Key::optional(
        "limits",
        Kind::Table(&[
            Key::optional("rate", RATE),
            Key::optional("burst", RATE),
            Key::optional("unknown_rate", RATE),
            Key::optional("unknown_burst", RATE),
            Key::optional("public_rate", RATE),
            Key::optional("public_burst", RATE),
            Key::optional("tpm_rate", RATE),
            Key::optional("tpm_burst", RATE),
            Key::optional("connections", RATE),
            Key::optional("connections_per_uid", RATE),
        ]),
    ),
    Key::optional(
        "policy",
        Kind::Table(&[
            Key::optional("timezone", Kind::Text("\"Europe/Berlin\"")),
            Key::optional("require_permit", Kind::Boolean),
        ]),
    ),
    Key::optional(
        "posture",
        Kind::Table(&[
            Key::optional("mode", Kind::Choice(&["off", "warn", "enforce"])),
            Key::optional("pcrs", Kind::ByteList("[0, 2, 4, 7]")),
            Key::optional("max_age", SECONDS),
            Key::optional("every", SECONDS),
        ]),
    ),
    Key::optional("anomaly", Kind::Table(AnomalySection::KEYS)),
    Key::optional("approvals", Kind::Table(ApprovalsSection::KEYS)),
    Key::optional(
        "log",
        Kind::Table(&[
            Key::optional("to", Kind::Choice(&["auto", "journal", "stderr"])),
            Key::optional("level", Kind::Choice(&["error", "warn", "info", "debug"])),
        ]),
    ),
    Key::optional(
        "audit",
        Kind::Table(&[
            Key::optional(
                "keep",
                Kind::Table(&[
                    Key::optional("size", Kind::Text("\"8GiB\"")),
                    Key::optional("age", Kind::Duration("\"90d\"")),
                ]),
            ),
            Key::optional("compress", Kind::Boolean),
            Key::optional("sync", Kind::Choice(&["interval", "always"])),
            Key::optional("checkpoints", Kind::Boolean),
            Key::optional("checkpoint_every", Kind::Duration("\"1h\"")),
            Key::optional("checkpoint_records", RATE),
        ]),
    ),
    Key::optional(
        "tenant",
        Kind::NamedTables(&[
            Key::optional("rate", RATE),
            Key::optional("burst", RATE),
            Key::optional("live_tokens", RATE),
            Key::optional("credentials", RATE),
            Key::optional("certificates", RATE),
        ]),
    ),
    Key::optional(
        "metrics",
        Kind::Table(&[
            Key::optional("agents", RATE),
            Key::optional("group", Kind::Text("\"hostbadge-metrics\"")),
        ]),
    ),
    Key::optional("clock", Kind::Table(&[Key::optional("require_synchronized", Kind::Boolean)])),
    Key::optional("admin", Kind::Table(&[Key::optional("group", Kind::Text("\"hostbadge-admin\""))])),
];
